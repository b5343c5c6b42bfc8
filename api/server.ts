import { hkdfSync } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createAdaptorServer } from '@hono/node-server';
import { DrizzleQueryError } from 'drizzle-orm';
import { connect } from '../db/client.ts';
import { hookSealingKey } from '../pki/hook-secrets.ts';
import { apiConfig } from '../workers/config.ts';
import { makeIssuingKey } from '../workers/issuing-keys.ts';
import { readKey } from '../workers/keys.ts';
import { createLog } from '../workers/log.ts';
import { openSigner } from '../workers/signer.ts';
import { openStore } from '../workers/store.ts';
import { connectTemporal } from '../workers/temporal.ts';
import { openWire } from '../workers/wire.ts';
import { createApp } from './app.ts';
import { createProbes } from './probes.ts';

/** The API as a process: configured by its environment, ready when it says so at /readyz, drained by SIGTERM. */
const bodyBytes = 256 * 1024;
/** A million lines with a certificate each. */
const registrationBytes = 2 * 1024 ** 3;
const drainMs = 10_000;
/** An upload of some gigabytes over a slow line is one request. */
const requestWithinMs = 24 * 3_600_000;

const config = apiConfig(process.env);
const log = createLog('api', config.logLevel);
const { version } = JSON.parse(await readFile(new URL('../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

const db = connect({ ...config.database, applicationName: 'longhaul api' });
await using wire = await openWire({ wire: config.wire, directUrl: config.databaseDirectUrl });
await using temporal = connectTemporal(config);
await using probes = createProbes(db, temporal.client);
const authority = await openSigner(db, config.signer);
const keyEncryptionKey = await readKey(config.signer.keyEncryptionKeyFile);

const closing = new AbortController();
const app = createApp({
  db,
  wire,
  authority,
  makeIssuingKey: async (place, label) =>
    place === 'pkcs11' && !config.signer.pkcs11 ? undefined : makeIssuingKey(config.signer, label, place),
  store: await openStore(config.store),
  probes,
  temporalUiUrl: (config.temporalUiUrl ?? 'http://127.0.0.1:8233').replace(/\/+$/, ''),
  namespace: temporal.namespace,
  version,
  cursorKey: new Uint8Array(hkdfSync('sha256', keyEncryptionKey, '', 'longhaul list cursors', 32)),
  sealingKey: hookSealingKey(keyEncryptionKey),
  limits: {
    bodyBytes,
    artifactBytes: config.artifactBytesMax,
    registrationBytes,
    requestsPerSecond: config.requestsPerSecond,
  },
  closing: closing.signal,
  // A query's own message holds its parameters, which may be somebody's data: the cause says what was wrong with it.
  report: (error) => log.error({ err: error instanceof DrizzleQueryError ? error.cause : error }, 'unexpected error'),
});

const stop = Promise.withResolvers<void>();
for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.resolve());

const server = createAdaptorServer({ fetch: app.fetch, serverOptions: { requestTimeout: requestWithinMs } });
server.listen(config.port, config.host);
await once(server, 'listening');
log.info({ address: server.address() }, 'the API listens');

await stop.promise;
closing.abort();
const closed = once(server, 'close');
server.close();
const cut = setTimeout(() => 'closeAllConnections' in server && server.closeAllConnections(), drainMs);
await closed;
clearTimeout(cut);
await db.$client.end({ timeout: 5 });
