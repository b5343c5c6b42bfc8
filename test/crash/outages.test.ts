import { setTimeout as pass } from 'node:timers/promises';
import { eq, inArray } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { claims, enrolments } from '../../db/enrolment-schema.ts';
import { certificates, commandTargets, commands } from '../../db/schema.ts';
import { ConnectionRefused } from '../../embedded/device-connection.ts';
import { eventually } from '../support/eventually.ts';
import { sendEcho, streamCommands } from './commands.ts';
import { createFleet, enrolOnly, type Fleet } from './devices.ts';
import { beatOf, bothJudge, connectAs, listDisconnected, listHolders } from './gateways.ts';
import { createReporter, expectRecordedOnce } from './reporter.ts';
import { startRig, type Rig } from './rig.ts';
import { allQuiet, expectNothingLostOrDoubled, listDoubles } from './verdicts.ts';

/** Longer ones by hand: LONGHAUL_TEST_OUTAGE_SECONDS=60. */
const seconds = (usual: number) => Number(process.env['LONGHAUL_TEST_OUTAGE_SECONDS'] ?? usual);
const timeout = 240_000;
const withinMs = 120_000;
const deviceCount = 12;

let rig: Rig;
let fleet: Fleet;
beforeAll(async () => {
  rig = await startRig();
  fleet = await createFleet(rig.system);
  fleet.add(deviceCount);
  await eventually(() => fleet.devices.every((device) => device.connected()), { withinMs });
}, 120_000);
afterAll(async () => {
  await fleet?.[Symbol.asyncDispose]();
  await rig?.[Symbol.asyncDispose]();
});

describe('while Temporal is away', () => {
  test(
    'the API takes commands and devices are answered, and all of it ends after its return',
    { timeout },
    async ({ annotate }) => {
      const { system, temporal } = rig;
      const stream = streamCommands(system, fleet.names());
      await eventually(() => fleet.work.size > 10 * seconds(6), { withinMs });

      await temporal.kill();
      const [workBefore, acceptedBefore] = [fleet.work.size, stream.accepted.length];
      const leftAt = performance.now();
      // As long as it is: time itself is the condition.
      await pass(seconds(6) * 1_000);
      await eventually(() => fleet.work.size > workBefore + 50 && stream.accepted.length > acceptedBefore + 10, {
        withinMs,
      });
      const backAt = performance.now();
      const begun = [...fleet.work.values()];
      await eventually(() => begun.every(({ answeredMs }) => answeredMs !== undefined), { withinMs });
      await temporal.start();
      await stream.stop();
      await expectNothingLostOrDoubled(rig, fleet, stream.accepted);

      const answered = (from: number, to: number) =>
        [...fleet.work.values()]
          .filter(({ beganAt }) => beganAt >= from && beganAt < to)
          .map(({ answeredMs }) => answeredMs);
      const [before, meanwhile] = [answered(0, leftAt), answered(leftAt, backAt)];
      await annotate(
        `${Math.round(backAt - leftAt)} ms away: answered in ${median(before)} ms before, ${median(meanwhile)} ms meanwhile (medians of ${before.length} and ${meanwhile.length}); ${stream.accepted.length - acceptedBefore} commands accepted`,
      );
    },
  );

  test('and has lost its store, what waits is started again from its rows and ends rightly', { timeout }, async () => {
    const { system, temporal } = rig;
    const { db } = system;
    const [away] = fleet.devices;
    const [unused, late] = [await enrolOnly(system.mqtt, fleet.claim), await enrolOnly(system.mqtt, fleet.claim)];
    away?.goOffline();
    const name = away?.name() ?? '';
    const [brief, patient] = [await sendEcho(system, [name], 3), await sendEcho(system, [name])];
    await eventually(async () => (await rig.client.workflow.count(`ExecutionStatus = 'Running'`)).count === 4, {
      withinMs,
    });
    const [{ uses } = { uses: 0 }] = await db.select().from(claims).where(eq(claims.id, fleet.claim.id));

    await temporal.kill();
    await temporal.deleteStore();
    // Its hour is over by the time that anybody can see to it.
    await closeNow(rig, unused.name);
    await temporal.start();

    expect(await outcomeOf(rig, brief.id)).toEqual([{ status: 'TIMED_OUT', statusBy: 'service', result: null }]);
    const { client } = await connectAs(system, late, system.mqtt.port);
    away?.goOnline();
    expect(await outcomeOf(rig, patient.id)).toEqual([
      { status: 'SUCCEEDED', statusBy: 'device', result: { message: { s: patient.message } } },
    ]);
    await allQuiet(rig);
    client.end();
    expect(await certificateOf(rig, unused.name)).toEqual([
      { state: 'REVOKED', reason: 'neverUsed', enrolment: 'LAPSED' },
    ]);
    expect(await certificateOf(rig, late.name)).toEqual([{ state: 'ACTIVE', reason: null, enrolment: 'ACTIVATED' }]);
    expect(await db.select({ uses: claims.uses }).from(claims).where(eq(claims.id, fleet.claim.id))).toEqual([
      { uses: uses - 1 },
    ]);
    expect(await listDoubles(rig)).toEqual([]);
  });
});

describe('reports', () => {
  test(
    'that come while Postgres is frozen are acknowledged after it has them, and nobody is taken for gone',
    { timeout },
    async () => {
      const { system, postgres } = rig;
      const [device, newcomer] = [await enrolOnly(system.mqtt, fleet.claim), await enrolOnly(system.mqtt, fleet.claim)];
      const reporter = await createReporter(system, device);
      const executions = await sendMany(rig, device.name, 40);
      await eventually(() => fleet.devices.every((one) => one.connected()), { withinMs });
      await bothJudge(rig);
      const [disconnected, holders] = [await listDisconnected(rig), await listHolders(rig)];
      let lost = 0;
      for (const one of fleet.devices) one.events.on('disconnected', () => (lost += 1));

      await postgres.freeze();
      const reports = executions.map((id) => reporter.report(id));
      await expect(connectAs(system, newcomer, system.mqtt.port)).rejects.toThrow(ConnectionRefused);
      // As long as it is: time itself is the condition.
      await pass(seconds(15) * 1_000);
      expect([...reporter.acknowledged]).toEqual([]);
      // One is back before the other: it finds that the other has not beaten for long, and must not judge by that.
      const [first, second] = system.gateways;
      second?.signal('SIGSTOP');
      await postgres.thaw();
      const lastBeat = await beatOf(rig, first?.port);
      await eventually(async () => (await beatOf(rig, first?.port)) > lastBeat + 0.9, { withinMs });
      second?.signal('SIGCONT');

      await Promise.all(reports);
      await expectRecordedOnce(rig, executions);
      await bothJudge(rig);
      // The newcomer was sent away, and the row of its session may be closed a little later.
      await eventually(async () => expect(await listHolders(rig)).toEqual(holders), { withinMs });
      const told = (await listDisconnected(rig)).filter((name) => name !== newcomer.name);
      expect(told).toEqual(disconnected);
      expect({ lost, repeated: reporter.repeated() }).toEqual({ lost: 0, repeated: 0 });
      expect(await listDoubles(rig)).toEqual([]);
      await reporter[Symbol.asyncDispose]();
    },
  );

  test(
    'that were acknowledged before Postgres and the gateways were killed are there, the others are sent again and recorded once',
    { timeout },
    async () => {
      const { system, postgres } = rig;
      const device = await enrolOnly(system.mqtt, fleet.claim);
      const reporter = await createReporter(system, device);
      const executions: string[] = [];

      for (const fate of ['Postgres', 'Postgres and the gateways']) {
        const more = await sendMany(rig, device.name, 150);
        executions.push(...more);
        const reached = reporter.reached(reporter.acknowledged.size + 20);
        const reports = more.map((id) => reporter.report(id));
        await reached;
        await postgres.kill();
        const unread = fate === 'Postgres' ? [] : system.gateways;
        await Promise.all(unread.map((gateway) => gateway.kill()));
        const acknowledged = [...reporter.acknowledged];
        expect(acknowledged.length).toBeLessThan(executions.length);
        await postgres.start();
        await expectRecordedOnce(rig, acknowledged);
        await Promise.all(unread.map((gateway) => gateway.start()));
        await Promise.all(reports);
      }
      expect(reporter.repeated()).toBeGreaterThan(0);
      await expectRecordedOnce(rig, executions);
      expect(await listDoubles(rig)).toEqual([]);
      await reporter[Symbol.asyncDispose]();
    },
  );
});

/** One by one, as an operator would, each with an execution for this device. */
async function sendMany({ system }: Rig, device: string, count: number): Promise<string[]> {
  const sent = await Promise.all(Array.from({ length: count }, () => sendEcho(system, [device])));
  return sent.flatMap(({ targets }) => targets.map(({ executionId }) => executionId));
}

const closeNow = async ({ system: { db } }: Rig, name: string) => {
  const own = db.select({ id: certificates.id }).from(certificates).where(eq(certificates.subject, name));
  await db.update(enrolments).set({ closesAt: new Date() }).where(inArray(enrolments.certificateId, own));
};

const certificateOf = ({ system: { db } }: Rig, name: string) =>
  db
    .select({ state: certificates.state, reason: certificates.revocationReason, enrolment: enrolments.state })
    .from(certificates)
    .innerJoin(enrolments, eq(enrolments.certificateId, certificates.id))
    .where(eq(certificates.subject, name));

/** How the command ended on its targets, once its lifecycle says that it has. */
async function outcomeOf({ system: { db } }: Rig, id: string) {
  await eventually(
    async () =>
      (await db.select().from(commands).where(eq(commands.id, id))).every(({ finishedAt }) => finishedAt !== null),
    { withinMs },
  );
  const { status, statusBy, result } = commandTargets;
  return db.select({ status, statusBy, result }).from(commandTargets).where(eq(commandTargets.commandId, id));
}

function median(values: (number | undefined)[]): number {
  const sorted = values.flatMap((value) => value ?? []).toSorted((a, b) => a - b);
  return Math.round(sorted[sorted.length >> 1] ?? NaN);
}
