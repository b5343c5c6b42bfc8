import { X509Certificate } from 'node:crypto';
import { eq, sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { publishDueLists, publishRevocationList, publishRootList } from '../../activities/revocation-lists.ts';
import { revokeCertificate } from '../../db/certificates.ts';
import { findRevocationList } from '../../db/revocation-lists.ts';
import { revocationLists } from '../../db/revocation-schema.ts';
import { authorities, certificates } from '../../db/schema.ts';
import { openRootListSigner } from '../../pki/crl.ts';
import { encodePem } from '../../pki/pem.ts';
import { openOpenssl } from '../pki/openssl.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { createFleet, type Fleet } from '../support/gateway.ts';

const openssl = openOpenssl();
let database: TestDatabase;
let fleet: Fleet;
beforeAll(async () => {
  database = await makeDatabase();
  fleet = await createFleet(database.db);
});
afterAll(async () => {
  openssl[Symbol.dispose]();
  await database[Symbol.asyncDispose]();
});

const listOf = async () => {
  const row = await findRevocationList(database.db, fleet.authority.id);
  if (!row) throw new Error('there is no list');
  return row;
};
const revoke = (id: string, reason = 'keyCompromise') =>
  revokeCertificate(database.db, { id, reason, from: ['PENDING_ACTIVATION', 'ACTIVE'] });
const publish = () => publishRevocationList(database.db, fleet.authority);
const serialOf = async (id: string) => {
  const [row] = await database.db.select().from(certificates).where(eq(certificates.id, id));
  return row?.serial.toUpperCase() ?? 'none';
};
const show = (der: Uint8Array) =>
  openssl.run('crl', '-noout', '-text', '-inform', 'DER', '-in', openssl.write('list.crl', der));

/** What openssl says about the certificate under the published lists of both authorities. */
async function judge(certificate: string): Promise<string> {
  const { certificatePem, rootPem } = fleet.authority;
  const lists = await database.db.select().from(revocationLists);
  const file = openssl.write('lists.pem', lists.map(({ der }) => encodePem('X509 CRL', der)).join(''));
  return openssl.verify(
    { root: rootPem, issuing: certificatePem, leaf: certificate },
    '-crl_check_all',
    '-CRLfile',
    file,
  );
}

describe('the list of an authority', () => {
  test('tells of what is revoked with its reason, also of what was never used, and openssl goes by it', async () => {
    const root = await rootSigner();
    await publishRootList(database.db, root.signer, root.notAfter);
    const [good, stolen, unused] = [await fleet.makeDevice(), await fleet.makeDevice(), await fleet.makeDevice()];
    await revoke(stolen.certificateId);
    await revoke(unused.certificateId, 'neverUsed');
    await publish();
    expect(await judge(good.certificate)).toMatch(/: OK\n$/);
    expect(await judge(stolen.certificate)).toContain('certificate revoked');
    expect(await judge(unused.certificate)).toContain('certificate revoked');
    const text = show((await listOf()).der);
    expect(text).toMatch(new RegExp(`${await serialOf(stolen.certificateId)}[^S]+?Key Compromise`));
    expect(text).toMatch(new RegExp(`${await serialOf(unused.certificateId)}[^S]+?Cessation Of Operation`));
  });

  test('is numbered higher each time, and never below the time in seconds', async () => {
    await publish();
    const first = await listOf();
    await publish();
    const second = await listOf();
    expect(second.number).toBeGreaterThan(first.number);
    expect(first.number).toBeGreaterThanOrEqual(Math.floor(first.publishedAt.getTime() / 1_000));
    const ahead = first.number + 1_000_000;
    await database.db.update(revocationLists).set({ number: ahead });
    await publish();
    expect((await listOf()).number).toBe(ahead + 1);
    expect(show((await listOf()).der)).toMatch(new RegExp(`CRL Number:\\s+${ahead + 1}\\b`));
  });

  test('keeps an entry for an hour beyond the end of its certificate, and no longer', async () => {
    const past = (minutes: number) => new Date(Date.now() - minutes * 60_000);
    const [fresh, old] = [
      await fleet.makeDevice({ notAfter: past(50) }),
      await fleet.makeDevice({ notAfter: past(70) }),
    ];
    for (const { certificateId } of [fresh, old]) await revoke(certificateId);
    await publish();
    const text = show((await listOf()).der);
    expect(text).toContain(await serialOf(fresh.certificateId));
    expect(text).not.toContain(await serialOf(old.certificateId));
  });

  test('is made a few times for many revocations at once, and holds all of them', async () => {
    await publish();
    const before = await listOf();
    const devices = await Promise.all(Array.from({ length: 100 }, () => fleet.makeDevice()));
    const numbers = new Set<number>();
    await Promise.all(
      devices.map(async ({ certificateId }) => {
        await revoke(certificateId);
        await publishRevocationList(database.db, fleet.authority, { unlessListed: certificateId });
        const [row] = await database.db.select().from(certificates).where(eq(certificates.id, certificateId));
        numbers.add(row?.listNumber ?? -1);
      }),
    );
    expect(numbers.has(-1)).toBe(false);
    expect(numbers.size).toBeLessThan(50);
    const after = await listOf();
    expect(after.entries).toBe(before.entries + 100);
    // Each was made for somebody: the last number is the count of them further on.
    expect(numbers.has(after.number)).toBe(true);
  });

  test('is due when a revocation is not on it and when it is eight hours old, and not before', async () => {
    await publish();
    const due = () => publishDueLists(database.db, [fleet.authority]);
    expect(await due()).toEqual([]);
    await revoke((await fleet.makeDevice()).certificateId, 'superseded');
    expect(await due()).toEqual([fleet.authority.id]);
    expect(await due()).toEqual([]);
    await database.db.update(revocationLists).set({ publishedAt: sql`now() - interval '8 hours'` });
    expect(await due()).toEqual([fleet.authority.id]);
    expect(await due()).toEqual([]);
  });

  test('is published although that of another authority cannot be signed', async () => {
    const away = { id: fleet.rootId, crl: () => Promise.reject(new Error('the token is away')) };
    await database.db.update(revocationLists).set({ publishedAt: sql`now() - interval '8 hours'` });
    const { number } = await listOf();
    await expect(publishDueLists(database.db, [away, fleet.authority])).rejects.toThrow('the token is away');
    expect((await listOf()).number).toBeGreaterThan(number);
  });

  test('of twenty thousand rows is verified by openssl, and a certificate among them is refused', async () => {
    const lost = await fleet.makeDevice();
    await database.db.execute(sql`
      insert into certificates (id, kind, subject, authority_id, serial, fingerprint, spki_sha256, pem, state,
        revocation_reason, not_before, not_after, revoked_at, list_number)
      select lpad(to_hex(n), 64, '0'), 'device', 'pump', ${fleet.authority.id}::uuid, '4' || lpad(to_hex(n), 31, '0'),
        decode(lpad(to_hex(n), 64, '0'), 'hex'), decode(lpad(to_hex(n), 64, '0'), 'hex'), '', 'REVOKED', 'superseded', now(),
        now() + interval '1 year', now(), 1
      from generate_series(1, 20000) n`);
    await revoke(lost.certificateId);
    await publish();
    expect((await listOf()).entries).toBeGreaterThan(20_000);
    expect(await judge(lost.certificate)).toContain('certificate revoked');
    expect(await judge((await fleet.makeDevice()).certificate)).toMatch(/: OK\n$/);
  });

  test('of the root tells of an authority that is revoked, and is good as long as the root is', async () => {
    const { signer, notAfter, rootId } = await rootSigner();
    const device = await fleet.makeDevice();
    await publish();
    await publishRootList(database.db, signer, notAfter);
    expect((await findRevocationList(database.db, rootId))?.nextUpdate).toEqual(notAfter);
    expect(await judge(device.certificate)).toMatch(/: OK\n$/);
    const isOurs = eq(authorities.id, fleet.authority.id);
    const revoked = { state: 'REVOKED' as const, revocationReason: 'cACompromise', endedAt: new Date() };
    await database.db.update(authorities).set(revoked).where(isOurs);
    await publishRootList(database.db, signer, notAfter);
    expect(await judge(device.certificate)).toContain('certificate revoked');
    await database.db.update(authorities).set({ state: 'ACTIVE', endedAt: null }).where(isOurs);
    await publishRootList(database.db, signer, notAfter);
  });
});

async function rootSigner() {
  const { rootId, rootKeyPem: privateKeyPem, authority } = fleet;
  const signer = openRootListSigner({ id: rootId, certificatePem: authority.rootPem, privateKeyPem });
  return { signer, rootId, notAfter: new X509Certificate(authority.rootPem).validToDate };
}
