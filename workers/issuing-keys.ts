import { readFile } from 'node:fs/promises';
import type { AuthorityRow } from '../db/authorities.ts';
import { makeSealedKey, type SealedKey } from '../pki/authority.ts';
import type { Signer } from '../pki/signers.ts';
import { readKey } from './keys.ts';

export type SignerSettings = {
  keyEncryptionKeyFile: string;
  crlUrl?: string | undefined;
  /** Where a new issuing key is made; `database` unless said. */
  signer?: AuthorityRow['signer'];
  pkcs11?: { module: string; token: string; pinFile: string } | undefined;
};

/** The key of an authority, wherever its row says that it is; undefined when it is nowhere, like the root's. */
export async function openIssuingKey(
  { signer, signerKey, encryptedKey }: Pick<AuthorityRow, 'signer' | 'signerKey' | 'encryptedKey'>,
  settings: SignerSettings,
): Promise<SealedKey | { signer: Signer } | undefined> {
  if (encryptedKey) return { encryptedKey, keyEncryptionKey: await readKey(settings.keyEncryptionKeyFile) };
  if (signer === 'pkcs11') return { signer: (await openToken(settings)).findSigner(signerKey ?? '') };
  return undefined;
}

export type NewKey = {
  signer: Signer;
  /** What is kept of it in the row of its authority. */
  row: Pick<AuthorityRow, 'signer' | 'signerKey' | 'encryptedKey'>;
};

/** A new issuing key in the place that is named, or where the settings say. */
export async function makeIssuingKey(
  settings: SignerSettings,
  label: string,
  place = settings.signer ?? 'database',
): Promise<NewKey> {
  if (place === 'pkcs11') {
    const signer = (await openToken(settings)).makeSigner(label);
    return { signer, row: { signer: place, signerKey: label, encryptedKey: null } };
  }
  const { signer, encryptedKey } = await makeSealedKey(await readKey(settings.keyEncryptionKeyFile));
  return { signer, row: { signer: place, signerKey: null, encryptedKey } };
}

// A process that has no use for a token does not load what speaks to it.
async function openToken({ pkcs11 }: SignerSettings) {
  if (!pkcs11) throw new Error('an issuing key is in a token: LONGHAUL_PKCS11_MODULE is missing');
  const { openPkcs11 } = await import('../pki/pkcs11.ts');
  return openPkcs11({ ...pkcs11, pin: (await readFile(pkcs11.pinFile, 'utf8')).trim() });
}
