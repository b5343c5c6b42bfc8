import { hkdfSync, randomBytes } from 'node:crypto';
import { seal, unseal } from './sealing.ts';

/** The key under which secrets of hooks are kept: another one than the authority's, from the same source. */
export const hookSealingKey = (keyEncryptionKey: Uint8Array): Uint8Array =>
  new Uint8Array(hkdfSync('sha256', keyEncryptionKey, '', 'longhaul hook secrets', 32));

/** A new secret in the form of Standard Webhooks: shown to the operator once, and kept sealed. */
export function mintHookSecret(template: string, sealingKey: Uint8Array): { secret: string; sealed: Uint8Array } {
  const secret = `whsec_${randomBytes(32).toString('base64')}`;
  return { secret, sealed: seal(Buffer.from(secret), sealingKey, contextOf(template)) };
}

/** Throws for the secret of another template, or another key. */
export const openHookSecret = (sealed: Uint8Array, template: string, sealingKey: Uint8Array): string =>
  unseal(sealed, sealingKey, contextOf(template)).toString('utf8');

const contextOf = (template: string) => Buffer.from(`template-hook/${template}`);
