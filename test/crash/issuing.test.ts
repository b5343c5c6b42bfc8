import { hash, randomBytes, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { text } from 'node:stream/consumers';
import { and, eq, like } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { enrolments } from '../../db/enrolment-schema.ts';
import { registeredDevices } from '../../db/registration-schema.ts';
import { audit, certificates, devices } from '../../db/schema.ts';
import { ask } from '../../embedded/device-asking.ts';
import { dial, type Connection } from '../../embedded/device-connection.ts';
import { createFromCsrTopic, provisionTopic } from '../../embedded/device-topics.ts';
import { makeCsr, makeKeyPair, type KeyPair } from '../../pki/keys.ts';
import { freshParameters, makeClaim, type Claim } from '../clients/fleet.ts';
import { eventually } from '../support/eventually.ts';
import { startSystem, type System } from '../support/system.ts';
import { enrolOnly, type Enrolled } from './devices.ts';
import { holdCommits } from './held-commits.ts';

const withinMs = 40_000;
const keys = {
  token: makeKeyPair(),
  est: makeKeyPair(),
  waiting: makeKeyPair(),
  provisioning: makeKeyPair(),
  rotation: makeKeyPair(),
  reenrolment: makeKeyPair(),
};
const lines = { count: 11_000, bad: [3, 7_001, 10_999] };

let system: System;
let token: Permit;
let est: Permit;
let waiting: Permit;
let claim: Claim;
let rotating: Enrolled;
let reenrolling: Enrolled;
let registration: string;
/** What became of the first requests. */
let answers: string[];

/** Whoever asks for a certificate, at any door, and a file: all is issued, nothing answered, and everything is killed. */
beforeAll(async () => {
  system = await startSystem({ doors: true });
  claim = await makeClaim(system);
  [token, est, waiting, rotating, reenrolling] = await Promise.all([
    makePermit({ namePattern: '${serial}', parameters: ['serial'] }),
    makePermit({ namePattern: '${request.commonName}', parameters: [] }),
    makePermit({ namePattern: '${serial}', parameters: ['serial'], approval: true }),
    makeOrdered(),
    makeOrdered(),
  ]);
  const connections = await Promise.all([connect({ ...claim, name: 'enrolling' }), connect(rotating)]);
  const held = await holdCommits(system.db, ['certificates', 'enrolments', 'registered_devices']);
  const asked = Promise.allSettled([
    askByToken(token, keys.token),
    askByEst('simpleenroll', { permit: est }, keys.est),
    askByToken(waiting, keys.waiting),
    askByEst('simplereenroll', { credentials: reenrolling }, keys.reenrolment),
    ...connections.map((client, at) => askByMqtt(client, at === 0 ? keys.provisioning : keys.rotation)),
  ]);
  registration = await sendFile();
  await held.reached(7, 'longhaul lifecycle');
  const parts = [system.lifecycle, system.doors, ...system.gateways];
  await Promise.all(parts.map((part) => part.kill()));
  await held.release();
  answers = (await asked).map(({ status }) => status);
  await Promise.all(parts.map((part) => part.start()));
}, 120_000);
afterAll(() => system?.[Symbol.asyncDispose]());

type Permit = { template: string; token: string };

/** A template of its own, and a token that is good for one device. */
async function makePermit(definition: { namePattern: string; parameters: string[]; approval?: boolean }) {
  const template = `line-${randomBytes(4).toString('hex')}`;
  const namePattern = `${template}-${definition.namePattern}`;
  const made = await system.ask('POST', '/v1/templates', {
    name: template,
    definition: { ...definition, namePattern },
  });
  expect(made).toMatchObject({ status: 201 });
  const { status, body } = await system.ask('POST', '/v1/claims', { kind: 'token', template });
  expect(status).toBe(201);
  // What the answer of a claim holds beside the rest.
  const { token: shown } = body as unknown as { token: string };
  return { template, token: shown };
}

/** A device that has connected, and is to replace its certificate. */
async function makeOrdered(): Promise<Enrolled> {
  const device = await enrolOnly(system.mqtt, claim);
  (await connect(device)).end();
  await eventually(async () => {
    expect((await system.ask('POST', `/v1/devices/${device.name}/rotations`)).status).toBe(202);
  });
  return device;
}

function connect({ name: clientId, certificate, privateKey }: Enrolled): Promise<Connection> {
  const session = { clientId, protocolVersion: 5, sessionSeconds: 0 } as const;
  return dial(system.mqtt, { certificate, privateKey, ...session }, new AbortController().signal);
}

const askByMqtt = (client: Connection, key: KeyPair) =>
  ask(client, createFromCsrTopic, { certificateSigningRequest: makeCsr(key) });

type Sent = { path: string; type: string; body: string; token?: string; credentials?: Enrolled };

async function send({ path, type, body, token: bearer, credentials }: Sent) {
  const headers = { 'content-type': type, ...(bearer && { authorization: `Bearer ${bearer}` }) };
  const tls = { ca: system.mqtt.ca, servername: 'localhost', agent: false } as const;
  const proof = credentials && { cert: credentials.certificate, key: credentials.privateKey };
  const sent = request(new URL(path, system.doors.url), { method: 'POST', headers, ...tls, ...proof });
  sent.end(body);
  const [answer] = (await once(sent, 'response')) as [IncomingMessage];
  return { status: answer.statusCode ?? 0, body: await text(answer) };
}

const askByToken = ({ token: bearer }: Permit, key: KeyPair) =>
  send({
    path: '/v1/enroll',
    type: 'application/json',
    token: bearer,
    body: JSON.stringify({ csr: makeCsr(key), parameters: { serial: '1' } }),
  });

function askByEst(operation: string, who: { permit?: Permit; credentials?: Enrolled }, key: KeyPair) {
  const body = makeCsr(key, who.permit && '1').replaceAll(/-----[A-Z ]+-----|\s/g, '');
  const { permit, credentials } = who;
  const proof = { ...(permit && { token: permit.token }), ...(credentials && { credentials }) };
  return send({ path: `/.well-known/est/${operation}`, type: 'application/pkcs10', body, ...proof });
}

async function sendFile(): Promise<string> {
  const name = (n: number) => (lines.bad.includes(n + 1) ? '=1' : `bulk-${n}`);
  const file = ['name', ...Array.from({ length: lines.count }, (_, n) => name(n + 1))].join('\n');
  const sent = await system.ask('POST', '/v1/registrations', file, { 'content-type': 'text/csv' });
  expect(sent.status).toBe(202);
  return sent.body.id;
}

/** Repeats what was asked until it is answered with this status: a server that has just come back may say "later". */
const answered = (status: number, repeat: () => ReturnType<typeof send>) =>
  eventually(
    async () => {
      const answer = await repeat();
      expect(answer).toMatchObject({ status });
      return answer;
    },
    { withinMs },
  );

/** Every certificate that was ever made for the key: it has to be one, with one audit entry. */
async function onlyCertificateFor({ publicKeyPem }: KeyPair) {
  const spkiSha256 = hash('sha256', publicKeyOf(publicKeyPem), 'buffer');
  const rows = await system.db.select().from(certificates).where(eq(certificates.spkiSha256, spkiSha256));
  expect(rows).toHaveLength(1);
  const { id = '', pem = '', state, deviceId } = rows[0] ?? {};
  const issued = and(eq(audit.subject, `certificate/${id}`), eq(audit.action, 'certificate.issued'));
  expect(await system.db.$count(audit, issued)).toBe(1);
  return { id, pem, state, deviceId };
}

const publicKeyOf = (pem: string) => Buffer.from(pem.replaceAll(/-----[A-Z ]+-----|\s/g, ''), 'base64');
const holds = (pkcs7: string, pem: string) => Buffer.from(pkcs7, 'base64').includes(new X509Certificate(pem).raw);

test('nobody is answered by what was killed between issue and answer', () => {
  expect(answers).toEqual(Array.from({ length: 6 }, () => 'rejected'));
});

test('a device with a claim token is answered with what was issued before', { timeout: 60_000 }, async () => {
  const { body } = await answered(201, () => askByToken(token, keys.token));
  const { id } = await onlyCertificateFor(keys.token);
  expect(JSON.parse(body)).toMatchObject({ deviceName: `${token.template}-1`, certificateId: id });
});

test('so is one by EST', { timeout: 60_000 }, async () => {
  const { body } = await answered(200, () => askByEst('simpleenroll', { permit: est }, keys.est));
  expect(holds(body, (await onlyCertificateFor(keys.est)).pem)).toBe(true);
});

test('one that an operator is to approve of waits once, and gets one certificate', { timeout: 60_000 }, async () => {
  await answered(202, () => askByToken(waiting, keys.waiting));
  const waits = await system.db.select().from(enrolments).where(eq(enrolments.template, waiting.template));
  expect(waits).toHaveLength(1);
  expect((await system.ask('POST', `/v1/enrolments/${waits[0]?.id}/approve`)).status).toBe(202);
  const { body } = await answered(201, () => askByToken(waiting, keys.waiting));
  expect(JSON.parse(body)).toMatchObject({ certificateId: (await onlyCertificateFor(keys.waiting)).id });
});

test('one by a claim certificate over MQTT goes on to its name', { timeout: 60_000 }, async () => {
  const { name, certificateId } = await eventually(
    async () => {
      const client = await connect({ ...claim, name: 'enrolling' });
      const { certificateOwnershipToken, ...issued } = await askByMqtt(client, keys.provisioning);
      const asked = { certificateOwnershipToken, parameters: freshParameters() };
      const { thingName } = await ask(client, provisionTopic(claim.template), asked);
      client.end();
      return { name: String(thingName), certificateId: issued['certificateId'] };
    },
    { withinMs },
  );
  const { id, deviceId } = await onlyCertificateFor(keys.provisioning);
  const [device] = await system.db.select().from(devices).where(eq(devices.name, name));
  expect({ certificateId, deviceId }).toEqual({ certificateId: id, deviceId: device?.id });
});

test('a rotation goes on with the one new certificate, and the old one is good until the proof', async () => {
  const issued = await eventually(
    async () => {
      const client = await connect(rotating);
      return askByMqtt(client, keys.rotation).finally(() => client.end());
    },
    { withinMs },
  );
  const { id, state } = await onlyCertificateFor(keys.rotation);
  expect({ id: issued['certificateId'], state }).toEqual({ id, state: 'PENDING_ACTIVATION' });
  (await connect(rotating)).end();
  const certificate = String(issued['certificatePem']);
  (await connect({ ...rotating, certificate, privateKey: keys.rotation.privateKeyPem })).end();
  expect(await livingOf(rotating)).toBe(2);
}, 60_000);

test('so does one by EST', { timeout: 60_000 }, async () => {
  const { body } = await answered(200, () =>
    askByEst('simplereenroll', { credentials: reenrolling }, keys.reenrolment),
  );
  const { pem, state } = await onlyCertificateFor(keys.reenrolment);
  expect({ state, isIt: holds(body, pem) }).toEqual({ state: 'PENDING_ACTIVATION', isIt: true });
  (await connect(reenrolling)).end();
  expect(await livingOf(reenrolling)).toBe(2);
});

const livingOf = async ({ name }: Enrolled) => {
  const [device] = await system.db.select().from(devices).where(eq(devices.name, name));
  const rows = await system.db
    .select()
    .from(certificates)
    .where(eq(certificates.deviceId, device?.id ?? ''));
  return rows.filter(({ state }) => state !== 'REVOKED').length;
};

test('a file is read to its end: every line once, and the report is whole', { timeout: 60_000 }, async () => {
  const path = `/v1/registrations/${registration}`;
  await eventually(async () => (await system.ask('GET', path)).body['state'] === 'FINISHED', { withinMs });
  const good = lines.count - lines.bad.length;
  expect((await system.ask('GET', path)).body).toMatchObject({ registered: good, refused: lines.bad.length });
  const report = await system.ask('GET', `${path}/report?limit=10000`);
  const faults = report.text.split('\n').filter(Boolean);
  expect(faults.map((fault) => JSON.parse(fault).line)).toEqual(lines.bad);
  const { db } = system;
  expect(await db.$count(registeredDevices, eq(registeredDevices.registrationId, registration))).toBe(good);
  const isOfFile = and(eq(audit.action, 'device.registered'), like(audit.subject, 'device/bulk-%'));
  expect(await db.$count(audit, isOfFile)).toBe(good);
  const finished = and(eq(audit.subject, `registration/${registration}`), eq(audit.action, 'registration.finished'));
  expect(await db.$count(audit, finished)).toBe(1);
});
