import { readFile } from 'node:fs/promises';
import { findActiveAuthority } from '../db/authorities.ts';
import type { Db } from '../db/client.ts';
import { openAuthority, type Authority } from '../pki/authority.ts';

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
    keyEncryptionKey: await readKeyEncryptionKey(keyEncryptionKeyFile),
    ...(crlUrl === undefined ? {} : { crlUrl }),
  });
}

/** 32 bytes, base64, in a file of mode 600. */
export async function readKeyEncryptionKey(file: string): Promise<Uint8Array> {
  const key = Buffer.from((await readFile(file, 'utf8')).trim(), 'base64');
  if (key.length !== 32) throw new Error(`the key in ${file} is not 32 bytes in base64`);
  return key;
}
