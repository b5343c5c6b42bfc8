import { execFile } from 'node:child_process';
import { randomBytes, X509Certificate } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { Agent } from 'node:https';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { certificates } from '../../db/schema.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { eventually } from '../support/eventually.ts';
import { makeApi } from '../support/api.ts';
import { openRig, type Rig } from './rig.ts';
import { serveTestDoors, type Served } from './served.ts';

const run = promisify(execFile);
let rig: Rig;
let served: Served;
beforeAll(async () => {
  rig = await openRig();
  served = await serveTestDoors(rig);
}, 120_000);
afterAll(async () => {
  await served[Symbol.asyncDispose]();
  await rig[Symbol.asyncDispose]();
});

const makeToken = async (part = {}, claim = {}) => rig.makeToken((await rig.makeTemplate(part)).template, claim);
const requestFor = (key = makeKeyPair(), serial = '1') => ({ csr: makeCsr(key), parameters: { serial } });
const certificatesOf = async (spki: string) => {
  const rows = await rig.db.select().from(certificates).where(eq(certificates.subject, spki));
  return rows.map(({ id }) => id);
};

describe('a device with a claim token', () => {
  test('is given all that it needs, and connects', async () => {
    const { permit, token } = await makeToken();
    const key = makeKeyPair();
    const { status, body, headers } = await served.enrol(token, requestFor(key));
    expect(status).toBe(201);
    expect(headers['cache-control']).toBe('no-store');
    expect(body).toMatchObject({ deviceName: `${permit.template}-1`, configuration: { broker: 'b.1' } });
    expect(new X509Certificate(body.certificatePem).subject).toBe(`CN=${permit.template}-1`);
    expect(body.trustBundle.certificatesPem).toBe(rig.fleet.authority.rootPem + rig.fleet.authority.certificatePem);
    expect(Math.abs(Date.parse(body.serverTime) - Date.now())).toBeLessThan(60_000);
    const { certificatePem: certificate, certificateId } = body;
    (await rig.gateway.connect({ certificate, certificateId, privateKey: key.privateKeyPem })).end(true);
  });

  test('uses the curl that everybody has', async () => {
    const { permit, token } = await makeToken();
    const ca = join(inject('folder'), `ca-${randomBytes(4).toString('hex')}.pem`);
    await writeFile(ca, served.ca);
    const { stdout } = await run('curl', [
      '-sS',
      '--cacert',
      ca,
      '--max-time',
      '20',
      '--header',
      `Authorization: Bearer ${token}`,
      '--json',
      JSON.stringify(requestFor()),
      `https://localhost:${served.port}/v1/enroll`,
    ]);
    expect(JSON.parse(stdout)).toMatchObject({ deviceName: `${permit.template}-1` });
  });

  test('is answered the same when it asks again, also fifty times at once', async () => {
    const { permit, token } = await makeToken({}, { usesMax: 1 });
    const asked = requestFor();
    const answers = await Promise.all(Array.from({ length: 50 }, () => served.enrol(token, asked)));
    answers.push(await served.enrol(token, asked));
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([201]));
    expect(new Set(answers.map(({ body }) => body.certificatePem)).size).toBe(1);
    expect(await certificatesOf(`${permit.template}-1`)).toHaveLength(1);
  });

  test('whose connection breaks before the answer finds what was issued meanwhile', async () => {
    const { permit, token } = await makeToken({}, { usesMax: 1 });
    const asked = requestFor();
    const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
    const broken = served.open('POST', '/v1/enroll', { headers, body: JSON.stringify(asked) });
    broken.on('error', () => {});
    const id = await eventually(async () => (await rig.enrolmentOf(permit))?.certificateId ?? null);
    broken.destroy();
    expect(await served.enrol(token, asked)).toMatchObject({ status: 201, body: { certificateId: id } });
  });

  test('waits for an operator, and is told when to come back', async () => {
    const { permit, token } = await makeToken({ approval: true });
    const { ask } = await makeApi(rig.db, { authority: rig.fleet.authority, wire: rig.wire });
    const asked = requestFor();
    const waiting = await served.enrol(token, asked);
    expect(waiting).toMatchObject({ status: 202, body: { state: 'WAITING_FOR_APPROVAL', retryAfterSeconds: 30 } });
    expect(waiting.headers['retry-after']).toBe('30');
    await ask('POST', `/v1/enrolments/${(await rig.enrolmentOf(permit))?.id}/approve`);
    await eventually(async () => expect(await served.enrol(token, asked)).toMatchObject({ status: 201 }));
  });
});

describe('a token that does not permit it', () => {
  const refusedBody = { type: 'urn:longhaul:problem:ClaimRefused', status: 401 };

  test('is refused in the same words whatever is wrong with it', async () => {
    const { token } = await makeToken({}, { usesMax: 1 });
    await served.enrol(token, requestFor());
    const expired = await makeToken({}, { expiresAt: new Date(0) });
    const bad = [token, expired.token, `${token.slice(0, -2)}__`, 'x'];
    const answers = [];
    for (const wrong of bad) answers.push(await served.enrol(wrong, requestFor(makeKeyPair(), '2')));
    for (const { status, body, headers } of answers) {
      expect(status).toBe(401);
      expect(body).toMatchObject(refusedBody);
      expect(headers['www-authenticate']).toContain('Bearer');
    }
    expect(new Set(answers.map(({ body }) => JSON.stringify(body))).size).toBe(1);
  });

  test('locks out who guesses', async () => {
    await using strict = await serveTestDoors(rig, {
      claimTokens: { limits: { failuresPerNetwork: 0 }, refuseAfterMs: 0 },
    });
    const { token } = await makeToken();
    const locked = await strict.enrol(token, requestFor());
    expect(locked).toMatchObject({ status: 429, body: { type: 'urn:longhaul:problem:TooManyAttempts' } });
    expect(locked.headers['retry-after']).toBe('60');
  });
});

test.each([
  ['nothing to show', { headers: { authorization: '' } }, 401],
  ['another kind of credential', { headers: { authorization: 'Basic eDp4' } }, 401],
  ['another media type', { headers: { 'content-type': 'text/plain' } }, 415],
])('a request with %s is refused', async (_, asking, status) => {
  const { token } = await makeToken();
  expect((await served.enrol(token, requestFor(), asking)).status).toBe(status);
});

test('a body that is not what it should be is refused, with every fault, and uses nothing up', async () => {
  const { token } = await makeToken({}, { usesMax: 1 });
  const bad = await served.enrol(token, { csr: 7, parameters: { serial: 1 }, more: true });
  expect(bad.status).toBe(422);
  expect(bad.body.errors.map(({ pointer }: { pointer: string }) => pointer).toSorted()).toEqual([
    '/csr',
    '/more',
    '/parameters/serial',
  ]);
  expect((await served.enrol(token, { csr: 'x'.repeat(70_000) })).status).toBe(413);
  expect((await served.enrol(token, { csr: 'nonsense' })).status).toBe(400);
  expect((await served.enrol(token, requestFor())).status).toBe(201);
});

test('a revoked certificate is refused, also on a TLS session that was resumed, and a token beside it changes nothing', async () => {
  const { token } = await makeToken();
  const device = await rig.fleet.makeDevice();
  const agent = new Agent({ maxCachedSessions: 10 });
  expect((await served.enrol(token, requestFor(), { credentials: device, agent })).status).toBe(201);
  await rig.db.update(certificates).set({ state: 'REVOKED' }).where(eq(certificates.id, device.certificateId));
  const again = await served.enrol(token, requestFor(makeKeyPair(), '2'), { credentials: device, agent });
  expect(again).toMatchObject({ status: 403, body: { type: 'urn:longhaul:problem:CertificateRevoked' } });
  agent.destroy();
});

test('what is trusted is read by everybody, and who asks too often is told so', async () => {
  expect(await served.ask('GET', '/authorities.pem')).toMatchObject({
    status: 200,
    body: rig.fleet.authority.rootPem + rig.fleet.authority.certificatePem,
  });
  expect(await served.ask('GET', '/v1/devices')).toMatchObject({ status: 404 });
  await using busy = await serveTestDoors(rig, { mayAsk: () => false });
  expect(await busy.ask('GET', '/authorities.pem')).toMatchObject({ status: 429 });
  expect(await busy.ask('GET', '/healthz')).toMatchObject({ status: 200 });
  await using full = await serveTestDoors(rig, { server: { mayConnect: () => false } });
  await expect(full.ask('GET', '/healthz')).rejects.toThrow(/disconnected|hang up|ECONNRESET/);
});
