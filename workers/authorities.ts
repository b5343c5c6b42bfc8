import { randomUUIDv7 } from 'node:crypto';
import { rename, writeFile } from 'node:fs/promises';
import { insertAudit } from '../db/audit.ts';
import { insertAuthority, listAuthorities, lockAuthorities } from '../db/authorities.ts';
import type { Database, Db } from '../db/client.ts';
import { publishTrustBundle } from '../db/trust-bundles.ts';
import { createIssuing, createRoot } from '../pki/authority.ts';
import { makeIssuingKey, type SignerSettings } from './issuing-keys.ts';
import { ensureKey } from './keys.ts';

type Options = { signer: SignerSettings; rootKeyFile: string };

/**
 * At the first start makes root and issuing authority. The root's key goes into a file of its own, which nothing reads
 * again: move it away. Of two first starts at once, one wins and the other takes what it finds.
 */
export async function ensureAuthorities(db: Database, { signer, rootKeyFile }: Options): Promise<void> {
  if (await hasRoot(db)) return;
  await ensureKey(signer.keyEncryptionKeyFile);
  const { root, issuing } = await makeAuthorities(signer);
  const { privateKeyPem, ...rootCertificate } = root;
  await db.transaction(async (tx) => {
    await lockAuthorities(tx);
    if (await hasRoot(tx)) return;
    const rootId = randomUUIDv7();
    const rows = [
      { ...rootCertificate, id: rootId, kind: 'root' as const, name: rootCertificate.subject },
      { ...issuing, id: randomUUIDv7(), kind: 'issuing' as const, name: issuing.subject, parentId: rootId },
    ];
    for (const row of rows) {
      await insertAuthority(tx, { ...row, state: 'ACTIVE' });
      await insertAudit(tx, 'system/init', {
        action: 'authority.created',
        subject: `authority/${row.id}`,
        data: { kind: row.kind, notAfter: row.notAfter.toISOString() },
      });
    }
    // Inside the transaction, so that a root without its key is never committed.
    await setAside(rootKeyFile);
    await writeFile(rootKeyFile, privateKeyPem, { mode: 0o600, flag: 'wx' });
  });
}

/** What devices come with, by its number; the fleets of releases that knew no numbers get the first. */
export async function ensureTrustBundle(db: Database): Promise<void> {
  await db.transaction(async (tx) => {
    await lockAuthorities(tx);
    await publishTrustBundle(tx, 'system/init');
  });
}

const hasRoot = async (db: Db) => (await listAuthorities(db)).some(({ kind }) => kind === 'root');

/** The issuing key is made where it is to stay. */
async function makeAuthorities(settings: SignerSettings) {
  const root = await createRoot();
  const { signer, row } = await makeIssuingKey(settings, `longhaul-issuing-${randomUUIDv7()}`);
  return { root, issuing: { ...(await createIssuing({ root, spki: signer.spki })), ...row } };
}

/** What is in the way is of a start that broke off, or of another database: it is kept, under another name. */
async function setAside(file: string): Promise<void> {
  await rename(file, `${file}.${Date.now()}`).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
}
