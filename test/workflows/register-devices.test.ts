import { createHash, createPublicKey } from 'node:crypto';
import { and, eq, like, sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { blockDevice } from '../../db/blocks.ts';
import { insertGroup } from '../../db/groups.ts';
import { listGroupsOf } from '../../db/group-members.ts';
import { registrationChunks, registrations } from '../../db/registration-schema.ts';
import { audit, certificates, devices } from '../../db/schema.ts';
import { makeKeyPair, type KeyPair } from '../../pki/keys.ts';
import { registerDevicesId } from '../../workflows/register-devices.ts';
import { openRig, type Rig } from '../doors/rig.ts';
import { makeApi } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { recordHistory } from '../support/histories.ts';

let rig: Rig;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  rig = await openRig();
  api = await makeApi(rig.db, { authority: rig.fleet.authority, wire: rig.wire });
}, 120_000);
afterAll(() => rig[Symbol.asyncDispose]());

const csv = { 'content-type': 'text/csv' };
const upload = (body: string | Uint8Array<ArrayBuffer>, headers: Record<string, string> = csv) =>
  api.send('POST', '/v1/registrations', { body, headers: { authorization: `Bearer ${api.token}`, ...headers } });

/** Sends the file, waits for its end, and gives the registration with the codes of its report by line. */
async function register(body: string | Uint8Array<ArrayBuffer>, headers = csv) {
  const begun = await upload(body, headers);
  expect(begun).toMatchObject({ status: 202, body: { lifecycle: { workflowId: registerDevicesId(begun.body.id) } } });
  const { id } = begun.body;
  await eventually(async () => (await api.ask('GET', `/v1/registrations/${id}`)).body.state === 'FINISHED');
  const { body: registration } = await api.ask('GET', `/v1/registrations/${id}`);
  return { ...registration, faults: await faultsOf(id) };
}

async function faultsOf(id: string) {
  const { text } = await api.ask('GET', `/v1/registrations/${id}/report?limit=10000`);
  const lines = text.split('\n').filter(Boolean);
  const faults = lines.map((line) => JSON.parse(line) as { line: number; name: string | null; code: string });
  return Object.fromEntries(faults.map(({ line, code }) => [line, code]));
}

const spki = (key: KeyPair) => createPublicKey(key.publicKeyPem).export({ type: 'spki', format: 'der' });
const fingerprint = (key: KeyPair) => createHash('sha256').update(spki(key)).digest('hex');
const deviceNamed = async (name: string) => (await rig.db.select().from(devices).where(eq(devices.name, name)))[0];
const fresh = () => `bulk-${crypto.randomUUID().slice(0, 8)}`;

/** A certificate of the fleet's authority that no row knows: made where the devices are made. */
async function makeAtTheFactory(name: string) {
  const key = makeKeyPair();
  const certificateId = createHash('sha256').update(name).digest('hex');
  const issued = await rig.fleet.authority.issue({
    profile: 'device',
    certificateId,
    subject: { device: name },
    publicKey: spki(key),
    lifetimeMs: 90 * 86_400_000,
  });
  return { key, certificateId, pem: issued.pem, der: issued.der };
}

describe('a file', () => {
  test('registers its devices with serial, attributes and groups, each with an audit entry', async () => {
    const name = fresh();
    await insertGroup(rig.db, 'system/test', { id: crypto.randomUUID(), name, description: '', filter: null });
    const file = `\ufeffname,serial,groups,attributes.site\r\n${name}-1,SN-1,${name},"Köln, Süd"\r\n${name}-2,,,\r\n`;
    const { id, faults, ...registration } = await register(file);
    expect(registration).toMatchObject({
      state: 'FINISHED',
      registered: 2,
      refused: 0,
      bytesRead: Buffer.byteLength(file),
    });
    expect(faults).toEqual({});
    const device = await deviceNamed(`${name}-1`);
    expect(device).toMatchObject({ state: 'REGISTERED', attributes: { serial: 'SN-1', site: 'Köln, Süd' } });
    expect(await listGroupsOf(rig.db, device?.id ?? '')).toEqual([name]);
    const [entry] = await rig.db
      .select()
      .from(audit)
      .where(eq(audit.subject, `device/${name}-1`));
    expect(entry).toMatchObject({
      action: 'device.registered',
      data: { registrationId: id, line: 2 },
      actor: `api-key/${api.key.id}`,
    });
    const entries = await rig.db
      .select()
      .from(audit)
      .where(eq(audit.subject, `registration/${id}`))
      .orderBy(audit.id);
    expect(entries.map(({ action }) => action)).toEqual(['registration.created', 'registration.finished']);
    expect(await rig.db.select().from(registrationChunks).where(eq(registrationChunks.registrationId, id))).toEqual([]);
    await recordHistory(rig.temporal.client.workflow.getHandle(registerDevicesId(id)), 'registerDevices-finished');
  });

  test('has each line that registers nothing in its report, page by page, and the others registered all the same', async () => {
    const name = fresh();
    const key = makeKeyPair();
    await rig.fleet.makeDevice({ name: `${name}-there` });
    const { name: blocked } = await rig.fleet.makeDevice();
    await blockDevice(rig.db, 'system/test', blocked);
    const lines = [
      `${name}-1,${fingerprint(key)},`,
      `${name.toUpperCase()}-1,,`,
      `${name}-THERE,,`,
      `${name}-2,${fingerprint(key)},`,
      `=HYPERLINK(),,`,
      `${name}-3,,nowhere`,
      `${name}-4,"`,
      `${name}-5,,`,
      `${blocked},,`,
    ];
    const { id, registered, refused, faults } = await register(`name,fingerprint,groups\n${lines.join('\n')}`);
    expect({ registered, refused }).toEqual({ registered: 2, refused: 7 });
    expect(faults).toEqual({
      3: 'duplicate-name',
      4: 'name-taken',
      5: 'duplicate-key',
      6: 'bad-name',
      7: 'unknown-group',
      8: 'bad-quotes',
      10: 'name-blocked',
    });
    const first = await api.ask('GET', `/v1/registrations/${id}/report?limit=4`);
    expect(first.headers.get('content-type')).toBe('application/x-ndjson');
    const next = /<([^>]+)>/.exec(first.headers.get('link') ?? '')?.[1] ?? '';
    const second = await api.ask('GET', next);
    expect(second.headers.get('link')).toBeNull();
    expect(`${first.text}${second.text}`).toBe((await api.ask('GET', `/v1/registrations/${id}/report`)).text);
    const again = await register(`name\n${name}-1\n`, csv);
    expect(again).toMatchObject({ registered: 0, faults: { 2: 'name-taken' } });
    const [reused] = Object.values((await register(`name,fingerprint\n${name}-9,${fingerprint(key)}\n`)).faults);
    expect(reused).toBe('key-in-use');
  });

  test('may be NDJSON', async () => {
    const name = fresh();
    const lines = [
      { name, serial: '1', attributes: { site: 'x' } },
      { name: `${name}-2`, colour: 'red' },
    ];
    const file = lines.map((line) => JSON.stringify(line)).join('\n');
    const { registered, faults } = await register(file, { 'content-type': 'application/x-ndjson' });
    expect({ registered, faults }).toEqual({ registered: 1, faults: { 2: 'unknown-field' } });
    expect(await deviceNamed(name)).toMatchObject({ attributes: { serial: '1', site: 'x' } });
  });

  test.each([
    ['', 'text/csv', 422],
    ['\n\n', 'text/csv', 422],
    ['name,serial\n', 'text/csv', 422],
    ['name,colour\na,b\n', 'text/csv', 422],
    ['name;serial\na;b\n', 'text/csv', 422],
    ['"name\na\n', 'text/csv', 422],
    ['', 'application/x-ndjson', 422],
    ['name\npump', 'application/x-ndjson', 422],
    ['name\npump', 'application/json', 415],
    ['name\npump', 'text/csv; charset=utf-16', 415],
    [Uint8Array.of(0x1f, 0x8b, 8, 0), 'text/csv', 415],
    [Uint8Array.of(0xff, 0xfe, 0x6e, 0), 'text/csv', 422],
    [`name\n${'x'.repeat(3 * 1024 ** 2)}`, 'text/csv', 413],
  ])('of which no line could register anything is refused at once: %#', async (body, type, status) => {
    const answer = await upload(body, { 'content-type': type });
    expect(answer).toMatchObject({ status, headers: expect.anything() });
    expect(answer.headers.get('content-type')).toBe('application/problem+json');
    expect(await rig.db.select().from(registrations).where(eq(registrations.state, 'UPLOADING'))).toEqual([]);
  });

  test('that is sent again with its key is the same registration; with the key of another file it is refused', async () => {
    const name = fresh();
    const headers = { ...csv, 'idempotency-key': name };
    const [first, twin] = await Promise.all([upload(`name\n${name}`, headers), upload(`name\n${name}`, headers)]);
    expect(twin.body.id).toBe(first.body.id);
    expect((await upload(`name\n${name}`, headers)).headers.get('idempotent-replayed')).toBe('true');
    expect((await upload(`name\n${name}-2`, headers)).status).toBe(422);
    const starts = and(eq(audit.subject, `registration/${first.body.id}`), eq(audit.action, 'registration.created'));
    expect(await rig.db.select().from(audit).where(starts)).toHaveLength(1);
    await eventually(async () => (await deviceNamed(name)) !== undefined);
  });
});

describe('a registered key', () => {
  test('is the only one that enrols under the name, and enrols under no other', async () => {
    const { template } = await rig.makeTemplate();
    const { permit } = await rig.makeToken(template);
    const key = makeKeyPair();
    const { faults } = await register(`name,fingerprint\n${template}-1,${fingerprint(key)}\n${template}-2,\n`);
    expect(faults).toEqual({});
    expect(await rig.refused(rig.enrol(permit, '1'))).toBe('KeyNotRegistered');
    expect(await rig.refused(rig.enrol(permit, '2', key))).toBe('KeyNotRegistered');
    expect(await rig.refused(rig.enrol(permit, '3', key))).toBe('KeyNotRegistered');
    expect(await rig.enrol(permit, '1', key)).toMatchObject({ deviceName: `${template}-1` });
    expect(await rig.refused(rig.enrol(permit, '2'))).toBe('accepted');
  });

  test('may be released: then any key enrols under the name', async () => {
    const { template } = await rig.makeTemplate();
    const { permit } = await rig.makeToken(template);
    await register(`name,fingerprint\n${template}-1,${fingerprint(makeKeyPair())}\n`);
    const path = `/v1/devices/${template}-1/registered-key`;
    expect((await api.ask('DELETE', path)).status).toBe(204);
    expect((await api.ask('DELETE', path)).status).toBe(404);
    expect(await rig.refused(rig.enrol(permit, '1'))).toBe('accepted');
  });

  test('is blocked with its device, before it ever enrolled', async () => {
    const name = fresh();
    const key = makeKeyPair();
    await register(`name,fingerprint\n${name},${fingerprint(key)}\n`);
    await api.ask('POST', `/v1/devices/${name}/block`);
    const { template } = await rig.makeTemplate();
    const { permit } = await rig.makeToken(template);
    expect(await rig.refused(rig.enrol(permit, '1', key))).toBe('DeviceBlocked');
  });
});

describe('a registered certificate', () => {
  test('of an authority of this fleet lets its device in directly, and puts it in service', async () => {
    const name = fresh();
    const [first, second] = [await makeAtTheFactory(`${name}-1`), await makeAtTheFactory(`${name}-2`)];
    const file = `name,certificate\n${name}-1,"${first.pem}"\n${name}-2,${Buffer.from(second.der).toString('base64')}\n`;
    expect(await register(file)).toMatchObject({ registered: 2, faults: {} });
    const { certificateId, key, pem } = first;
    const client = await rig.gateway.connect({ certificateId, certificate: pem, privateKey: key.privateKeyPem });
    client.end(true);
    expect(await deviceNamed(`${name}-1`)).toMatchObject({ state: 'ACTIVE' });
    const states = await rig.db
      .select({ state: certificates.state })
      .from(certificates)
      .where(like(certificates.subject, `${name}-%`))
      .orderBy(certificates.subject);
    expect(states).toEqual([{ state: 'ACTIVE' }, { state: 'PENDING_ACTIVATION' }]);
    expect(await register(`name,certificate\n${name}-3,"${pem}"\n`)).toMatchObject({ faults: { 2: 'key-in-use' } });
  });

  test('that is none, is not ours, or has another key than the line says, is in the report', async () => {
    const name = fresh();
    const { pem } = await makeAtTheFactory(name);
    const { fleet } = rig;
    const foreign = (await makeApi(rig.db)).authority.rootPem;
    const lines = [
      `"${pem.replace('A', 'B')}",`,
      `"${pem}${pem}",`,
      `"${fleet.authority.certificatePem}",`,
      `"${foreign}",`,
      `"${pem}",${'0'.repeat(64)}`,
      'MIIB,',
    ];
    const file = `name,certificate,fingerprint\n${lines.map((line, index) => `${name}-${index},${line}`).join('\n')}\n`;
    const { faults, registered } = await register(file);
    expect(registered).toBe(0);
    expect(Object.values(faults).toSorted()).toEqual([
      ...Array.from({ length: 5 }, () => 'bad-certificate'),
      'key-mismatch',
    ]);
    expect(await rig.db.execute(sql`select from registration_faults where detail like '%BEGIN%'`)).toHaveLength(0);
  });
});
