import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { inject } from 'vitest';
import { createApp, type Deps } from '../../api/app.ts';
import type { MakeIssuingKey } from '../../api/authorities.ts';
import { mintApiKey } from '../../api/auth.ts';
import type { Hint } from '../../api/idempotency.ts';
import { insertApiKey } from '../../db/api-keys.ts';
import { insertAuthority } from '../../db/authorities.ts';
import type { Database } from '../../db/client.ts';
import { openFileSystem } from '../../files/file-system.ts';
import { createAuthorities, makeSealedKey, openAuthority } from '../../pki/authority.ts';

/** What the tests read of an answer; which of it is there, the assertion beside it says. */
export type Body = {
  id: string;
  name: string;
  type: string;
  detail: string;
  title: string;
  state: string;
  version: number;
  certificateId: string;
  certificatePem: string;
  attributes: Record<string, string>;
  definition: Record<string, unknown>;
  certificate: { certificatePem: string; privateKey?: string };
  errors: { pointer?: string; parameter?: string; detail: string }[];
  items: (Record<string, unknown> & { id: string; name: string })[];
  targets: (Record<string, unknown> & { device: string; executionId: string })[];
  lifecycle: { workflowId: string; url: string };
  registered: number;
  refused: number;
  planHash: string;
  paths: Record<string, Record<string, Record<string, unknown>>>;
};
export type Answer = { status: number; headers: Headers; body: Body; text: string };
export type Ask = (method: string, path: string, body?: unknown, headers?: Record<string, string>) => Promise<Answer>;

/** The API on this database with a real authority and one key; nothing listens, requests go straight into it. */
export async function makeApi(db: Database, overrides: Partial<Deps> = {}) {
  const { token, key } = mintApiKey('test');
  await insertApiKey(db, 'system/test', key);
  const told: Hint[] = [];
  const reported: unknown[] = [];
  const authority = overrides.authority ?? (await makeAuthority(db));
  const store = overrides.store ?? (await openFileSystem(join(inject('folder'), `artifacts-${key.id}`)));
  const app = createApp({
    db,
    store,
    makeIssuingKey: makeLocalKey,
    wire: { tell: (hint) => void told.push(hint) },
    probes: { postgres: async () => {}, schema: async () => {}, temporal: async () => {} },
    temporalUiUrl: 'http://ui.example',
    namespace: 'default',
    version: '0.0.0-test',
    cursorKey: randomBytes(32),
    sealingKey: randomBytes(32),
    limits: {
      bodyBytes: 256 * 1024,
      artifactBytes: 1024 ** 2,
      registrationBytes: 2 * 1024 ** 2,
      requestsPerSecond: 100_000,
    },
    report: (error) => void reported.push(error),
    ...overrides,
    authority,
  });
  const send = async (method: string, path: string, init: RequestInit = {}): Promise<Answer> => {
    const response = await app.request(path, { method, ...init });
    const text = await response.text();
    const isJson = /[/+]json/.test(response.headers.get('content-type') ?? '');
    // Nothing is promised: a test that reads what is not there fails.
    const body = (isJson ? JSON.parse(text) : {}) as Body;
    return { status: response.status, headers: response.headers, body, text };
  };
  const ask: Ask = (method, path, body, headers = {}) => {
    const content = body === undefined ? {} : { 'content-type': 'application/json' };
    return send(method, path, {
      headers: { authorization: `Bearer ${token}`, ...content, ...headers },
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    });
  };
  return { app, ask, send, token, key, told, reported, authority, store };
}

async function makeAuthority(db: Database) {
  const keyEncryptionKey = randomBytes(32);
  const { root, issuing } = await createAuthorities({ keyEncryptionKey });
  const id = crypto.randomUUID();
  await insertAuthority(db, { ...issuing, id, kind: 'issuing', name: issuing.subject, state: 'ACTIVE' });
  return openAuthority({
    id,
    rootPem: root.certificatePem,
    issuingPem: issuing.certificatePem,
    encryptedKey: issuing.encryptedKey,
    keyEncryptionKey,
  });
}

/** Keys that are kept under one of this run; there is no token. */
export const keyEncryptionKey = randomBytes(32);
const makeLocalKey: MakeIssuingKey = async (place) => {
  if (place !== 'database') return undefined;
  const { signer, encryptedKey } = await makeSealedKey(keyEncryptionKey);
  return { signer, row: { signer: place, signerKey: null, encryptedKey } };
};
