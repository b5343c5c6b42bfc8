import { inArray } from 'drizzle-orm';
import { certificates } from '../db/schema.ts';
import { makeDevices } from './fleet.ts';
import { judge, latencies, median, spread, type Row } from './measure.ts';
import { keyEncryptionKeyFile, type Rig } from './rig.ts';

const rounds = 5;
const entries = 100_000;
/** One more than the row says: in the baseline, that one tells the broker whom to kick. */
const connected = 1_001;
const revoked = 200;

export async function crl({ load, running, dataDir }: Rig): Promise<Row[]> {
  await load.run('makeRevoked', {
    databaseUrl: running.stack.postgres.url,
    keyEncryptionKeyFile: keyEncryptionKeyFile(dataDir),
    count: entries,
  });
  // The first tells of all of them for the first time, and writes that down in each of their rows.
  await load.run('publishList', undefined);
  const figures: number[] = [];
  for (let round = 0; round < rounds; round++) figures.push(await load.run('publishList', undefined));
  return [
    {
      what: 'CRL, 100,000 entries, generate and verify',
      figure: `${spread(figures)} ms`,
      baseline: '–',
      ratio: '–',
      must: '≤ 1 s',
      aim: '≤ 100 ms',
      verdict: judge(median(figures), { must: 1_000, aim: 100 }),
    },
  ];
}

/** One after the other, while the others stay connected. These devices are of no use to anybody afterwards. */
export async function revocations(rig: Rig): Promise<Row[]> {
  const { load, bare, running, db } = rig;
  const devices = await makeDevices(rig, connected);
  const ids = devices.slice(1, revoked + 1).map(({ deviceId }) => deviceId);
  const rows = await db.select().from(certificates).where(inArray(certificates.deviceId, ids));
  const victims = rows.map(({ id, subject }) => ({ name: subject, certificateId: id }));

  const broker = rig.server(await bare.run('startKickingBroker', rig.tls));
  await load.run('holdDevices', { server: broker, devices });
  const baseline = latencies(await load.run('kickHeld', { victims }));
  await load.run('releaseDevices', undefined);

  const { token, url } = running.stack.api;
  await load.run('holdDevices', { server: rig.server(), devices });
  const product = latencies(await load.run('revokeHeld', { port: Number(new URL(url).port), token, victims }));
  await load.run('releaseDevices', undefined);
  return [
    {
      what: 'revoke, API call → socket closed, 1,000 connected, p50 / p99',
      figure: product.text,
      baseline: baseline.text,
      ratio: `${(product.p50 / baseline.p50).toPrecision(2)} / ${(product.p99 / baseline.p99).toPrecision(2)}`,
      must: 'p99 ≤ 5 s',
      aim: 'p99 ≤ 100 ms',
      verdict: judge(product.p99, { must: 5_000, aim: 100 }),
    },
  ];
}
