import { eq, inArray, isNull, sql } from 'drizzle-orm';
import { expect } from 'vitest';
import { enrolments } from '../../db/enrolment-schema.ts';
import { commands, commandTargets, devices, orders, outbox } from '../../db/schema.ts';
import { claims } from '../../db/enrolment-schema.ts';
import { certificates } from '../../db/schema.ts';
import { eventually } from '../support/eventually.ts';
import type { Accepted } from './commands.ts';
import type { Fleet } from './devices.ts';
import type { Rig } from './rig.ts';

const withinMs = 60_000;

/** Nothing is on its way any more: no command open, no message to Temporal, no order, no workflow. */
export async function allQuiet({ system: { db, temporal }, client }: Rig): Promise<void> {
  await eventually(
    async () => {
      const running = await client.workflow.count(
        `TaskQueue = '${temporal.taskQueue}' and ExecutionStatus = 'Running'`,
      );
      expect({
        running: running.count,
        open: await db.$count(commands, isNull(commands.finishedAt)),
        enrolling: await db.$count(enrolments, inArray(enrolments.state, ['ISSUED', 'REGISTERED'])),
        outbox: await db.$count(outbox),
        orders: await db.$count(orders),
      }).toEqual({ running: 0, open: 0, enrolling: 0, outbox: 0, orders: 0 });
    },
    { withinMs },
  );
}

/**
 * Each accepted command is there once, each target has ended once with the result of its device, each device has carried
 * it out once, and no step was recorded, told or run twice.
 */
export async function expectNothingLostOrDoubled(rig: Rig, fleet: Fleet, accepted: Accepted[]): Promise<void> {
  await allQuiet(rig);
  const { db } = rig.system;
  const ids = await db.select({ id: commands.id }).from(commands);
  expect(ids.map(({ id }) => id).toSorted()).toEqual(accepted.map(({ id }) => id).toSorted());

  const rows = await db
    .select({
      executionId: commandTargets.executionId,
      device: devices.name,
      status: commandTargets.status,
      result: commandTargets.result,
    })
    .from(commandTargets)
    .innerJoin(devices, eq(devices.id, commandTargets.deviceId));
  const expected = accepted.flatMap(({ message, targets }) =>
    targets.map((target) => ({ ...target, status: 'SUCCEEDED', result: { message: { s: message } } })),
  );
  expect(rows.toSorted(byExecution)).toEqual(expected.toSorted(byExecution));

  const done = [...fleet.work].map(([executionId, { device, times, report }]) => ({
    executionId,
    device,
    times,
    report,
  }));
  const wanted = expected.map(({ executionId, device }) => ({ executionId, device, times: 1, report: 'SUCCEEDED' }));
  expect(done.toSorted(byExecution)).toEqual(wanted.toSorted(byExecution));

  expect(await listDoubles(rig)).toEqual([]);
  await expectOneRunEach(rig);
}

const byExecution = (a: { executionId: string }, b: { executionId: string }) =>
  a.executionId < b.executionId ? -1 : 1;

/** Transitions, events and audit entries that say the same of the same twice; ends that are more than one. */
export async function listDoubles({ system: { db } }: Rig): Promise<unknown[]> {
  return db.execute(sql`
    select 'transition' as what, execution_id::text as subject, status as kind from command_transitions
    group by 2, 3 having count(*) > 1
    union all
    select 'end', execution_id::text, null from command_transitions where status not in ('CREATED', 'IN_PROGRESS')
    group by 2 having count(*) > 1
    union all
    select 'event', data ->> 'executionId', kind from events where kind like 'command.%'
    group by 2, 3 having count(*) > 1
    union all
    select 'audit', subject, action from audit where action ~ '^(command|certificate|device)[.]'
    group by 2, 3 having count(*) > 1`);
}

/** Whatever was started twice ran once. */
async function expectOneRunEach({ system: { temporal }, client }: Rig): Promise<void> {
  const runs: string[] = [];
  for await (const { workflowId } of client.workflow.list({ query: `TaskQueue = '${temporal.taskQueue}'` })) {
    runs.push(workflowId);
  }
  expect(runs.toSorted()).toEqual([...new Set(runs)].toSorted());
}

/** Each device has one row and one living certificate, and the claim has paid for so many. */
export async function expectEnrolledOnce({ system: { db } }: Rig, fleet: Fleet): Promise<void> {
  const { devices: all, claim } = fleet;
  const names = fleet.names().toSorted();
  expect(new Set(names).size).toBe(all.length);
  const rows = await db.select({ name: devices.name, state: devices.state }).from(devices).orderBy(devices.name);
  expect(rows.toSorted((a, b) => (a.name < b.name ? -1 : 1))).toEqual(names.map((name) => ({ name, state: 'ACTIVE' })));
  const living = await db
    .select({ subject: devices.name, state: certificates.state })
    .from(certificates)
    .leftJoin(devices, eq(devices.id, certificates.deviceId))
    .where(sql`${certificates.kind} = 'device' and ${certificates.state} <> 'REVOKED'`);
  expect(living.toSorted((a, b) => (String(a.subject) < String(b.subject) ? -1 : 1))).toEqual(
    names.map((subject) => ({ subject, state: 'ACTIVE' })),
  );
  expect(await db.select({ uses: claims.uses }).from(claims).where(eq(claims.id, claim.id))).toEqual([
    { uses: all.length },
  ]);
}
