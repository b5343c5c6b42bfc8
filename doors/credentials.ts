import { refusal } from '../workflows/refusals.ts';

/**
 * The token of an `Authorization` header: of `Bearer` (RFC 6750), and where it is taken the password of `Basic` (RFC 7617),
 * whose user name says nothing. Undefined where there is no header; one that is not understood is a token that is wrong.
 */
export function readToken(header: string | undefined, { basic }: { basic: boolean }): string | undefined {
  if (header === undefined) return undefined;
  const [, scheme = '', value = ''] = /^(\S+) +(\S+)$/.exec(header) ?? [];
  if (scheme.toLowerCase() === 'bearer') return value;
  if (!basic || scheme.toLowerCase() !== 'basic') return '';
  const pair = Buffer.from(value, 'base64').toString('utf8');
  return pair.slice(pair.indexOf(':') + 1);
}

export const credentialsMissing = () => refusal('CredentialsMissing', 'this takes a claim token', 401);
