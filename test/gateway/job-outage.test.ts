import { setTimeout as pass } from 'node:timers/promises';
import { eq, inArray } from 'drizzle-orm';
import { expect, test } from 'vitest';
import { connect } from '../../db/client.ts';
import { executions } from '../../db/rollout-schema.ts';
import { events } from '../../db/schema.ts';
import { ownPostgres } from '../support/database.ts';
import type { TestJob } from '../support/jobs.ts';
import { createExecutors } from './executors.ts';

test.each(['killed', 'frozen'])(
  'while Postgres is away, %s, what devices ask is held, and answered once when it is back',
  { timeout: 60_000 },
  async (fate) => {
    await using server = await ownPostgres();
    const db = connect({ url: server.url, max: 3 });
    const { device, ask, update, ear } = createExecutors(db, { limits: { deadlineMs: 500 } });
    const devices = await Promise.all(Array.from({ length: 20 }, () => device({})));
    await Promise.all(devices.map(({ session }) => ask(session, 'start-next')));
    if (fate === 'killed') await server.kill();
    else await server.freeze();

    let settled = false;
    const asked = devices.map(async ({ session, jobs }) => [
      await update(session, jobs[0] as TestJob, { status: 'IN_PROGRESS', statusDetails: { at: 'half' } }),
      ...(await Promise.all([
        update(session, jobs[0] as TestJob, { status: 'SUCCEEDED', includeJobExecutionState: true }),
        ask(session, '$next/get'),
      ])),
    ]);
    const all = Promise.all(asked).finally(() => (settled = true));
    // Longer than a statement may take: that nothing is said meanwhile is what is looked at.
    await pass(1_500);
    expect({ settled, answers: ear.answers.length }).toEqual({ settled: false, answers: devices.length });
    if (fate === 'killed') await server.start();
    else await server.thaw();

    for (const [half, done, next] of await all) {
      expect(half?.outcome).toBe('accepted');
      expect(done?.body.executionState).toEqual({
        status: 'SUCCEEDED',
        versionNumber: 4,
        statusDetails: { at: 'half' },
      });
      expect(next?.body).not.toHaveProperty('execution');
    }
    const ids = devices.map(({ id }) => id);
    const rows = await db.select().from(executions).where(inArray(executions.deviceId, ids));
    expect(rows.map(({ status, version }) => `${status} ${version}`)).toEqual(ids.map(() => 'SUCCEEDED 4'));
    const ends = await db.select().from(events).where(eq(events.kind, 'execution.succeeded'));
    expect(ends).toHaveLength(ids.length);
    expect(new Set(ends.map(({ deviceId }) => deviceId))).toEqual(new Set(ids));
    await db.$client.end({ timeout: 1 });
  },
);
