import { generateKeyPairSync, randomUUIDv7 } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { insertAuthority, listAuthorities } from '../../db/authorities.ts';
import { warnOfEndings } from '../../db/authority-endings.ts';
import { audit, authorities, events } from '../../db/schema.ts';
import { AuthorityEnding, createAuthorities } from '../../pki/authority.ts';
import { followRows } from '../../workers/signer.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';

let database: TestDatabase;
let fleet: Fleet;
let api: Awaited<ReturnType<typeof makeApi>>;
let path: string;
beforeEach(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
  api = await makeApi(database.db, { authority: fleet.authority });
  path = `/v1/authorities/${fleet.authority.id}`;
});
afterEach(() => database[Symbol.asyncDispose]());

async function makeSuccessor(): Promise<string> {
  const { issuing } = await createAuthorities({ keyEncryptionKey: Buffer.alloc(32) });
  const id = randomUUIDv7();
  const row = { ...issuing, id, kind: 'issuing' as const, name: issuing.subject, parentId: fleet.rootId };
  expect(await insertAuthority(database.db, { ...row, state: 'ACTIVE' })).toBe(true);
  return id;
}
const stateOf = async (id: string) => (await listAuthorities(database.db)).find((row) => row.id === id)?.state;
const actionsOf = async (id: string) =>
  (
    await database.db
      .select()
      .from(audit)
      .where(eq(audit.subject, `authority/${id}`))
  ).map(({ action }) => action);

test('one that is retired names the devices whose certificates are to be replaced, page by page, and issues no more', async () => {
  const made = await Promise.all(Array.from({ length: 3 }, () => fleet.makeDevice()));
  await fleet.makeDevice({ state: 'REVOKED' });
  await fleet.makeDevice({ notAfter: new Date(Date.now() - 1_000) });
  await fleet.makeService();
  const signer = followRows(database.db, fleet.authority);
  const request = { profile: 'service' as const, subject: { service: 'app' }, certificateId: '0'.repeat(64) };
  const options = { namedCurve: 'P-256', publicKeyEncoding: { type: 'spki', format: 'der' } } as const;
  const { publicKey } = generateKeyPairSync('ec', options);
  const issue = () => signer.issue({ ...request, publicKey, lifetimeMs: 90 * 86_400_000 });
  await issue();
  await makeSuccessor();

  const answer = await api.ask('POST', `${path}/retire`);
  expect(answer).toMatchObject({ status: 200, body: { state: 'RETIRED', devices: 3, revocationReason: null } });
  const names = made.map(({ name }) => name).toSorted();
  const { certificates } = answer.body as unknown as { certificates: { device: string }[] };
  expect(certificates.map(({ device }) => device).toSorted()).toEqual(names);
  const seen: string[] = [];
  for (let next: string | undefined = `${path}/devices?limit=2`; next;) {
    const page = await api.ask('GET', next);
    seen.push(...page.body.items.map(({ device }) => String(device)));
    next = /<(.*)>/.exec(page.headers.get('link') ?? '')?.[1];
  }
  expect(seen.toSorted()).toEqual(names);
  await expect(issue()).rejects.toThrow(AuthorityEnding);
  expect(await api.ask('POST', `${path}/retire`)).toMatchObject({ status: 200, body: answer.body });
  expect(await actionsOf(fleet.authority.id)).toEqual(['authority.retired']);
});

test('the last that issues may not be retired, and of two that are retired at once one stays; it may be revoked', async () => {
  expect((await api.ask('POST', `${path}/retire`)).status).toBe(409);
  const other = await makeSuccessor();
  const answers = await Promise.all([path, `/v1/authorities/${other}`].map((one) => api.ask('POST', `${one}/retire`)));
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200, 409]));
  const last = (await stateOf(other)) === 'ACTIVE' ? other : fleet.authority.id;
  const revoked = await api.ask('POST', `/v1/authorities/${last}/revoke`, { reason: 'cACompromise' });
  expect(revoked).toMatchObject({ status: 200, body: { state: 'REVOKED', revocationReason: 'cACompromise' } });
  expect(await actionsOf(last)).toEqual(['authority.revoked']);
});

test('one that is retired may be revoked, and stays so', async () => {
  await makeSuccessor();
  await api.ask('POST', `${path}/retire`);
  await api.ask('POST', `${path}/revoke`, { reason: 'keyCompromise' });
  expect((await api.ask('POST', `${path}/retire`)).body).toMatchObject({ state: 'REVOKED' });
  expect(await stateOf(fleet.authority.id)).toBe('REVOKED');
});

test('a root is neither, and nobody is not there', async () => {
  const reason = { reason: 'keyCompromise' };
  expect((await api.ask('POST', `/v1/authorities/${fleet.rootId}/retire`)).status).toBe(409);
  expect((await api.ask('POST', `/v1/authorities/${fleet.rootId}/revoke`, reason)).status).toBe(409);
  expect((await api.ask('POST', `/v1/authorities/${randomUUIDv7()}/revoke`, reason)).status).toBe(404);
  expect((await api.ask('POST', `${path}/revoke`, {})).status).toBe(422);
});

test('each that ends is told of 24, 12, 6 and 3 months before, once each, by one of many that look', async () => {
  const { db } = database;
  const id = fleet.authority.id;
  const endsIn = async (months: number) => {
    const notAfter = new Date();
    notAfter.setUTCMonth(notAfter.getUTCMonth() + months);
    notAfter.setUTCDate(notAfter.getUTCDate() - 4);
    await db.update(authorities).set({ notAfter }).where(eq(authorities.id, id));
  };
  expect(await warnOfEndings(db)).toEqual([]);
  for (const months of [24, 12, 6, 3]) {
    await endsIn(months);
    const told = (await Promise.all([warnOfEndings(db), warnOfEndings(db), warnOfEndings(db)])).flat();
    expect(told).toMatchObject([{ id, months }]);
  }
  expect(await warnOfEndings(db)).toEqual([]);
  expect(await actionsOf(id)).toEqual(Array.from({ length: 4 }, () => 'authority.ending'));
  expect(await db.select().from(events).where(eq(events.kind, 'authority.ending'))).toHaveLength(4);
});

test('of several times that have passed, the nearest is told of alone', async () => {
  const { db } = database;
  await db.update(authorities).set({ notAfter: new Date(Date.now() + 30 * 86_400_000) });
  expect((await warnOfEndings(db)).map(({ months }) => months)).toEqual([3, 3]);
  expect(await warnOfEndings(db)).toEqual([]);
});
