import { collectDefaultMetrics, Counter, Registry } from 'prom-client';

export type DoorsMetrics = ReturnType<typeof createDoorsMetrics>;

/** What the doors' server counts. Names carry their unit; labels come from closed lists. */
export function createDoorsMetrics() {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  const counter = <Label extends string>(name: string, help: string, labelNames: Label[]) =>
    new Counter({ name: `longhaul_doors_${name}`, help, labelNames, registers: [registry] });
  return {
    registry,
    requests: counter('requests_total', 'Requests by door and status', ['door', 'status']),
    handshakesFailed: counter('handshakes_failed_total', 'TLS handshakes that failed or were cut off', ['reason']),
  };
}
