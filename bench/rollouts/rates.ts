import { interleave, rateRow, type Row } from '../measure.ts';
import { conduct, inFlightMax } from './conduct.ts';
import { nameOf, tlsOf, type RolloutRig } from './rig.ts';

const rounds = 3;
const ms = 4_000;

/** Devices per second through whole rollouts, beside what a bare broker answers. */
export async function rollouts(rig: RolloutRig): Promise<Row[]> {
  const count = rig.size(10_000);
  await rig.gather(count);
  const server = { ...rig.parts.plain, port: await rig.bare.run('startPlainBroker', undefined) };
  const members = Array.from({ length: count }, (_, index) => ({ name: nameOf(index) }));
  await rig.others.run('gather', { crowd: 'plain', server, members });
  const pairs = (reports: number) =>
    interleave({
      rounds,
      product: async () => count / (await conduct(rig, { behaviour: { reports } })).seconds,
      baseline: () => rig.others.run('ask', { crowd: 'plain', inFlight: Math.min(count, inFlightMax), ms }),
    });
  const many = `rollout, ${count} devices without TLS`;
  const rows = [
    rateRow(`${many}, three reports each`, await pairs(3), { must: 0.15, aim: 0.25 }),
    rateRow(`${many}, one report each`, await pairs(1), { must: 0.25, aim: 0.45 }),
  ];
  await rig.others.run('disperse', { crowd: 'plain' });
  return [...rows, await withTls(rig)];
}

async function withTls(rig: RolloutRig): Promise<Row> {
  const devices = await rig.devicesWithKeys(rig.size(1_000));
  const members = devices.map(({ name, ...credentials }) => ({ name, credentials }));
  const targets = { devices: devices.map(({ name }) => name) };
  const port = await rig.bare.run('startBroker', await tlsOf(rig));
  await rig.load.run('gather', { crowd: 'secure', server: rig.parts.secure, members });
  await rig.others.run('gather', { crowd: 'secure', server: { ...rig.parts.secure, port }, members });
  const pairs = await interleave({
    rounds,
    product: async () => {
      const { seconds } = await conduct(rig, { crowd: 'secure', targets, behaviour: { reports: 3 } });
      return devices.length / seconds;
    },
    baseline: () => rig.others.run('ask', { crowd: 'secure', inFlight: devices.length, ms }),
  });
  for (const load of [rig.load, rig.others]) await load.run('disperse', { crowd: 'secure' });
  return rateRow(`rollout, ${devices.length} devices with TLS, three reports each`, pairs);
}
