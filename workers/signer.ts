import { findActiveAuthority } from '../db/authorities.ts';
import type { Db } from '../db/client.ts';
import { openAuthority, type Authority } from '../pki/authority.ts';
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
  return openAuthority({
    id: issuing.id,
    rootPem: root.certificatePem,
    issuingPem: issuing.certificatePem,
    encryptedKey: issuing.encryptedKey,
    keyEncryptionKey: await readKey(keyEncryptionKeyFile),
    ...(crlUrl === undefined ? {} : { crlUrl }),
  });
}
