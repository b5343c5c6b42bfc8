import { randomUUIDv7 } from 'node:crypto';
import { insertCommands, type NewCommand } from '../db/commands.ts';
import { sendCommandId } from '../workflows/send-command.ts';
import type { LoadDevice } from './load/reports.ts';
import { interleave, rateRow } from './measure.ts';
import type { Rig } from './rig.ts';

const commandsPerDevice = 5;
const inFlight = 4;
const ms = 4_000;

export async function reports(rig: Rig) {
  const { load, bare, tls } = rig;
  const devices = await rig.devices(200);
  const executions = await sendEverybody(rig, devices);
  const broker = rig.server(await bare.run('startBroker', tls));
  await load.run('connectFleet', { fleet: 'gateway', server: rig.server(), devices, subscribe: false });
  await load.run('connectFleet', { fleet: 'broker', server: broker, devices, subscribe: false });
  const pairs = await interleave({
    rounds: 5,
    product: () => load.run('report', { fleet: 'gateway', executions, inFlight, ms }),
    baseline: () => load.run('report', { fleet: 'broker', executions, inFlight, ms }),
  });
  await load.run('disconnectFleet', { fleet: 'gateway' });
  await load.run('disconnectFleet', { fleet: 'broker' });
  return [rateRow('device reports, committed before the acknowledgement, 200 devices', pairs, { must: 0.4, aim: 0.7 })];
}

/** Commands that every device has been sent: the ids of its executions, by its name. */
async function sendEverybody({ db }: Rig, devices: LoadDevice[]): Promise<Record<string, string[]>> {
  const sent = Array.from({ length: commandsPerDevice }, () => commandFor(devices));
  await insertCommands(db, sent);
  const targets = sent.flatMap((command) => command.targets);
  const byName = Object.entries(Object.groupBy(targets, ({ name }) => name));
  return Object.fromEntries(byName.map(([name, own = []]) => [name, own.map(({ executionId }) => executionId)]));
}

function commandFor(devices: LoadDevice[]): NewCommand {
  const id = randomUUIDv7();
  return {
    id,
    actor: 'system/bench',
    payload: Buffer.from('{}'),
    format: 'json',
    contentType: 'application/json',
    timeoutSeconds: 3_600,
    workflow: { id: sendCommandId(id), name: 'sendCommand' },
    auditId: randomUUIDv7(),
    targets: devices.map(({ name }) => ({ name, executionId: randomUUIDv7(), transitionId: randomUUIDv7() })),
  };
}
