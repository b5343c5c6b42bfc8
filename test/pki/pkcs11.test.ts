import { randomBytes, randomUUID, verify, X509Certificate, createPublicKey } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pkcs11 from 'pkcs11js';
import { afterAll, describe, expect, inject, test } from 'vitest';
import type { MakeIssuingKey } from '../../api/authorities.ts';
import { findAuthority, listAuthorities } from '../../db/authorities.ts';
import { switchAuthority } from '../../db/rollovers.ts';
import { createAuthorities, createIssuing, openAuthority } from '../../pki/authority.ts';
import { makeKeyPair } from '../../pki/keys.ts';
import { openPkcs11 } from '../../pki/pkcs11.ts';
import { remoteSigner } from '../../pki/signers.ts';
import { ensureAuthorities } from '../../workers/authorities.ts';
import { makeIssuingKey } from '../../workers/issuing-keys.ts';
import { openListSigners, openSigner } from '../../workers/signer.ts';
import { makeApi } from '../support/api.ts';
import { certify } from '../support/authorities.ts';
import { makeDatabase } from '../support/database.ts';
import { makeToken } from './token.ts';

const own = makeToken();
const token = openPkcs11(own);
afterAll(() => token[Symbol.dispose]());

const spkiOf = (pem: string) => createPublicKey(pem).export({ type: 'spki', format: 'der' });

/** An issuing authority whose key was made in the token. */
async function makeAuthority(label: string) {
  const { root } = await createAuthorities({ keyEncryptionKey: randomBytes(32) });
  const signer = token.makeSigner(label);
  const issuing = await createIssuing({ root, spki: signer.spki });
  const names = { id: randomUUID(), rootPem: root.certificatePem, issuingPem: issuing.certificatePem };
  return { authority: await openAuthority({ ...names, signer }), names, root };
}

const request = () => ({
  profile: 'device' as const,
  certificateId: randomBytes(32).toString('hex'),
  subject: { device: 'pump-1' },
  publicKey: spkiOf(makeKeyPair().publicKeyPem),
  lifetimeMs: 90 * 86_400_000,
});

describe('an issuing key in a token', () => {
  test('signs certificates and revocation lists, fifty at once and again by its label, and they verify', async () => {
    const { authority, names, root } = await makeAuthority('issuing-1');
    const reopened = await openAuthority({ ...names, signer: token.findSigner('issuing-1') });
    const issued = await Promise.all(
      Array.from({ length: 50 }, (_, n) => (n % 2 ? authority : reopened).issue(request())),
    );
    const issuer = new X509Certificate(names.issuingPem);
    expect(issuer.verify(new X509Certificate(root.certificatePem).publicKey)).toBe(true);
    for (const { pem } of issued) expect(new X509Certificate(pem).verify(issuer.publicKey)).toBe(true);
    const times = { thisUpdate: new Date(), nextUpdate: new Date(Date.now() + 86_400_000) };
    const entries = [{ serial: '0a', revokedAt: new Date(), reason: 'superseded' as const }];
    expect((await authority.crl({ number: 1, ...times, entries })).length).toBeGreaterThan(100);
  });

  test('cannot be taken out of it, by reading, wrapping or copying, and was never anywhere else', async () => {
    const signer = token.makeSigner('issuing-2');
    const cryptoki = new pkcs11.PKCS11();
    cryptoki.load(own.module);
    const slot = cryptoki
      .C_GetSlotList(true)
      .find((each) => cryptoki.C_GetTokenInfo(each).label.trim().startsWith(own.token));
    const session = cryptoki.C_OpenSession(slot ?? Buffer.alloc(0), pkcs11.CKF_SERIAL_SESSION | pkcs11.CKF_RW_SESSION);
    cryptoki.C_FindObjectsInit(session, [
      { type: pkcs11.CKA_CLASS, value: pkcs11.CKO_PRIVATE_KEY },
      { type: pkcs11.CKA_LABEL, value: 'issuing-2' },
    ]);
    const [key = Buffer.alloc(0)] = cryptoki.C_FindObjects(session, 1);
    cryptoki.C_FindObjectsFinal(session);
    const read = (type: number) => cryptoki.C_GetAttributeValue(session, key, [{ type }])[0]?.value;
    expect(
      [pkcs11.CKA_SENSITIVE, pkcs11.CKA_ALWAYS_SENSITIVE, pkcs11.CKA_NEVER_EXTRACTABLE, pkcs11.CKA_LOCAL].map(read),
    ).toEqual(Array.from({ length: 4 }, () => Buffer.of(1)));
    expect(read(pkcs11.CKA_EXTRACTABLE)).toEqual(Buffer.of(0));
    expect(() => read(pkcs11.CKA_VALUE)).toThrow('CKR_ATTRIBUTE_SENSITIVE');
    const wrapping = cryptoki.C_GenerateKey(session, { mechanism: pkcs11.CKM_AES_KEY_GEN }, [
      { type: pkcs11.CKA_VALUE_LEN, value: 32 },
      { type: pkcs11.CKA_WRAP, value: true },
    ]);
    const wrap = () =>
      cryptoki.C_WrapKey(session, { mechanism: pkcs11.CKM_AES_KEY_WRAP_PAD }, wrapping, key, Buffer.alloc(512));
    expect(wrap).toThrow('CKR_KEY_UNEXTRACTABLE');
    const loosen = () => cryptoki.C_SetAttributeValue(session, key, [{ type: pkcs11.CKA_EXTRACTABLE, value: true }]);
    expect(loosen).toThrow(/CKR_/);
    const copy = () => cryptoki.C_CopyObject(session, key, [{ type: pkcs11.CKA_SENSITIVE, value: false }]);
    expect(copy).toThrow(/CKR_/);
    cryptoki.C_CloseSession(session);
    expect(own.readAll().includes(Buffer.from('PRIVATE KEY'))).toBe(false);
    const bytes = randomBytes(40);
    const key2 = createPublicKey({ key: Buffer.from(signer.spki), format: 'der', type: 'spki' });
    expect(verify('sha256', bytes, key2, await signer.sign(bytes, 'sha256'))).toBe(true);
  });

  test('whose token has lost the session signs in a new one', async () => {
    const { authority } = await makeAuthority('issuing-3');
    expect(closeAll()).not.toEqual([]);
    expect((await authority.issue(request())).pem).toContain('BEGIN CERTIFICATE');
  });

  test.each([
    ['a wrong PIN', { pin: '0000' }, /CKR_PIN_INCORRECT/],
    ['a token that is not there', { token: 'nowhere' }, /no token called nowhere/],
  ])('is not to be had with %s, and the error says so without the PIN', (_, wrong, message) => {
    expect(closeAll()).not.toEqual([]);
    expect(() => openPkcs11({ ...own, ...wrong })).toThrow(message);
    expect(() => openPkcs11({ ...own, ...wrong })).not.toThrow(own.pin);
  });

  test('is named: a label that nobody has, and a key of another certificate, are refused', async () => {
    expect(() => token.findSigner('nobody')).toThrow('no key called nobody');
    const { names } = await makeAuthority('issuing-4');
    await expect(openAuthority({ ...names, signer: token.makeSigner('issuing-5') })).rejects.toThrow(
      'not the key of its certificate',
    );
  });
});

const quiet = { error: () => {} };

test('a fleet whose issuing key is made in a token issues and lists with it from its rows alone', async () => {
  await using database = await makeDatabase();
  const folder = join(inject('folder'), `signer-${randomUUID()}`);
  await mkdir(folder);
  const pinFile = join(folder, 'pin');
  await writeFile(pinFile, `${own.pin}\n`);
  const { module, token: label } = own;
  const signer = {
    keyEncryptionKeyFile: join(folder, 'key'),
    signer: 'pkcs11' as const,
    pkcs11: { module, token: label, pinFile },
  };
  await ensureAuthorities(database.db, { signer, rootKeyFile: join(folder, 'root.pem') });
  const [row] = (await listAuthorities(database.db)).filter(({ kind }) => kind === 'issuing');
  expect(row).toMatchObject({
    signer: 'pkcs11',
    signerKey: expect.stringContaining('longhaul-issuing-'),
    encryptedKey: null,
  });
  const authority = await openSigner(database.db, signer);
  const { pem } = await authority.issue(request());
  expect(new X509Certificate(pem).verify(new X509Certificate(row?.certificatePem ?? '').publicKey)).toBe(true);
  expect((await openListSigners(database.db, signer, quiet)()).map(({ id }) => id)).toEqual([row?.id]);
  await expect(openSigner(database.db, { ...signer, pkcs11: undefined })).rejects.toThrow('LONGHAUL_PKCS11_MODULE');
});

test('a running fleet moves from Postgres into a token: from one certificate to the next, in a process that was there before', async () => {
  await using database = await makeDatabase();
  const folder = join(inject('folder'), `signer-${randomUUID()}`);
  await mkdir(folder);
  const pinFile = join(folder, 'pin');
  await writeFile(pinFile, own.pin);
  const { module, token: label } = own;
  const settings = { keyEncryptionKeyFile: join(folder, 'key'), pkcs11: { module, token: label, pinFile } };
  const rootKeyFile = join(folder, 'root.pem');
  await ensureAuthorities(database.db, { signer: settings, rootKeyFile });
  const authority = await openSigner(database.db, settings);
  const lists = openListSigners(database.db, settings, quiet);
  expect(await lists()).toHaveLength(1);
  const before = await authority.issue(request());

  const makeKey: MakeIssuingKey = (place, name) => makeIssuingKey(settings, name, place);
  const api = await makeApi(database.db, { authority, makeIssuingKey: makeKey });
  const pending = await api.ask('POST', '/v1/authorities', { kind: 'issuing', signer: 'pkcs11' });
  const { id, csrPem } = pending.body as unknown as { id: string; csrPem: string };
  const root = { certificatePem: authority.rootPem, privateKeyPem: await readFile(rootKeyFile, 'utf8') };
  const certificatePem = await certify(root, csrPem);
  expect((await api.ask('PUT', `/v1/authorities/${id}/certificate`, { certificatePem })).status).toBe(200);
  const runs = { idPrefix: 'rotate-expiring/', name: 'rotateExpiring' };
  await switchAuthority(database.db, 'system/test', { authorityId: id, runs, unacknowledged: 0 });

  const after = await authority.issue(request());
  expect([before.authorityId === id, after.authorityId]).toEqual([false, id]);
  expect(new X509Certificate(after.pem).verify(new X509Certificate(certificatePem).publicKey)).toBe(true);
  expect((await lists()).map((signer) => signer.id)).toContain(id);

  // Who knows no token signs the lists of the others, and says once which it cannot.
  const told: unknown[] = [];
  const error = (about: unknown) => void told.push(about);
  const without = openListSigners(database.db, { ...settings, pkcs11: undefined }, { error });
  for (let round = 0; round < 2; round += 1)
    expect((await without()).map((signer) => signer.id)).toEqual([before.authorityId]);
  expect(told).toEqual([expect.objectContaining({ authorityId: id })]);
  expect((await findAuthority(database.db, id))?.encryptedKey).toBeNull();
});

test('a signature that does not verify is never put into a certificate', async () => {
  const { publicKeyPem } = makeKeyPair();
  const signer = remoteSigner({ spki: spkiOf(publicKeyPem), signDigest: async () => randomBytes(70) });
  await expect(signer.sign(randomBytes(10), 'sha256')).rejects.toThrow('not a signature of the key');
});

/** Whoever is logged in shares that with all sessions of the process: none is left. */
function closeAll(): Buffer[] {
  const cryptoki = new pkcs11.PKCS11();
  cryptoki.load(own.module);
  const slots = cryptoki.C_GetSlotList(true);
  for (const slot of slots) cryptoki.C_CloseAllSessions(slot);
  return slots;
}
