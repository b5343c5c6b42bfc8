import { randomBytes } from 'node:crypto';

import { createAuthorities, type AuthorityMaterial, type CreateAuthorities } from '../../pki/authority.ts';

/** A root and an issuing authority of their own, with what opens the latter. */
export async function makeAuthorities(options: Partial<CreateAuthorities> = {}) {
  const keyEncryptionKey = randomBytes(32);
  const { root, issuing } = await createAuthorities({ keyEncryptionKey, ...options });
  const material: AuthorityMaterial = {
    id: 'authority-1',
    rootPem: root.certificatePem,
    issuingPem: issuing.certificatePem,
    encryptedKey: issuing.encryptedKey,
    keyEncryptionKey,
  };
  return { root, issuing, material };
}
