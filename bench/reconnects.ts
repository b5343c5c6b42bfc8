import { interleave, rateRow } from './measure.ts';
import type { Rig } from './rig.ts';

const atATime = 32;
const ms = 4_000;

export async function reconnects(rig: Rig) {
  const { load, bare } = rig;
  const devices = await rig.devices(200);
  const port = await bare.run('startTlsServer', rig.tls);
  const pairs = await interleave({
    rounds: 5,
    product: () => load.run('reconnect', { server: rig.server(), devices, atATime, ms }),
    baseline: () => load.run('reconnect', { server: rig.server(port), devices, atATime, ms }),
  });
  return [rateRow('mutual-TLS reconnects', pairs, { must: 0.7, aim: 0.9 })];
}
