import { createCipheriv, createDecipheriv, randomBytes } from 'node:crypto';

const cipher = 'aes-256-gcm';
const version = 1;
const nonceBytes = 12;
const tagBytes = 16;

/**
 * Encrypts a secret for keeping: version, nonce, tag and AES-256-GCM ciphertext in one. `context` is authenticated with
 * it, so that a sealed secret opens only beside what it belongs to.
 */
export function seal(secret: Uint8Array, key: Uint8Array, context: Uint8Array): Uint8Array {
  checkKey(key);
  const nonce = randomBytes(nonceBytes);
  const encryption = createCipheriv(cipher, key, nonce).setAAD(context);
  const ciphertext = Buffer.concat([encryption.update(secret), encryption.final()]);
  return Buffer.concat([Buffer.of(version), nonce, encryption.getAuthTag(), ciphertext]);
}

/** Throws, without a word about the secret, for another key, another context or a single changed bit. */
export function unseal(sealed: Uint8Array, key: Uint8Array, context: Uint8Array): Buffer {
  checkKey(key);
  if (sealed[0] !== version) throw new Error('The sealed key is in a form that this version does not know');
  const nonce = sealed.subarray(1, 1 + nonceBytes);
  const tag = sealed.subarray(1 + nonceBytes, 1 + nonceBytes + tagBytes);
  try {
    const decryption = createDecipheriv(cipher, key, nonce, { authTagLength: tagBytes });
    decryption.setAAD(context).setAuthTag(tag);
    return Buffer.concat([decryption.update(sealed.subarray(1 + nonceBytes + tagBytes)), decryption.final()]);
  } catch {
    throw new Error('The sealed key does not open with this key encryption key');
  }
}

function checkKey(key: Uint8Array): void {
  if (key.length !== 32) throw new RangeError('A key encryption key has 32 bytes');
}
