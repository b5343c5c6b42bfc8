import { afterAll, beforeAll, expect, test } from 'vitest';
import { feed, outbox } from '../../db/schema.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';

let database: TestDatabase;
let fleet: Fleet;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  api = await makeApi(database.db, { authority: fleet.authority });
});
afterAll(() => database[Symbol.asyncDispose]());

test.each([
  [{}, 'without a reason'],
  [{ reason: 'unspecified' }, 'for no reason that says anything'],
  [{ reason: 'certificateHold' }, 'for a while'],
  [{ reason: 'KeyCompromise' }, 'for a reason in other letters'],
  [{ reason: 'keyCompromise', force: true }, 'with a field that nobody knows'],
])('%j is refused: nothing is revoked %s', async (body, how) => {
  const { certificateId } = await fleet.makeDevice();
  const answer = await api.ask('POST', `/v1/certificates/${certificateId}/revoke`, body);
  expect(answer.status, how).toBe(422);
  expect(await database.db.select().from(feed)).toEqual([]);
  expect(await database.db.select().from(outbox)).toEqual([]);
});

test.each(['0'.repeat(64), 'x', '0'.repeat(63)])('there is nothing to revoke under %s', async (id) => {
  expect((await api.ask('POST', `/v1/certificates/${id}/revoke`, { reason: 'superseded' })).status).toBe(404);
});

test('the gateways are told once it is committed, also under an idempotency key', async () => {
  const { certificateId } = await fleet.makeDevice();
  const path = `/v1/certificates/${certificateId}/revoke`;
  const headers = { 'idempotency-key': 'revoke-1' };
  const first = await api.ask('POST', path, { reason: 'affiliationChanged' }, headers);
  const again = await api.ask('POST', path, { reason: 'affiliationChanged' }, headers);
  expect([first.status, again.status, again.body]).toEqual([202, 202, first.body]);
  expect(api.told).toContainEqual({ feed: true });
  expect(await database.db.select().from(feed)).toHaveLength(1);
});
