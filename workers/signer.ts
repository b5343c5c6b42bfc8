import { findActiveAuthority, isActiveAuthority, listAuthorities } from '../db/authorities.ts';
import type { Db } from '../db/client.ts';
import { AuthorityEnding, openAuthority, type Authority } from '../pki/authority.ts';
import type { ListSigner } from '../pki/crl.ts';
import { readKey } from './keys.ts';

/**
 * Opens the issuing authority. Only processes that issue do: the lifecycle worker and the API, never the gateway, which
 * faces the devices.
 */
export async function openSigner(
  db: Db,
  { keyEncryptionKeyFile, crlUrl }: { keyEncryptionKeyFile: string; crlUrl?: string | undefined },
): Promise<Authority> {
  const [root, issuing] = await Promise.all([findActiveAuthority(db, 'root'), findActiveAuthority(db, 'issuing')]);
  if (!root || !issuing?.encryptedKey) throw new Error('there is no issuing authority yet: run workers/init.ts first');
  const authority = await openAuthority({
    id: issuing.id,
    rootPem: root.certificatePem,
    issuingPem: issuing.certificatePem,
    encryptedKey: issuing.encryptedKey,
    keyEncryptionKey: await readKey(keyEncryptionKeyFile),
    ...(crlUrl === undefined ? {} : { crlUrl }),
  });
  return onlyWhileActive(db, authority);
}

/** Issues while its row says so: an authority that is taken out of service is so in every process at once. */
export const onlyWhileActive = (db: Db, authority: Authority): Authority => ({
  ...authority,
  async issue(request) {
    if (await isActiveAuthority(db, authority.id)) return authority.issue(request);
    throw new AuthorityEnding('The issuing authority is out of service');
  },
});

/**
 * Opens every issuing authority whose key is here, for its revocation list: certificates of one that is retired, or revoked
 * itself, are revoked all the same.
 */
export async function openListSigners(
  db: Db,
  { keyEncryptionKeyFile }: { keyEncryptionKeyFile: string },
): Promise<ListSigner[]> {
  const rows = await listAuthorities(db);
  const keyEncryptionKey = await readKey(keyEncryptionKeyFile);
  const opened = rows.map(async ({ id, encryptedKey, certificatePem: issuingPem, parentId }) => {
    const root = rows.find((row) => row.id === parentId);
    if (!encryptedKey || !root) return [];
    return [await openAuthority({ id, encryptedKey, issuingPem, rootPem: root.certificatePem, keyEncryptionKey })];
  });
  return (await Promise.all(opened)).flat();
}
