import { Agent } from 'node:https';
import { eq } from 'drizzle-orm';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { enrolmentActivities } from '../../activities/enrolments.ts';
import { blockDevice } from '../../db/blocks.ts';
import { enrolments, type TemplateDefinition } from '../../db/enrolment-schema.ts';
import { beginDisplaced } from '../../db/rotation-beginnings.ts';
import { certificates, devices } from '../../db/schema.ts';
import { followTrust } from '../../gateway/trust.ts';
import type { Periodic } from '../../gateway/periodic.ts';
import { deafWire } from '../../gateway/wire.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { makeApi } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { startTestGateway, type Credentials, type GatewayRig } from '../support/gateway.ts';
import { byManufacturer, makeCertificate, makeFactoryDevice, makeRoot, register } from '../support/manufacturers.ts';
import { openRig, type Rig } from './rig.ts';
import { serveTestDoors, type Asking, type Served } from './served.ts';

const log = pino({ level: 'silent' });
let rig: Rig;
let api: Awaited<ReturnType<typeof makeApi>>;
let served: Served;
let trust: Periodic;
beforeAll(async () => {
  rig = await openRig();
  api = await makeApi(rig.db, { wire: rig.wire, authority: rig.fleet.authority });
  served = await serveTestDoors(rig);
  trust = followTrust({ db: rig.db, log, everyMs: 15_000, trust: served.trust });
  rig.wire.hear((hint) => 'trust' in hint && trust.wake());
}, 120_000);
afterAll(async () => {
  await trust?.stop();
  await served?.[Symbol.asyncDispose]();
  await rig?.[Symbol.asyncDispose]();
});

/** Whether a handshake with this certificate comes about, and what the CONNECT is answered: 5 or 0x87 is a no, 0 a yes. */
async function connack(device: Credentials, gateway: Pick<GatewayRig, 'dial'> = rig.gateway) {
  const client = await gateway.dial(device);
  const answer = await client.connack({ clientId: `client-${Math.random()}` });
  client.socket.destroy();
  return answer?.reasonCode;
}
const accepted = 0;
const notAuthorized = 0x87;
const unavailable = 0x88;

/** A root that is registered, and trusted by now. */
async function makeTrusted(part: Partial<TemplateDefinition> = {}, root = makeRoot()) {
  const { template } = await rig.makeTemplate({ ...byManufacturer, ...part });
  const { status, body } = await register(api.ask, root, template);
  expect(status).toBe(201);
  // One that the template cannot name gets through the handshake and no further.
  const nameless = makeFactoryDevice(root, { subject: { commonName: 'nameless' } });
  await eventually(async () => expect(await connack(nameless)).toBe(notAuthorized));
  return { root, template, id: body.id };
}

const nameOf = ({ serial }: { serial: string }) => `Acme-${serial}`;
const findDevice = async (name: string) => (await rig.db.select().from(devices).where(eq(devices.name, name)))[0];
const certificatesOf = async (name: string) =>
  (
    await rig.db
      .select({ certificate: certificates })
      .from(certificates)
      .innerJoin(devices, eq(devices.id, certificates.deviceId))
      .where(eq(devices.name, name))
  ).map(({ certificate }) => certificate);
const retire = (id: string) => api.ask('POST', `/v1/manufacturer-authorities/${id}/retire`);
/** The count of handshakes that the gateway has refused. */
async function failures(): Promise<number> {
  const { values } = await rig.gateway.metrics.handshakesFailed.get();
  return values.reduce((sum, { value }) => sum + value, 0);
}
const refusedInHandshake = async (device: Credentials) => {
  const before = await failures();
  expect(await connack(device)).toBeUndefined();
  await eventually(async () => expect(await failures()).toBe(before + 1));
};

describe('a device of a registered manufacturer', () => {
  test('is enrolled by its first connection, and no neighbour is dropped by what changes', async () => {
    const neighbour = await rig.gateway.dial(await rig.fleet.makeDevice());
    await neighbour.connack();
    const root = makeRoot();
    const device = makeFactoryDevice(root);
    await refusedInHandshake(device);
    const { template, id } = await makeTrusted({ attributes: { made: '${manufacturer.organization}' } }, root);
    expect(await connack(device)).toBe(accepted);
    expect(await findDevice(nameOf(device))).toMatchObject({ state: 'ACTIVE', template, attributes: { made: 'Acme' } });
    expect(await certificatesOf(nameOf(device))).toMatchObject([
      { state: 'ACTIVE', authorityId: null, manufacturerAuthorityId: id, pem: device.pem },
    ]);
    expect(await connack(device)).toBe(accepted);

    expect((await retire(id)).body).toMatchObject({ state: 'RETIRED', devices: 1 });
    await eventually(async () => expect(await connack(makeFactoryDevice(root))).toBeUndefined());
    await refusedInHandshake(device);
    // What is still connected by it is given a certificate of ours at once.
    const due = await beginDisplaced(rig.db, { policy: 'default', limit: 10 }, { idPrefix: 'none/', name: 'none' });
    expect(due.map((begun) => begun.device)).toEqual([nameOf(device)]);
    neighbour.send({ cmd: 'pingreq' });
    expect(await neighbour.next('pingresp')).toBeDefined();
    neighbour.socket.destroy();
  });

  test('may chain over authorities that it shows', async () => {
    const { root } = await makeTrusted();
    const line = makeCertificate({ authority: true, pathLength: 0, issuer: root });
    const device = makeFactoryDevice(line, { between: [line] });
    expect(await connack(device)).toBe(accepted);
    expect(await certificatesOf(nameOf(device))).toHaveLength(1);
  });

  test('is one device, although it connects fifty times at once', async () => {
    const { root } = await makeTrusted();
    const device = makeFactoryDevice(root);
    const answers = await Promise.all(Array.from({ length: 50 }, () => connack(device)));
    expect(new Set(answers)).toEqual(new Set([accepted]));
    expect(await certificatesOf(nameOf(device))).toHaveLength(1);
    const { id } = (await findDevice(nameOf(device))) ?? {};
    expect(await rig.db.$count(enrolments, eq(enrolments.deviceId, id ?? ''))).toBe(1);
  });

  test('is let in by either of two authorities of one name', async () => {
    const first = await makeTrusted();
    const second = await makeTrusted({}, makeRoot({ subject: first.root.subject }));
    for (const { root, template } of [first, second, first]) {
      const device = makeFactoryDevice(root);
      expect(await connack(device)).toBe(accepted);
      expect(await findDevice(nameOf(device))).toMatchObject({ template });
    }
  });

  test('is let in although the hint was lost, and refused by the row where a server has not heard yet', async () => {
    await using gateway = await startTestGateway(rig.fleet, {
      temporal: rig.temporal,
      wire: deafWire(),
      sweepEveryMs: 200,
    });
    const { root, id } = await makeTrusted();
    const device = makeFactoryDevice(root);
    await eventually(async () => expect(await connack(device, gateway)).toBe(accepted));
    await using late = await startTestGateway(rig.fleet, { wire: deafWire(), sweepEveryMs: 3_600_000 });
    await eventually(async () => expect(await connack(device, late)).toBe(accepted));
    await retire(id);
    expect(await connack(device, late)).toBe(notAuthorized);
    expect(await connack(makeFactoryDevice(root), late)).toBe(notAuthorized);
  });

  test('waits for an operator where the template says so, and comes in with the same certificate', async () => {
    const { root, template } = await makeTrusted({ approval: true });
    const device = makeFactoryDevice(root);
    expect(await connack(device)).toBe(unavailable);
    expect(await certificatesOf(nameOf(device))).toEqual([]);
    const { body } = await api.ask('GET', `/v1/enrolments?filter=template==${template}`);
    expect((await api.ask('POST', `/v1/enrolments/${body.items[0]?.id}/approve`)).status).toBeLessThan(300);
    await eventually(async () => expect(await connack(device)).toBe(accepted));
    expect(await certificatesOf(nameOf(device))).toMatchObject([{ pem: device.pem }]);
  });

  test('that was enrolled and never came is forgotten, and may come again', async () => {
    const { root } = await makeTrusted();
    const device = makeFactoryDevice(root);
    expect(await connack(device)).toBe(accepted);
    const [row] = await certificatesOf(nameOf(device));
    const [enrolment] = await rig.db
      .select()
      .from(enrolments)
      .where(eq(enrolments.certificateId, row?.id ?? ''));
    const enrolmentId = enrolment?.id ?? '';
    // As if the gateway had been killed between row and session.
    await rig.db
      .update(certificates)
      .set({ state: 'PENDING_ACTIVATION', activatedAt: null })
      .where(eq(certificates.id, row?.id ?? ''));
    await rig.db
      .update(devices)
      .set({ state: 'REGISTERED' })
      .where(eq(devices.name, nameOf(device)));
    const past = { state: 'REGISTERED' as const, closesAt: new Date(Date.now() - 1_000) };
    await rig.db.update(enrolments).set(past).where(eq(enrolments.id, enrolmentId));
    const { lapseEnrolment } = enrolmentActivities({ db: rig.db, authority: rig.fleet.authority, wire: rig.wire });
    expect(await lapseEnrolment({ enrolmentId })).toBe('LAPSED');
    expect(await certificatesOf(nameOf(device))).toEqual([]);
    expect(await connack(device)).toBe(accepted);
    expect(await certificatesOf(nameOf(device))).toMatchObject([{ state: 'ACTIVE', pem: device.pem }]);
  });
});

test('what does not chain to a trusted authority by every rule is refused in the handshake', async () => {
  const { root } = await makeTrusted();
  const short = await makeTrusted({}, makeRoot({ pathLength: 0 }));
  const between = makeCertificate({ authority: true, issuer: short.root });
  const device = makeFactoryDevice(root);
  const over = makeCertificate({ authority: true, issuer: root, notAfter: new Date(Date.now() - 1_000) });
  await refusedInHandshake(makeFactoryDevice(makeRoot()));
  await refusedInHandshake(makeFactoryDevice(makeRoot({ subject: root.subject })));
  await refusedInHandshake(makeFactoryDevice(device, { between: [device] }));
  await refusedInHandshake(makeFactoryDevice(between, { between: [between] }));
  await refusedInHandshake(makeFactoryDevice(over, { between: [over] }));
  await refusedInHandshake(makeFactoryDevice(root, { notAfter: new Date(Date.now() - 1_000) }));
  await refusedInHandshake(makeFactoryDevice(root, { purposes: ['2b06010505070301'] }));
  expect(await connack(device)).toBe(accepted);
});

describe('a certificate with the name of a device that is enrolled', () => {
  test.each([
    ['reject', notAuthorized],
    ['approve', unavailable],
    ['replace', accepted],
  ] as const)('meets what its template says: %s', async (existing, answer) => {
    const { root } = await makeTrusted({ existing });
    const device = makeFactoryDevice(root);
    expect(await connack(device)).toBe(accepted);
    const other = makeFactoryDevice(root, { subject: device.subject });
    expect(await connack(other)).toBe(answer);
    const states = async () => (await certificatesOf(nameOf(device))).map(({ pem, state }) => [pem, state]);
    const expected =
      existing === 'replace'
        ? [
            [device.pem, 'REVOKED'],
            [other.pem, 'ACTIVE'],
          ]
        : [[device.pem, 'ACTIVE']];
    await eventually(async () => expect(new Set(await states())).toEqual(new Set(expected)));
    expect(await connack(device)).toBe(existing === 'replace' ? notAuthorized : accepted);
  });
});

test('a device that is revoked or blocked stays out, with its factory certificate and with another', async () => {
  const { root } = await makeTrusted({ existing: 'replace' });
  const [revoked, blocked] = [makeFactoryDevice(root), makeFactoryDevice(root)];
  for (const device of [revoked, blocked]) expect(await connack(device)).toBe(accepted);
  const [row] = await certificatesOf(nameOf(revoked));
  await api.ask('POST', `/v1/certificates/${row?.id}/revoke`, { reason: 'keyCompromise' });
  expect(await connack(revoked)).toBe(notAuthorized);
  expect(await connack(makeFactoryDevice(root, { key: revoked.key }))).toBe(notAuthorized);
  await blockDevice(rig.db, 'system/test', nameOf(blocked));
  expect(await connack(blocked)).toBe(notAuthorized);
  expect(await connack(makeFactoryDevice(root, { subject: blocked.subject }))).toBe(notAuthorized);
  expect(await connack(makeFactoryDevice(root, { key: blocked.key }))).toBe(notAuthorized);
});

describe('over EST', () => {
  const base64Of = (pem: string) => pem.replaceAll(/-----[A-Z ]+-----|\s/g, '');
  const ask = (operation: string, credentials: Credentials, key = makeKeyPair(), asking: Asking = {}) =>
    served.ask('POST', `/.well-known/est/${operation}`, {
      headers: { 'content-type': 'application/pkcs10' },
      body: base64Of(makeCsr(key)),
      credentials,
      ...asking,
    });

  test("a manufacturer's certificate enrols with a key of the device's choice, and is judged at each request", async () => {
    const { root, id } = await makeTrusted();
    const device = makeFactoryDevice(root);
    using agent = Object.assign(new Agent({ keepAlive: true, maxSockets: 1 }), {
      [Symbol.dispose]: () => agent.destroy(),
    });
    const key = makeKeyPair();
    await eventually(async () => expect((await ask('simpleenroll', device, key)).status).toBe(200));
    expect((await ask('simpleenroll', device, key, { agent })).status).toBe(200);
    const [row, ...more] = await certificatesOf(nameOf(device));
    expect(more).toEqual([]);
    expect(row).toMatchObject({ manufacturerAuthorityId: null });
    const bundle = await served.ask('GET', '/authorities.pem');
    expect(bundle.body).not.toContain(base64Of(root.pem).slice(0, 64));
    await retire(id);
    const after = await ask('simpleenroll', makeFactoryDevice(root), makeKeyPair());
    expect(after.status).toBe(401);
    expect((await ask('simpleenroll', device, makeKeyPair(), { agent })).status).toBe(401);
  });

  test('nobody enrols by a certificate of his own making', async () => {
    const { root } = await makeTrusted();
    const twin = makeFactoryDevice(makeRoot({ subject: root.subject }));
    expect((await ask('simpleenroll', twin)).status).toBe(401);
    const device = makeFactoryDevice(root);
    expect((await ask('simpleenroll', makeFactoryDevice(device, { between: [device] }))).status).toBe(401);
    const server = makeFactoryDevice(root, { purposes: ['2b06010505070301'] });
    expect((await ask('simpleenroll', server)).status).toBe(401);
  });

  test('a device that lives by its factory certificate may ask for one of ours at any time', async () => {
    const { root } = await makeTrusted();
    const device = makeFactoryDevice(root);
    expect(await connack(device)).toBe(accepted);
    const key = makeKeyPair();
    expect((await ask('simplereenroll', device, key)).status).toBe(200);
    const ours = (await certificatesOf(nameOf(device))).find(({ authorityId }) => authorityId !== null);
    const certificate = `${ours?.pem}${rig.fleet.authority.certificatePem}`;
    expect(await connack({ certificateId: '', certificate, privateKey: key.privateKeyPem })).toBe(accepted);
  });
});
