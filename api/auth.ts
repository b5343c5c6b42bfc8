import { hash, randomBytes, randomUUIDv7, timingSafeEqual } from 'node:crypto';
import type { MiddlewareHandler } from 'hono';
import { findApiKey, type ApiKey } from '../db/api-keys.ts';
import type { Db } from '../db/client.ts';
import type { Api } from './app.ts';
import { Problem } from './problem.ts';

const scheme = /^Bearer +/i;
const tokenPattern = /^lh_([0-9a-f]{32})_([A-Za-z0-9_-]{43})$/;

/** A new key: `token` is for its owner and nowhere else, `key` is the row. 256 random bits, so a plain hash keeps it. */
export function mintApiKey(name: string): { token: string; key: ApiKey } {
  const id = randomUUIDv7();
  const secret = randomBytes(32).toString('base64url');
  return { token: `lh_${id.replaceAll('-', '')}_${secret}`, key: { id, name, secretHash: hashSecret(secret) } };
}

/** The row of a key by its token; undefined when it is not the token of any. */
export function readApiKey(name: string, token: string): ApiKey | undefined {
  const [, id, secret] = tokenPattern.exec(token) ?? [];
  if (id === undefined || secret === undefined) return undefined;
  return { id: toUuid(id), name, secretHash: hashSecret(secret) };
}

const hashSecret = (secret: string) => hash('sha256', secret, 'buffer');

/** Lets in who shows a key that is not revoked, and says who it is. */
export function authenticate({ db, trustMs = 1_000 }: { db: Db; trustMs?: number }): MiddlewareHandler<Api> {
  const find = rememberKeys(db, trustMs);
  return async (c, next) => {
    const header = c.req.header('authorization') ?? '';
    const shown = scheme.test(header) ? readApiKey('', header.replace(scheme, '')) : undefined;
    const key = shown && (await find(shown.id));
    if (!key || !timingSafeEqual(shown.secretHash, key.secretHash)) throw unauthenticated();
    c.set('credential', key.id);
    c.set('actor', `api-key/${key.id}`);
    return next();
  };
}

const unauthenticated = () =>
  new Problem('unauthenticated', 'Send an API key that is not revoked: Authorization: Bearer lh_….', {
    headers: { 'WWW-Authenticate': 'Bearer realm="longhaul"' },
  });

const toUuid = (hex: string) => hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');

const rememberedMax = 1_000;

/** A key that was found is believed for `trustMs`, which is how long it outlives its revocation. Unknown ones never are. */
function rememberKeys(db: Db, trustMs: number): (id: string) => Promise<ApiKey | undefined> {
  const remembered = new Map<string, { key: ApiKey; until: number }>();
  return async (id) => {
    const entry = remembered.get(id);
    const asked = performance.now();
    if (entry && asked < entry.until) return entry.key;
    const key = await findApiKey(db, id);
    remembered.delete(id);
    if (!key) return undefined;
    const [oldest] = remembered.keys();
    if (oldest !== undefined && remembered.size >= rememberedMax) remembered.delete(oldest);
    remembered.set(id, { key, until: asked + trustMs });
    return key;
  };
}
