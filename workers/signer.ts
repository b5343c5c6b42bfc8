import type { Logger } from 'pino';
import { findAuthority, findIssuing, listAuthorities, type AuthorityRow } from '../db/authorities.ts';
import type { Db } from '../db/client.ts';
import { AuthorityEnding, openAuthority, type Authority } from '../pki/authority.ts';
import type { ListSigner } from '../pki/crl.ts';
import { openIssuingKey, type SignerSettings } from './issuing-keys.ts';

/**
 * Opens the issuing authority, whichever it is at the time: each certificate is issued by the one that the rows name then, so
 * that a successor takes over in every process at once. Only processes that issue do: the lifecycle worker and the API,
 * never the gateway, which faces the devices.
 */
export async function openSigner(db: Db, settings: SignerSettings): Promise<Authority> {
  const open = openOnce(db, settings);
  const issuing = await findIssuing(db);
  const first = issuing && (await open(issuing.id));
  if (!first) throw new Error('there is no issuing authority yet: run workers/init.ts first');
  return followRows(db, first, open);
}

/** Issues by the authority that the rows name; `open` is asked for one that is not known yet. */
export function followRows(
  db: Db,
  first: Authority,
  open: (id: string) => Promise<Authority | undefined> = async () => undefined,
): Authority {
  let current = first;
  return {
    get id() {
      return current.id;
    },
    get certificatePem() {
      return current.certificatePem;
    },
    get rootPem() {
      return current.rootPem;
    },
    crl: (request) => current.crl(request),
    async issue(request) {
      const issuing = await findIssuing(db);
      const next = issuing?.id === current.id ? current : issuing && (await open(issuing.id));
      if (!next) throw new AuthorityEnding('The issuing authority is out of service');
      current = next;
      return current.issue(request);
    },
  };
}

/**
 * Opens every authority whose key is here, for its revocation list: certificates of one that is retired, or revoked itself, are
 * revoked all the same. Asked again, it has those that have come since.
 */
export function openListSigners(
  db: Db,
  settings: SignerSettings,
  log: Pick<Logger, 'error'>,
): () => Promise<ListSigner[]> {
  const open = openOnce(db, settings);
  const told = new Map<string, string>();

  /** A key that cannot be opened stands in the way of no other list; why it cannot is told once. */
  async function tryOpen(id: string): Promise<Authority | undefined> {
    try {
      return await open(id);
    } catch (error) {
      const reason = String(error);
      if (told.get(id) !== reason) log.error({ authorityId: id, err: error }, 'a revocation list cannot be signed');
      told.set(id, reason);
      return undefined;
    }
  }

  return async () => {
    const rows = (await listAuthorities(db)).filter(({ kind }) => kind === 'issuing');
    const opened = await Promise.all(rows.map(({ id }) => tryOpen(id)));
    return opened.filter((authority) => authority !== undefined);
  };
}

/** Each is opened once: its key and its certificate never change. One whose key is nowhere is undefined. */
function openOnce(db: Db, settings: SignerSettings): (id: string) => Promise<Authority | undefined> {
  const opened = new Map<string, Authority>();
  return async (id) => {
    const known = opened.get(id);
    if (known) return known;
    const row = await findAuthority(db, id);
    const authority = row && (await openRow(db, row, settings));
    if (authority) opened.set(id, authority);
    return authority;
  };
}

async function openRow(db: Db, row: AuthorityRow, settings: SignerSettings): Promise<Authority | undefined> {
  const { id, certificatePem: issuingPem, parentId } = row;
  const root = parentId === null ? undefined : await findAuthority(db, parentId);
  const key = await openIssuingKey(row, settings);
  if (!root || !key) return undefined;
  const { crlUrl } = settings;
  return openAuthority({
    id,
    rootPem: root.certificatePem,
    issuingPem,
    ...key,
    ...(crlUrl !== undefined && { crlUrl }),
  });
}
