import { randomUUIDv7 } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { forge, makeSigner, manifestOf, noteArtifact, registerSigner, sign, withHeader } from '../support/releases.ts';
import type { Signer } from '../support/releases.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
let signer: Signer;
let artifact: { sha256: string; size: number };
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
  signer = await makeSigner();
  await registerSigner(api.ask, signer);
  artifact = await noteArtifact(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const publish = (manifest: string, more: object = {}) =>
  api.ask('POST', '/v1/releases', { artifact: artifact.sha256, manifest, ...more });
/** Of a product of its own, so that counters and versions of others do not meddle. */
const ownProduct = () => `pump-${randomUUIDv7().slice(-8)}`;

describe('a release', () => {
  test.each(['ES256', 'EdDSA'] as const)('signed with %s is published and says what was signed', async (algorithm) => {
    const own = await makeSigner(algorithm);
    await registerSigner(api.ask, own);
    const manifest = manifestOf(artifact, { allowedFrom: ['0.9.0', '0.9.1+x'], 'x-note': { kept: true } });
    const jws = await sign(manifest, own);
    const { status, body } = await publish(jws, { product: 'pump', version: manifest.version });
    expect(status).toBe(201);
    expect(body).toMatchObject({
      product: 'pump',
      version: manifest.version,
      securityCounter: 5,
      hardware: ['rev-a'],
      allowedFrom: ['0.9.0', '0.9.1+x'],
      downgrade: false,
      artifact: { ...artifact, name: 'pump.bin' },
      keyId: own.id,
      expiresAt: '2999-01-01T00:00:00.000Z',
      revokedAt: null,
      manifest: jws,
    });
    expect((await api.ask('GET', `/v1/releases/${body.id}`)).body).toEqual(body);
    const listed = await api.ask('GET', `/v1/releases?filter=version==${manifest.version}`);
    expect(listed.body.items).toMatchObject([{ id: body.id, artifact }]);
    expect(listed.text).not.toContain(jws);
    const byArtifact = await api.ask('GET', `/v1/releases?filter=artifact==${artifact.sha256}&limit=500`);
    expect(byArtifact.body.items.map(({ id }) => id)).toContain(body.id);
    const entries = (await api.ask('GET', `/v1/audit?filter=subject==release/${body.id}`)).body.items;
    expect(entries).toMatchObject([{ action: 'release.created', data: { product: 'pump', keyId: own.id } }]);
  });

  test('is published once under an idempotency key', async () => {
    const manifest = await sign(manifestOf(artifact), signer);
    const twice = () =>
      api.ask('POST', '/v1/releases', { artifact: artifact.sha256, manifest }, { 'idempotency-key': 'r1' });
    const first = await twice();
    expect(first.status).toBe(201);
    expect((await twice()).body).toEqual(first.body);
  });

  test('is of a version that its product has no other good release of', async () => {
    const manifest = manifestOf(artifact, { product: ownProduct() });
    const { body } = await publish(await sign(manifest, signer));
    const again = await publish(await sign({ ...manifest, securityCounter: 6 }, signer));
    expect(again).toMatchObject({ status: 409, body: { type: 'urn:longhaul:problem:name-taken' } });
    expect((await publish(await sign({ ...manifest, product: ownProduct() }, signer))).status).toBe(201);
    await api.ask('POST', `/v1/releases/${body.id}/revoke`, { reason: 'does not boot' });
    expect((await publish(await sign(manifest, signer))).status).toBe(201);
  });

  test('two of one version at once are one', async () => {
    const manifest = manifestOf(artifact, { product: ownProduct() });
    const answers = await Promise.all([1, 2, 3].map(async () => publish(await sign(manifest, signer))));
    expect(answers.filter(({ status }) => status === 201)).toHaveLength(1);
    expect(answers.filter(({ status }) => status === 409)).toHaveLength(2);
  });

  test('goes below the counter of the ones before only when it is signed as a way back, revoked ones counted', async () => {
    const product = ownProduct();
    const next = (securityCounter: number, more: object = {}) =>
      manifestOf(artifact, { product, securityCounter, ...more });
    const high = await publish(await sign(next(9), signer));
    expect((await publish(await sign(next(9), signer))).status).toBe(201);
    const refused = await publish(await sign(next(8), signer));
    expect(refused).toMatchObject({ status: 422, body: { type: 'urn:longhaul:problem:manifest-refused' } });
    expect(refused.body.detail).toContain('below 9');
    await api.ask('POST', `/v1/releases/${high.body.id}/revoke`, { reason: 'withdrawn' });
    expect((await publish(await sign(next(8), signer))).status).toBe(422);
    expect(await publish(await sign(next(8, { downgrade: true }), signer))).toMatchObject({
      status: 201,
      body: { securityCounter: 8, downgrade: true },
    });
    expect((await publish(await sign(next(8, { downgrade: false }), signer))).status).toBe(422);
  });
});

describe('a manifest is refused', () => {
  const refused = async (manifest: string, detail: RegExp | string, more: object = {}) => {
    const before = (await api.ask('GET', '/v1/releases?limit=500')).body.items.length;
    const answer = await publish(manifest, more);
    expect(answer).toMatchObject({ status: 422, body: { type: 'urn:longhaul:problem:manifest-refused' } });
    expect(answer.body.detail).toMatch(detail);
    expect(answer.body.errors.length).toBeGreaterThan(0);
    expect((await api.ask('GET', '/v1/releases?limit=500')).body.items).toHaveLength(before);
  };

  test('that nobody has signed', async () => {
    const jws = await sign(manifestOf(artifact), signer);
    const [header, payload] = jws.split('.');
    await refused(`${header}.${payload}.`, 'not a signed JWS');
    await refused(`${header}.${payload}`, 'not a signed JWS');
    await refused(JSON.stringify(manifestOf(artifact)), 'not a signed JWS');
    await refused(`${header}.${payload}.${'A'.repeat(86)}`, 'the signature is not');
  });

  test('that a key signed which is not registered, which is revoked, or which is another’s by its kid', async () => {
    const stranger = await makeSigner();
    await refused(await sign(manifestOf(artifact), stranger), 'no release key that is known');
    const revoked = await makeSigner();
    await registerSigner(api.ask, revoked);
    await api.ask('POST', `/v1/release-keys/${revoked.id}/revoke`, { reason: 'lost' });
    await refused(await sign(manifestOf(artifact), revoked), 'key is revoked');
    const header = { alg: 'ES256', typ: 'ota-manifest+jws', kid: signer.id };
    await refused(withHeader(await sign(manifestOf(artifact), stranger), header), 'the signature is not');
  });

  test('of alg none, and of HS256 under the public key', async () => {
    const jws = await sign(manifestOf(artifact), signer);
    const none = { alg: 'none', typ: 'ota-manifest+jws', kid: signer.id };
    await refused(withHeader(jws, none), 'signs with ES256, and only so');
    await refused(withHeader(jws, none).replace(/[^.]*$/, ''), 'not a signed JWS');
    await refused(forge(manifestOf(artifact), signer), 'signs with ES256, and only so');
  });

  test('of another kid or typ than its own', async () => {
    const jws = await sign(manifestOf(artifact), signer);
    const good = { alg: 'ES256', typ: 'ota-manifest+jws', kid: signer.id };
    await refused(withHeader(jws, { ...good, kid: 'x'.repeat(43) }), 'no release key that is known');
    await refused(withHeader(jws, { ...good, typ: 'JWT' }), 'typ is not');
    await refused(withHeader(jws, { ...good, jwk: {} }), 'more than alg, typ and kid');
  });

  test('that is about another product or version than was said, or that its key may not sign for', async () => {
    await refused(await sign(manifestOf(artifact), signer), 'something else', { product: 'valve' });
    await refused(await sign(manifestOf(artifact), signer), 'something else', { version: '9.9.9' });
    const valves = await makeSigner();
    await registerSigner(api.ask, valves, ['valve']);
    await refused(await sign(manifestOf(artifact), valves), 'may not sign for pump');
    expect((await publish(await sign(manifestOf(artifact, { product: 'valve' }), valves))).status).toBe(201);
  });

  test('that is about another artifact, one that is not here, or one of another size', async () => {
    const other = await noteArtifact(database.db);
    await refused(await sign(manifestOf(other), signer), 'something else');
    await refused(await sign(manifestOf({ ...artifact, size: 999 }), signer), 'has 1000 bytes');
    const absent = { sha256: '0'.repeat(64), size: 1_000 };
    await refused(await sign(manifestOf(absent), signer), 'no such artifact', { artifact: absent.sha256 });
  });

  test('that has expired', async () => {
    await refused(await sign(manifestOf(artifact, { expires: '2020-01-01T00:00:00Z' }), signer), 'expired');
    const past = new Date(Date.now() - 1_000).toISOString();
    await refused(await sign(manifestOf(artifact, { expires: past }), signer), 'expired');
  });

  test.each([
    ['securityCounter', 9_007_199_254_740_992],
    ['securityCounter', -1],
    ['securityCounter', 1.5],
    ['securityCounter', '5'],
    ['securityCounter', null],
    ['product', '../pump'],
    ['product', ''],
    ['product', '__proto__'],
    ['version', 'a b'],
    ['version', 'x'.repeat(65)],
    ['hardware', []],
    ['hardware', 'rev-a'],
    ['hardware', ['']],
    ['hardware', ['a\u0000b']],
    ['allowedFrom', []],
    ['allowedFrom', ['../x']],
    ['downgrade', 'true'],
    ['expires', 'tomorrow'],
    ['expires', 4_102_444_800],
    ['artifact', null],
  ])('whose %s is %j', async (field, value) => {
    await refused(await sign(manifestOf(artifact, { [field]: value }), signer), /It is not taken/);
  });

  test.each(['../../etc/passwd', '/etc/passwd', '..', '.hidden', 'a/b', 'a\\b', 'a\u0000', 'x'.repeat(129), '', 'ä'])(
    'whose file would be called "%s"',
    async (name) => {
      await refused(await sign(manifestOf(artifact, { artifact: { ...artifact, name } }), signer), 'artifact.name');
    },
  );

  test.each([
    ['no JSON', 'pump'],
    ['a list', '[]'],
    ['a name twice', '{"product":"pump","product":"valve"}'],
    ['a number that a double changes', '{"securityCounter":9007199254740993}'],
    ['a number with an exponent beyond all', '{"securityCounter":1e999}'],
    ['a depth bomb', '['.repeat(5_000)],
  ])('that is %s', async (_, payload) => {
    await refused(await sign(payload, signer), 'It is not taken');
  });

  test.each([
    [{ artifact: 'x' }, '/artifact'],
    [{ manifest: '' }, '/manifest'],
    [{ manifest: 'x'.repeat(16_385) }, '/manifest'],
    [{ manifest: 5 }, '/manifest'],
    [{ privateKey: 'x' }, '/privateKey'],
  ])('in a body that breaks a rule: %o', async (part, pointer) => {
    expect(await publish('a.b.c', part)).toMatchObject({ status: 422, body: { errors: [{ pointer }] } });
  });
});

describe('a revoked release', () => {
  const makeRollout = async (releaseId: string | null, finished = false) => {
    const id = randomUUIDv7();
    await database.db.$client`
      insert into rollouts (id, name, state, plan, plan_hash, job_id, release_id, created_by, finished_at)
      values (${id}, 'r', ${finished ? 'FINISHED' : 'RUNNING'}, '{}', '\\x00', ${randomUUIDv7()}, ${releaseId}, 'test',
        ${finished ? new Date().toISOString() : null})`;
    return id;
  };
  const pokes = async (...ids: string[]) => {
    const names = ids.map((id) => `run-rollout/${id}`);
    const rows = await database.db.$client<{ workflow_id: string; name: string; argument: object }[]>`
      select workflow_id, name, argument, kind from outbox where workflow_id = any (${names})`;
    return rows.map((row) => ({ ...row }));
  };

  test('pokes the rollouts of it that are not finished, and those alone', async () => {
    const { body } = await publish(await sign(manifestOf(artifact), signer));
    const other = await publish(await sign(manifestOf(artifact), signer));
    const [mine, done, foreign] = await Promise.all([
      makeRollout(body.id),
      makeRollout(body.id, true),
      makeRollout(other.body.id),
    ]);
    const revoked = await api.ask('POST', `/v1/releases/${body.id}/revoke`, { reason: 'does not boot' });
    expect(revoked).toMatchObject({ status: 200, body: { id: body.id, revocationReason: 'does not boot' } });
    expect(revoked.body).toHaveProperty('revokedAt', expect.stringMatching(/Z$/));
    expect(await pokes(mine, done, foreign)).toEqual([
      { workflow_id: `run-rollout/${mine}`, name: 'rolloutProgressed', argument: {}, kind: 'signal' },
    ]);
    const again = await api.ask('POST', `/v1/releases/${body.id}/revoke`, { reason: 'again' });
    expect(again).toMatchObject({ status: 409, body: { type: 'urn:longhaul:problem:conflict' } });
    expect(await pokes(mine)).toHaveLength(1);
    const entries = (await api.ask('GET', `/v1/audit?filter=subject==release/${body.id}`)).body.items;
    expect(entries).toMatchObject([{ action: 'release.revoked', data: { reason: 'does not boot' } }, {}]);
  });

  test('went with its key, unless the key was only laid aside', async () => {
    const [lost, laidAside] = [await makeSigner(), await makeSigner()];
    const published = [];
    for (const key of [lost, laidAside]) {
      await registerSigner(api.ask, key);
      published.push((await publish(await sign(manifestOf(artifact), key))).body.id);
    }
    const [ofLost = '', ofLaidAside = ''] = published;
    const rollout = await makeRollout(ofLost);
    await api.ask('POST', `/v1/release-keys/${lost.id}/revoke`, { reason: 'stolen' });
    await api.ask('POST', `/v1/release-keys/${laidAside.id}/revoke`, { reason: 'retired', keepReleases: true });
    expect((await api.ask('GET', `/v1/releases/${ofLost}`)).body).toMatchObject({
      revocationReason: 'its key is revoked: stolen',
    });
    expect((await api.ask('GET', `/v1/releases/${ofLaidAside}`)).body).toMatchObject({ revokedAt: null });
    expect(await pokes(rollout)).toHaveLength(1);
  });

  test('that nobody knows is not found', async () => {
    expect((await api.ask('POST', `/v1/releases/${randomUUIDv7()}/revoke`, { reason: 'x' })).status).toBe(404);
    expect((await api.ask('GET', `/v1/releases/${randomUUIDv7()}`)).status).toBe(404);
    expect((await api.ask('POST', `/v1/releases/${randomUUIDv7()}/revoke`, {})).status).toBe(422);
  });
});
