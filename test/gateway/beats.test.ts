import { randomUUIDv7 } from 'node:crypto';
import { eq, sql } from 'drizzle-orm';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { Database } from '../../db/client.ts';
import { beatGateway } from '../../db/gateways.ts';
import { gateways } from '../../db/schema.ts';
import { startBeats } from '../../gateway/beats.ts';
import { makeDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';

const deadAfterMs = 500;

test('a judgement that Postgres comes to late is by the beats at the time at which it was made', async () => {
  await using database = await makeDatabase();
  const { db } = database;
  const neighbour = { id: randomUUIDv7(), address: 'neighbour' };
  const stoppedAt = async () =>
    (await db.select().from(gateways).where(eq(gateways.id, neighbour.id))).map((row) => row.stoppedAt);
  await beatGateway(db, neighbour);
  const living = setInterval(() => void beatGateway(db, neighbour), 50);
  const judgements = holdJudgements(db);
  const beats = await startBeats({
    db: judgements.db,
    gatewayId: randomUUIDv7(),
    address: 'judge',
    log: pino({ level: 'silent' }),
    debounceMs: 0,
    lost: () => {},
    beatEveryMs: 50,
    deadAfterMs,
  });

  await eventually(() => judgements.held() === 1);
  clearInterval(living);
  const isOld = sql<boolean>`beat_at < now() - make_interval(secs => ${(2 * deadAfterMs) / 1000}::double precision)`;
  await eventually(async () =>
    (await db.select({ isOld }).from(gateways).where(eq(gateways.id, neighbour.id))).every((row) => row.isOld),
  );
  judgements.release();
  await eventually(() => judgements.made() === 1);
  expect(await stoppedAt()).toEqual([null]);

  // The judge has missed beats of its own: it counts anew, and only then may it say of a silent one that it is dead.
  await eventually(async () => (await stoppedAt())[0] instanceof Date);
  await beats.stop();
});

/** The same database, which does not come to a judgement before it is released. */
function holdJudgements(db: Database) {
  const released = Promise.withResolvers<void>();
  let held = 0;
  let made = 0;
  const execute: Database['execute'] = ((query: Parameters<Database['execute']>[0]) => {
    held += 1;
    return released.promise.then(() => db.execute(query)).finally(() => (made += 1));
  }) as never;
  return {
    db: Object.assign(Object.create(db) as Database, { execute }),
    held: () => held,
    made: () => made,
    release: released.resolve,
  };
}
