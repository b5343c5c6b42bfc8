import { deafWire, postgresWire, type Wire } from '../gateway/wire.ts';

/** Hints between the processes, by the configured way or by none. */
export const openWire = ({ wire, directUrl }: { wire: 'postgres' | 'none'; directUrl: string }): Promise<Wire> =>
  wire === 'none' ? Promise.resolve(deafWire()) : postgresWire({ directUrl });
