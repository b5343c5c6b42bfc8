import { randomBytes, randomUUIDv7 } from 'node:crypto';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { claims } from '../../db/enrolment-schema.ts';
import { manufacturerAuthoritiesMax } from '../../db/manufacturer-authorities.ts';
import { manufacturerAuthorities, manufacturerCodes } from '../../db/manufacturer-schema.ts';
import { makeKeyPair } from '../../pki/keys.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { byManufacturer, makeCertificate, makeProof, makeRoot, register, type Made } from '../support/manufacturers.ts';

const path = '/v1/manufacturer-authorities';
let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
  await makeTemplate('acme', byManufacturer);
});
afterAll(() => database?.[Symbol.asyncDispose]());

const makeTemplate = (name: string, definition: object) => api.ask('POST', '/v1/templates', { name, definition });
// What the answer of a code holds.
const makeCode = async () => ((await api.ask('POST', `${path}/codes`)).body as unknown as { code: string }).code;
const ask = (root: Made, proof: Made, more: object = {}) =>
  api.ask('POST', path, { name: 'Acme', template: 'acme', certificatePem: root.pem, proofPem: proof.pem, ...more });
const refusedAt = (pointer: string) => ({ status: 422, body: { errors: [{ pointer }] } });

test('a root is registered by the code that its key has signed, is listed, and is retired once', async () => {
  const root = makeRoot({ subject: { commonName: 'Acme root', organization: 'Acme' } });
  const { status, body } = await register(api.ask, root, 'acme');
  expect(status).toBe(201);
  expect(body).toMatchObject({ name: 'Acme', template: 'acme', state: 'ACTIVE', devices: 0, certificatePem: root.pem });
  expect(api.told.at(-1)).toEqual({ trust: true });
  expect((await api.ask('GET', `${path}/${body.id}`)).body).toEqual(body);
  expect((await api.ask('GET', `${path}?filter=template==acme;state==ACTIVE`)).body.items).toEqual([body]);
  expect((await register(api.ask, root, 'acme')).status).toBe(409);

  const retired = await api.ask('POST', `${path}/${body.id}/retire`);
  expect(retired).toMatchObject({ status: 200, body: { state: 'RETIRED' } });
  expect((await api.ask('POST', `${path}/${body.id}/retire`)).status).toBe(409);
  expect((await api.ask('POST', `${path}/${randomUUIDv7()}/retire`)).status).toBe(404);
  const [claim] = await database.db
    .select()
    .from(claims)
    // What the answer of an authority holds.
    .where(eq(claims.id, (body as unknown as { claimId: string }).claimId));
  expect(claim).toMatchObject({ kind: 'manufacturer', revokedAt: expect.any(Date) });
  const entries = (await api.ask('GET', `/v1/audit?filter=subject==manufacturer-authority/${body.id}`)).body.items;
  expect(entries.map(({ action }) => action)).toEqual([
    'manufacturer-authority.retired',
    'manufacturer-authority.registered',
  ]);
  expect((await register(api.ask, root, 'acme')).status).toBe(201);
});

test('a proof by another key, for another code or for one that was used or is over proves nothing', async () => {
  const root = makeRoot();
  const twin = makeRoot({ subject: root.subject });
  expect(await ask(root, makeProof(twin, await makeCode()))).toMatchObject(refusedAt('/proofPem'));
  expect(await ask(root, makeProof(root, randomBytes(32).toString('hex')))).toMatchObject(refusedAt('/proofPem'));
  const proof = makeProof(root, await makeCode());
  expect((await ask(root, proof)).status).toBe(201);
  const { body } = await api.ask('GET', `${path}?filter=state==ACTIVE`);
  await api.ask('POST', `${path}/${body.items[0]?.id}/retire`);
  expect(await ask(root, proof)).toMatchObject(refusedAt('/proofPem'));
  const late = await makeCode();
  const past = { expiresAt: new Date(Date.now() - 1_000) };
  await database.db.update(manufacturerCodes).set(past).where(eq(manufacturerCodes.code, late));
  expect(await ask(root, makeProof(root, late))).toMatchObject(refusedAt('/proofPem'));
});

test('of two registrations with one code at once, one is made', async () => {
  const root = makeRoot();
  const proof = makeProof(root, await makeCode());
  const answers = await Promise.all([ask(root, proof), ask(root, proof)]);
  expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([201, 409]);
});

test.each([
  ['a leaf', () => makeCertificate({})],
  ['one under another', () => makeCertificate({ authority: true, issuer: makeRoot() })],
  ['one that has ended', () => makeRoot({ notAfter: new Date(Date.now() - 1_000) })],
  ['one whose time has not begun', () => makeRoot({ notBefore: new Date(Date.now() + 60_000) })],
  ['one with a long name', () => makeRoot({ subject: { commonName: 'x'.repeat(600) } })],
  ['one without a name', () => makeRoot({ subject: {} })],
  ['one named like ours', () => makeRoot({ subject: { commonName: 'longhaul  Issuing Authority' } })],
  ['no certificate', () => ({ ...makeRoot(), pem: 'nonsense' })],
])('%s is refused as an authority', async (_, make) => {
  const root = make();
  expect(await ask(root, makeProof(root, await makeCode()))).toMatchObject(refusedAt('/certificatePem'));
});

test('an authority of our own is refused, whoever could sign for it', async () => {
  const ours = { pem: api.authority.certificatePem, key: makeKeyPair(), subject: {} };
  const answer = await ask(ours, makeProof(ours, await makeCode()));
  expect(answer).toMatchObject(refusedAt('/certificatePem'));
});

test('a template that cannot name devices by their certificates is refused, and so is one that is not there', async () => {
  await makeTemplate('asks', { namePattern: '${manufacturer.commonName}-${serial}', parameters: ['serial'] });
  await makeTemplate('says', { namePattern: '${request.commonName}', parameters: [] });
  for (const template of ['asks', 'says', 'nothing'])
    expect(await register(api.ask, makeRoot(), template)).toMatchObject(refusedAt('/template'));
});

test('there are so many active ones and no more', async () => {
  const [claim] = await database.db.select().from(claims);
  const active = await database.db.$count(manufacturerAuthorities, eq(manufacturerAuthorities.state, 'ACTIVE'));
  const { body } = await register(api.ask, makeRoot(), 'acme');
  const [row] = await database.db.select().from(manufacturerAuthorities).where(eq(manufacturerAuthorities.id, body.id));
  expect(row && claim).toBeDefined();
  for (let count = active + 1; row && claim && count < manufacturerAuthoritiesMax; count += 1) {
    const claimId = randomUUIDv7();
    await database.db.insert(claims).values({ ...claim, id: claimId, kind: 'manufacturer' });
    const fingerprint = randomBytes(32);
    await database.db.insert(manufacturerAuthorities).values({ ...row, id: randomUUIDv7(), claimId, fingerprint });
  }
  expect(await register(api.ask, makeRoot(), 'acme')).toMatchObject({
    status: 409,
    body: { detail: expect.stringContaining(String(manufacturerAuthoritiesMax)) },
  });
});
