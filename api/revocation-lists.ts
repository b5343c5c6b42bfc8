import { OpenAPIHono } from '@hono/zod-openapi';
import { listAuthorities } from '../db/authorities.ts';
import type { Db } from '../db/client.ts';
import { describeRevocationList, findRevocationList, type RevocationListRow } from '../db/revocation-lists.ts';
import { trustBundleOf } from '../pki/trust-bundle.ts';
import type { Api } from './app.ts';
import { notFound } from './schemas.ts';

const fileName = /^([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\.crl$/;
const freshSeconds = 300;

/**
 * What everybody may read, without credentials: the authorities' certificates, and their lists of revoked ones. A router of
 * its own, so that any server can mount it at its root.
 */
export function trustFileRoutes({ db }: { db: Db }) {
  const find = rememberLists(db);
  return new OpenAPIHono<Api>()
    .get('/authorities.pem', async (c) => {
      const { version, certificatesPem } = trustBundleOf(await listAuthorities(db));
      const etag = `"${version}"`;
      const headers = { ETag: etag, 'Cache-Control': `public, max-age=${freshSeconds}` };
      if (isKnown(c.req.header('if-none-match'), etag)) return c.body(null, 304, headers);
      return c.body(certificatesPem, 200, { ...headers, 'Content-Type': 'application/x-pem-file' });
    })
    .get('/crl/:file', async (c) => {
      const id = fileName.exec(c.req.param('file'))?.[1];
      const list = id && (await find(id));
      if (!list) throw notFound();
      const headers = headersOf(list);
      if (isCurrent(c.req.raw.headers, list)) return c.body(null, 304, headers);
      return c.body(Uint8Array.from(list.der), 200, { ...headers, 'Content-Type': 'application/pkix-crl' });
    });
}

/** Anybody may ask, and a list may be some megabytes: each is read from its row once. */
function rememberLists(db: Db) {
  const remembered = new Map<string, RevocationListRow>();
  return async (id: string): Promise<RevocationListRow | undefined> => {
    const known = remembered.get(id);
    const current = await describeRevocationList(db, id);
    if (!current || current.number === known?.number) return current && known;
    const list = await findRevocationList(db, id);
    if (list) remembered.set(id, list);
    return list;
  };
}

type Described = { authorityId: string; number: number; publishedAt: Date; nextUpdate: Date };

/** A number is given to one list only, so it names the bytes. A cache keeps it a while, and never beyond its end. */
const headersOf = (list: Described) => ({
  ETag: tagOf(list),
  'Last-Modified': list.publishedAt.toUTCString(),
  Expires: list.nextUpdate.toUTCString(),
  'Cache-Control': `public, max-age=${Math.max(0, Math.min(freshSeconds, secondsLeft(list)))}`,
});

const tagOf = ({ authorityId, number }: Described) => `"${authorityId}-${number}"`;
const secondsLeft = ({ nextUpdate }: Described) => Math.floor((nextUpdate.getTime() - Date.now()) / 1_000);

/** RFC 9110 13.2.2: where a tag is given, the date is not looked at. */
function isCurrent(headers: Headers, list: Described): boolean {
  const tags = headers.get('if-none-match');
  if (tags !== null) return isKnown(tags, tagOf(list));
  const since = Date.parse(headers.get('if-modified-since') ?? '');
  return Math.floor(list.publishedAt.getTime() / 1_000) * 1_000 <= since;
}

/** RFC 9110 13.1.2: compared weakly, whatever else is in the header. */
const isKnown = (header: string | undefined, tag: string): boolean =>
  header !== undefined &&
  (header.trim() === '*' || header.split(',').some((one) => one.trim().replace(/^W\//, '') === tag));
