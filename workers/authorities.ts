import { randomUUIDv7 } from 'node:crypto';
import { rename, writeFile } from 'node:fs/promises';
import { insertAudit } from '../db/audit.ts';
import { findActiveAuthority, insertAuthority } from '../db/authorities.ts';
import type { Database } from '../db/client.ts';
import { createAuthorities, createIssuing } from '../pki/authority.ts';
import { makeIssuingKey, type SignerSettings } from './issuing-keys.ts';
import { ensureKey, readKey } from './keys.ts';

type Options = { signer: SignerSettings; rootKeyFile: string };

/**
 * At the first start makes root and issuing authority. The root's key goes into a file of its own, which nothing reads
 * again: move it away. Of two first starts at once, one wins and the other takes what it finds.
 */
export async function ensureAuthorities(db: Database, { signer, rootKeyFile }: Options): Promise<void> {
  if (await findActiveAuthority(db, 'root')) return;
  await ensureKey(signer.keyEncryptionKeyFile);
  const { root, issuing } = await makeAuthorities(signer, await readKey(signer.keyEncryptionKeyFile));
  const { privateKeyPem, ...rootCertificate } = root;
  await db.transaction(async (tx) => {
    const rootId = randomUUIDv7();
    const rows = [
      { ...rootCertificate, id: rootId, kind: 'root' as const, name: rootCertificate.subject },
      { ...issuing, id: randomUUIDv7(), kind: 'issuing' as const, name: issuing.subject, parentId: rootId },
    ];
    for (const row of rows) {
      if (!(await insertAuthority(tx, { ...row, state: 'ACTIVE' }))) return;
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

/** The issuing key is made where it is to stay. */
async function makeAuthorities(settings: SignerSettings, keyEncryptionKey: Uint8Array) {
  const made = await createAuthorities({ keyEncryptionKey });
  const key = await makeIssuingKey(settings, `longhaul-issuing-${randomUUIDv7()}`);
  if (!key) return made;
  const { root } = made;
  return { root, issuing: { ...(await createIssuing({ root, spki: key.signer.spki })), ...key.row } };
}

/** What is in the way is of a start that broke off, or of another database: it is kept, under another name. */
async function setAside(file: string): Promise<void> {
  await rename(file, `${file}.${Date.now()}`).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error;
  });
}
