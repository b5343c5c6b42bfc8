import { join } from 'node:path';
import { connect } from '../db/client.ts';
import { initialise } from '../embedded/initialise.ts';
import { keepNodeRunning } from '../embedded/node-parts.ts';
import { freePort } from '../embedded/ports.ts';
import { startPostgres } from '../embedded/postgres.ts';
import { openSigner } from '../workers/signer.ts';
import { makeDevices } from './fleet.ts';
import { interleave, rateRow } from './measure.ts';
import { keyEncryptionKeyFile, type Rig } from './rig.ts';

const connections = 32;
const ms = 4_000;

/**
 * An API process on a Postgres of its own, where no gateway takes the accepted commands up: the lifecycles' share of the
 * machine is measured with the commands, and is not the price of saying 202.
 */
export async function api({ dataDir: folder, load, bare }: Rig) {
  const dataDir = join(folder, 'api');
  await using postgres = await startPostgres({ dataDir: join(dataDir, 'postgres'), port: 0 });
  const apiPort = await freePort();
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('TEMPORAL_'));
  const env = {
    ...Object.fromEntries(inherited),
    DATABASE_URL: postgres.url,
    LONGHAUL_KEY_ENCRYPTION_KEY_FILE: keyEncryptionKeyFile(dataDir),
    LONGHAUL_ARTIFACTS_FOLDER: join(dataDir, 'artifacts'),
    LONGHAUL_ROOT_KEY_FILE: join(dataDir, 'root-private-key.pem'),
    LONGHAUL_ADMINISTRATOR_KEY_FILE: join(dataDir, 'administrator-key'),
    API_PORT: String(apiPort),
    API_REQUESTS_PER_SECOND: '1000000',
  };
  const { administratorKey: token } = await initialise(dataDir, env);
  const ready = async () => (await fetch(`http://127.0.0.1:${apiPort}/authorities.pem`)).ok;
  const { signal } = new AbortController();
  await using _ = await keepNodeRunning({ name: 'api', entry: 'api/server.ts', env, dataDir, ready, signal });
  const db = connect({ url: postgres.url, max: 1 });
  const authority = await openSigner(db, { keyEncryptionKeyFile: keyEncryptionKeyFile(dataDir) });
  const devices = await makeDevices({ db, authority }, 200);
  await db.$client.end();

  const barePort = await bare.run('startHttp', { databaseUrl: postgres.url });
  const bodies = devices.map(({ name }) => ({ targets: name, payload: { action: 'blink', times: 3 } }));
  const post = { path: '/v1/commands', token, bodies, connections, ms };
  const pairs = await interleave({
    rounds: 5,
    product: () => load.run('postLoad', { ...post, port: apiPort }),
    baseline: () => load.run('postLoad', { ...post, port: barePort }),
  });
  return [rateRow('API, durable accept of commands (202), 32 connections', pairs, { must: 0.4, aim: 0.7 })];
}
