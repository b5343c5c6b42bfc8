import { interleave, rateRow } from './measure.ts';
import { keyEncryptionKeyFile, type Rig } from './rig.ts';

const atATime = 16;

export async function certificates({ load, running, dataDir }: Rig) {
  await load.run('openSigner', {
    databaseUrl: running.stack.postgres.url,
    keyEncryptionKeyFile: keyEncryptionKeyFile(dataDir),
  });
  const pairs = await interleave({
    rounds: 5,
    product: () => load.run('issue', { count: 2_000, atATime }),
    baseline: () => load.run('verifyAndSign', { count: 10_000 }),
  });
  return [rateRow('certificates, CSR to PEM and row, one core', pairs, { must: 0.03, aim: 0.25 })];
}
