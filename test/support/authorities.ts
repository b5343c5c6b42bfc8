import { findAuthority } from '../../db/authorities.ts';
import type { Database } from '../../db/client.ts';
import { createIssuing, openAuthority, type Authority } from '../../pki/authority.ts';
import { readCsr, unwrapPem } from '../../pki/csr.ts';
import { followRows } from '../../workers/signer.ts';
import { keyEncryptionKey } from './api.ts';
import type { Fleet } from './gateway.ts';

/** What whoever holds the root's key does with a request. */
export async function certify(
  root: { certificatePem: string; privateKeyPem: string },
  csrPem: string,
  name = 'Next issuing authority',
): Promise<string> {
  const { publicKey: spki } = readCsr(unwrapPem(csrPem));
  return (await createIssuing({ root, spki, name })).certificatePem;
}

/** Issues by the fleet's own authority until a successor, made through the API of a test, takes over. */
export const followSuccessors = ({ db, authority }: Fleet): Authority =>
  followRows(db, authority, (id) => openSuccessor(db, id));

async function openSuccessor(db: Database, id: string): Promise<Authority | undefined> {
  const row = await findAuthority(db, id);
  const root = row?.parentId ? await findAuthority(db, row.parentId) : undefined;
  if (!row?.encryptedKey || !root) return undefined;
  const { certificatePem: issuingPem, encryptedKey } = row;
  return openAuthority({ id, issuingPem, rootPem: root.certificatePem, encryptedKey, keyEncryptionKey });
}
