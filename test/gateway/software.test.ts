import { randomUUIDv7 } from 'node:crypto';
import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { rollouts, rolloutTargets } from '../../db/rollout-schema.ts';
import { outbox, quarantine } from '../../db/schema.ts';
import { recordSoftware } from '../../db/software.ts';
import type { Session } from '../../gateway/messages.ts';
import { rolloutProgressed, runRolloutId } from '../../workflows/run-rollout.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createReporters, idOf } from './reporters.ts';

let database: TestDatabase;
let reporters: ReturnType<typeof createReporters>;
beforeAll(async () => {
  database = await makeDatabase();
  reporters = createReporters(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const second = expect.toSatisfy((at: number) => Math.abs(at - Date.now() / 1_000) < 30);

async function makeRollout(session: Session, finished: boolean) {
  const id = randomUUIDv7();
  // Nobody reads the plan here.
  const plan = {} as (typeof rollouts.$inferInsert)['plan'];
  const row = { id, name: 'r', plan, planHash: Buffer.alloc(32), jobId: randomUUIDv7(), createdBy: 'test' };
  await database.db.insert(rollouts).values({ ...row, state: 'RUNNING', finishedAt: finished ? new Date() : null });
  const target = { rolloutId: id, deviceId: idOf(session), wave: 1, place: 1, state: 'DONE' as const };
  await database.db.insert(rolloutTargets).values(target);
  return runRolloutId(id);
}

describe('a report of what a device runs', () => {
  test('is recorded with its event and a poke to each open rollout of the device before it is accepted', async () => {
    const { report, newSession } = reporters;
    const session = await newSession();
    const [open, over] = [await makeRollout(session, false), await makeRollout(session, true)];
    const elsewhere = await makeRollout(await newSession(), false);
    const answer = await report(session, { app: { version: '1.2.3' }, boot: { version: 7 } }, { clientToken: 'abc' });
    expect(answer).toEqual({
      published: { outcome: 'committed' },
      outcome: 'accepted',
      body: {
        state: { reported: { app: { version: '1.2.3' }, boot: { version: '7' } } },
        metadata: { reported: { app: { version: { timestamp: second } }, boot: { version: { timestamp: second } } } },
        version: 1,
        timestamp: second,
        clientToken: 'abc',
      },
    });
    expect(await reporters.softwareOf(session)).toEqual({ app: '1.2.3', boot: '7' });
    const changes = { app: { was: null, is: '1.2.3' }, boot: { was: null, is: '7' } };
    expect(await reporters.eventsOf(session)).toEqual([['device.software-changed', { changes }]]);
    const pokes = await database.db.select().from(outbox);
    const pokesTo = (workflow: string) => pokes.filter(({ workflowId }) => workflowId === workflow);
    expect(pokesTo(open)).toMatchObject([{ kind: 'signal', name: 'rolloutProgressed', argument: {} }]);
    expect([...pokesTo(over), ...pokesTo(elsewhere)]).toEqual([]);
  });

  test('that says what is known writes nothing and is accepted under the same version', async () => {
    const { report, newSession } = reporters;
    const session = await newSession();
    await makeRollout(session, false);
    const first = await report(session, { app: { version: '1' } });
    const before = await rowVersions(session);
    for (const reported of [{ app: { version: '1' } }, {}, { app: {} }, { gone: null }]) {
      expect((await report(session, reported)).body).toMatchObject({ version: first.body?.['version'] });
    }
    expect(await rowVersions(session)).toEqual(before);
    expect(await reporters.eventsOf(session)).toHaveLength(1);
  });

  const rowVersions = async (session: Session) => [
    ...(await database.db.execute(sql`
      select 'revision' as of, xmin::text from software_revisions where device_id = ${idOf(session)}
      union all select product, xmin::text from device_software where device_id = ${idOf(session)}
      union all select 'outbox', max(id)::text from outbox`)),
  ];

  test('is merged with what is known, and null takes away', async () => {
    const { report, newSession } = reporters;
    const session = await newSession();
    await report(session, { app: { version: '1' }, boot: { version: '1' }, radio: { version: '1' } });
    const { body } = await report(session, { app: { version: '2' }, boot: null, radio: { version: null } });
    expect(body).toMatchObject({
      version: 2,
      state: { reported: { app: { version: '2' }, boot: null, radio: null } },
      metadata: { reported: { app: { version: { timestamp: second } } } },
    });
    expect(await reporters.softwareOf(session)).toEqual({ app: '2' });
    expect((await report(session, null)).body).toMatchObject({ version: 3, state: { reported: null } });
    expect(await reporters.softwareOf(session)).toEqual({});
    expect((await report(session, { app: { version: '2' } })).body).toMatchObject({ version: 4 });
  });

  test('for another version of the shadow than the current one is refused, unless it repeats the one that made it', async () => {
    const { report, newSession } = reporters;
    const session = await newSession();
    await report(session, { app: { version: '1' } });
    const asked = [{ app: { version: '2' } }, { version: '1', clientToken: 't' }] as const;
    expect((await report(session, ...asked)).body).toMatchObject({ version: 2 });
    expect((await report(session, ...asked)).body).toMatchObject({ version: 2, clientToken: 't' });
    for (const version of [1, 3, 0]) {
      expect(await report(session, { app: { version: '3' } }, { version, clientToken: 't' })).toMatchObject({
        outcome: 'rejected',
        body: { code: 409, message: 'Version conflict', timestamp: second, clientToken: 't' },
      });
    }
    expect(await reporters.softwareOf(session)).toEqual({ app: '2' });
  });

  test('takes its turn among others of the same device in one statement', async () => {
    const { report, newSession } = reporters;
    const session = await newSession();
    const versions = ['1', '2', '2', '3', '1'];
    const answers = await Promise.all(versions.map((version) => report(session, { app: { version } })));
    expect(answers.map(({ outcome }) => outcome)).toEqual(versions.map(() => 'accepted'));
    expect(await reporters.softwareOf(session)).toEqual({ app: '1' });
    const was = (await reporters.eventsOf(session)).map(([, data]) => data);
    expect(was).toEqual(
      [null, '1', '2', '3'].map((before, index) => ({
        changes: { app: { was: before, is: ['1', '2', '3', '1'][index] } },
      })),
    );
  });

  test('through two gateways at once is judged one after the other', async () => {
    const { newSession } = reporters;
    const poke = { workflowIdPrefix: runRolloutId(''), signal: rolloutProgressed.name };
    for (let turn = 0; turn < 20; turn++) {
      const sessions = await Promise.all([newSession(), newSession(), newSession()]);
      const through = (version: string, order: Session[]) =>
        recordSoftware(
          database.db,
          order.map((session) => ({
            deviceId: idOf(session),
            changes: new Map([['app', version]]),
            whole: false,
            eventId: randomUUIDv7(),
          })),
          poke,
        );
      await Promise.all([through('1', sessions), through('2', sessions.toReversed())]);
      for (const session of sessions) {
        const changes = (await reporters.eventsOf(session)).map(([, data]) => data as { changes: { app: Change } });
        const [first, next] = changes.map(({ changes: { app } }) => app).toSorted((one) => (one.was === null ? -1 : 1));
        expect([first?.was, next?.was]).toEqual([null, first?.is]);
        expect(await reporters.softwareOf(session)).toEqual({ app: next?.is });
      }
    }
  });
  type Change = { was: string | null; is: string | null };

  test('of more than fifty products is refused, also bit by bit', async () => {
    const { report, newSession } = reporters;
    const session = await newSession();
    const products = (start: number, end: number) =>
      Object.fromEntries(Array.from({ length: end - start }, (_, at) => [`p${start + at}`, { version: '1' }]));
    expect((await report(session, products(0, 51))).body).toMatchObject({ code: 413 });
    expect((await report(session, products(0, 30))).outcome).toBe('accepted');
    expect((await report(session, products(30, 51))).body).toMatchObject({ code: 413 });
    expect((await report(session, { ...products(30, 51), p0: null })).outcome).toBe('accepted');
    expect(Object.keys(await reporters.softwareOf(session))).toHaveLength(50);
  });

  test('that Postgres refuses is quarantined and fails alone', async () => {
    const { report, newSession } = reporters;
    await database.db.execute(sql`alter table device_software add constraint poison check (version <> 'POISON')`);
    const sessions = await Promise.all(Array.from({ length: 12 }, newSession));
    const answers = await Promise.all(
      sessions.map((session, index) => report(session, { app: { version: index === 5 ? 'POISON' : 'FINE' } })),
    );
    await database.db.execute(sql`alter table device_software drop constraint poison`);
    expect(answers.map(({ body }) => body?.['code'])).toEqual(
      sessions.map((_, index) => (index === 5 ? 500 : undefined)),
    );
    const [kept] = await database.db.select().from(quarantine);
    expect(kept?.error).toMatch(/poison/);
  });
});

describe('a question for what a device runs', () => {
  test('is answered with all that it has said', async () => {
    const { ask, report, newSession } = reporters;
    const session = await newSession();
    await report(session, { app: { version: '1' } });
    await report(session, { boot: { version: '2' } });
    expect(await ask(session, 'get', { clientToken: 'g' })).toMatchObject({
      outcome: 'accepted',
      body: {
        state: { reported: { app: { version: '1' }, boot: { version: '2' } } },
        metadata: { reported: { app: { version: { timestamp: second } }, boot: { version: { timestamp: second } } } },
        version: 2,
        timestamp: second,
        clientToken: 'g',
      },
    });
    await report(session, null);
    expect((await ask(session, 'get', '')).body).toEqual({ state: {}, metadata: {}, version: 3, timestamp: second });
  });

  test('of one that has never said is answered 404, which nobody audits', async () => {
    const { ask, newSession } = reporters;
    const session = await newSession();
    expect(await ask(session, 'get', { clientToken: 'g' })).toEqual({
      published: { outcome: 'committed' },
      outcome: 'rejected',
      body: { code: 404, message: "No shadow exists with name: '$package'", timestamp: second, clientToken: 'g' },
    });
    expect(await reporters.refusalsOf(session)).toEqual([]);
  });
});
