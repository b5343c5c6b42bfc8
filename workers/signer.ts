import { findActiveAuthority, isActiveAuthority, listAuthorities } from '../db/authorities.ts';
import type { Db } from '../db/client.ts';
import { AuthorityEnding, openAuthority, type Authority } from '../pki/authority.ts';
import type { ListSigner } from '../pki/crl.ts';
import { openIssuingKey, type SignerSettings } from './issuing-keys.ts';

/**
 * Opens the issuing authority. Only processes that issue do: the lifecycle worker and the API, never the gateway, which
 * faces the devices.
 */
export async function openSigner(db: Db, settings: SignerSettings): Promise<Authority> {
  const [root, issuing] = await Promise.all([findActiveAuthority(db, 'root'), findActiveAuthority(db, 'issuing')]);
  const key = issuing && (await openIssuingKey(issuing, settings));
  const { crlUrl } = settings;
  if (!root || !key) throw new Error('there is no issuing authority yet: run workers/init.ts first');
  const authority = await openAuthority({
    id: issuing.id,
    rootPem: root.certificatePem,
    issuingPem: issuing.certificatePem,
    ...key,
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
export async function openListSigners(db: Db, settings: SignerSettings): Promise<ListSigner[]> {
  const rows = await listAuthorities(db);
  const opened = rows.map(async ({ id, certificatePem: issuingPem, parentId, ...row }) => {
    const root = rows.find((each) => each.id === parentId);
    const key = await openIssuingKey(row, settings);
    if (!key || !root) return [];
    return [await openAuthority({ id, issuingPem, rootPem: root.certificatePem, ...key })];
  });
  return (await Promise.all(opened)).flat();
}
