import { createHash, createPublicKey, X509Certificate } from 'node:crypto';
import { and, eq } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { blockDevice, unblockDevice, writeBlock } from '../../db/blocks.ts';
import { claims, enrolments } from '../../db/enrolment-schema.ts';
import { insertGroup } from '../../db/groups.ts';
import { listGroupsOf } from '../../db/group-members.ts';
import { certificates, devices } from '../../db/schema.ts';
import { makeCsr, makeKeyPair, type KeyPair } from '../../pki/keys.ts';
import { eventually } from '../support/eventually.ts';
import { openRig, type Rig } from './rig.ts';

let rig: Rig;
beforeAll(async () => void (rig = await openRig()), 120_000);
afterAll(() => rig[Symbol.asyncDispose]());

const deviceNamed = async (name: string) => (await rig.db.select().from(devices).where(eq(devices.name, name)))[0];
const usesOf = async (id: string) => (await rig.db.select().from(claims).where(eq(claims.id, id)))[0]?.uses;
const keyHash = (key: KeyPair) =>
  createHash('sha256')
    .update(createPublicKey(key.publicKeyPem).export({ type: 'spki', format: 'der' }))
    .digest();
const connect = (
  key: KeyPair,
  { certificatePem: certificate, certificateId }: { certificatePem: string; certificateId: string },
) => rig.gateway.connect({ certificate, certificateId, privateKey: key.privateKeyPem });

describe('certificate and registration in one step', () => {
  test('give a certificate in the name of the device, with which it connects', async () => {
    const { template } = await rig.makeTemplate();
    const { permit } = await rig.makeToken(template);
    const key = makeKeyPair();
    const enrolled = await rig.enrol(permit, '1', key);
    expect(enrolled).toMatchObject({ deviceName: `${template}-1`, configuration: { broker: 'b.1' } });
    const leaf = new X509Certificate(enrolled.certificatePem);
    expect(leaf.subject).toBe(`CN=${template}-1`);
    expect(leaf.subjectAltName).toBe(`URI:urn:longhaul:device:${template}-1`);
    const client = await connect(key, enrolled);
    client.end(true);
    await eventually(async () => expect(await rig.enrolmentOf(permit)).toMatchObject({ state: 'ACTIVATED' }));
    expect(await deviceNamed(`${template}-1`)).toMatchObject({
      state: 'ACTIVE',
      template,
      attributes: { line: template },
    });
  });

  test('fifty times at once are one certificate, one device and one use', async () => {
    const { template } = await rig.makeTemplate();
    const { permit } = await rig.makeToken(template);
    const key = makeKeyPair();
    const all = await Promise.all(Array.from({ length: 50 }, () => rig.enrol(permit, '1', key)));
    expect(new Set(all.map(({ certificateId }) => certificateId)).size).toBe(1);
    expect(await usesOf(permit.claimId)).toBe(1);
  });

  test('are answered again when the claim is used up, and refused to another key and to other parameters', async () => {
    const { template } = await rig.makeTemplate();
    const { permit } = await rig.makeToken(template, { usesMax: 1 });
    const key = makeKeyPair();
    const first = await rig.enrol(permit, '1', key);
    expect(await rig.enrol(permit, '1', key)).toEqual(first);
    expect(await rig.refused(rig.enrol(permit, '2', key))).toBe('AlreadyRegistered');
    expect(await rig.refused(rig.enrol(permit, '2'))).toBe('ClaimExhausted');
  });

  test('are refused to a request in the name of another device, and use nothing up', async () => {
    const { template } = await rig.makeTemplate();
    const { permit } = await rig.makeToken(template);
    expect(await rig.refused(rig.enrol(permit, '1', makeKeyPair(), `${template}-2`))).toBe('InvalidCsr');
    expect(await usesOf(permit.claimId)).toBe(0);
    expect(await rig.enrol(permit, '1', makeKeyPair(), `${template}-1`)).toMatchObject({ deviceName: `${template}-1` });
  });

  test('are refused to a device or a key that the claim is not for', async () => {
    const { template } = await rig.makeTemplate();
    const named = await rig.makeToken(template, { deviceNames: [`${template}-1`] });
    expect(await rig.refused(rig.enrol(named.permit, '2'))).toBe('ClaimNotForThis');
    expect(await rig.refused(rig.enrol(named.permit, '1'))).toBe('accepted');
    const key = makeKeyPair();
    const bound = await rig.makeToken(template, { spkiSha256: keyHash(key) });
    expect(await rig.refused(rig.enrol(bound.permit, '3'))).toBe('ClaimNotForThis');
    expect(await rig.refused(rig.enrol(bound.permit, '3', key))).toBe('accepted');
  });
});

describe('a template', () => {
  test("names devices by their manufacturer's certificate, whatever the request says", async () => {
    const { template } = await rig.makeTemplate({
      namePattern: '${manufacturer.organization}-${manufacturer.serialNumber}',
      parameters: [],
      attributes: { asked: '${request.commonName}' },
    });
    const { permit } = await rig.makeToken(template);
    const manufacturer = { organization: 'Acme', serialNumber: template };
    const csr = makeCsr(makeKeyPair(), 'somebody-else');
    const enrolled = await rig.entrance.enrol({ ...permit, manufacturer }, { csr, parameters: {} });
    expect(enrolled.deviceName).toBe(`Acme-${template}`);
    expect(await deviceNamed(`Acme-${template}`)).toMatchObject({ attributes: { asked: 'somebody-else' } });
    const without = rig.entrance.enrol(permit, { csr: makeCsr(makeKeyPair(), 'x'), parameters: {} });
    expect(await rig.refused(without)).toBe('InvalidParameters');
  });

  test('puts devices into its groups, and takes the keys that it wants and no others', async () => {
    const group = { id: crypto.randomUUID(), name: `group-${Date.now()}`, description: '', filter: null };
    await insertGroup(rig.db, 'system/test', group);
    const { template } = await rig.makeTemplate({ groups: [group.name, 'gone'] });
    const { permit } = await rig.makeToken(template);
    await rig.enrol(permit, '1');
    expect(await listGroupsOf(rig.db, (await deviceNamed(`${template}-1`))?.id ?? '')).toEqual([group.name]);
    const strict = await rig.makeTemplate({ keys: ['P-384'] });
    const { permit: other } = await rig.makeToken(strict.template);
    expect(await rig.refused(rig.enrol(other, '1'))).toBe('KeyNotPermitted');
  });
});

describe('a device that is enrolled already', () => {
  const again = async (existing: 'reject' | 'replace') => {
    const { template } = await rig.makeTemplate({ existing });
    const { permit } = await rig.makeToken(template);
    const before = makeKeyPair();
    const first = await rig.enrol(permit, '1', before);
    (await connect(before, first)).end(true);
    return { template, permit, first };
  };

  test('is not enrolled again where its template rejects that', async () => {
    const { permit } = await again('reject');
    expect(await rig.refused(rig.enrol(permit, '1'))).toBe('DeviceExists');
  });

  test('is replaced where its template says so, once it has connected with the new certificate and not before', async () => {
    const { permit, first } = await again('replace');
    const unused = await rig.enrol(permit, '1');
    const after = makeKeyPair();
    const second = await rig.enrol(permit, '1', after);
    const stateOf = async ({ certificateId }: { certificateId: string }) =>
      (await rig.db.select().from(certificates).where(eq(certificates.id, certificateId)))[0]?.state;
    // The device never has a third.
    expect(await Promise.all([first, unused, second].map(stateOf))).toEqual([
      'ACTIVE',
      'REVOKED',
      'PENDING_ACTIVATION',
    ]);
    (await connect(after, second)).end(true);
    await eventually(async () => expect(await stateOf(first)).toBe('REVOKED'));
    expect(await stateOf(second)).toBe('ACTIVE');
    const living = and(eq(enrolments.claimId, permit.claimId), eq(enrolments.supersedes, true));
    await eventually(async () => expect(await rig.db.$count(enrolments, living)).toBeLessThan(2));
  });
});

describe('a block', () => {
  test('beats every permission, by name and by key, and outlives the row of the device', async () => {
    const { template } = await rig.makeTemplate({ existing: 'replace' });
    const { permit } = await rig.makeToken(template);
    const key = makeKeyPair();
    await rig.enrol(permit, '1', key);
    const name = `${template}-1`;
    await blockDevice(rig.db, 'system/test', name, 'stolen');
    const device = await deviceNamed(name);
    await rig.db.update(enrolments).set({ deviceId: null }).where(eq(enrolments.claimId, permit.claimId));
    await rig.db.delete(certificates).where(eq(certificates.id, 'none'));
    await rig.db
      .update(certificates)
      .set({ deviceId: null, state: 'REVOKED' })
      .where(eq(certificates.deviceId, device?.id ?? ''));
    await rig.db.delete(devices).where(eq(devices.name, name));

    expect(await rig.refused(rig.enrol(permit, '1'))).toBe('DeviceBlocked');
    const elsewhere = await rig.makeToken((await rig.makeTemplate()).template);
    expect(await rig.refused(rig.enrol(elsewhere.permit, '9', key))).toBe('DeviceBlocked');
    const certify = rig.entrance.certify(elsewhere.permit, makeCsr(key));
    expect(await rig.refused(certify)).toBe('DeviceBlocked');
    expect(await unblockDevice(rig.db, 'system/test', name.toUpperCase())).toEqual({});
    expect(await rig.refused(rig.enrol(permit, '1'))).toBe('accepted');
  });

  test('of a device that never was holds against it, and is written once', async () => {
    const { template } = await rig.makeTemplate();
    const { permit } = await rig.makeToken(template);
    const block = { name: `${template}-1`, keys: [], reason: 'not ours' };
    await rig.db.transaction((tx) => writeBlock(tx, 'system/test', block));
    await rig.db.transaction((tx) => writeBlock(tx, 'system/test', block));
    expect(await rig.refused(rig.enrol(permit, '1'))).toBe('DeviceBlocked');
  });
});
