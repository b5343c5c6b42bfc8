import { readFile } from 'node:fs/promises';
import type { Logger } from 'pino';
import { publishDueLists, publishRootList } from '../activities/revocation-lists.ts';
import { listAuthorities } from '../db/authorities.ts';
import type { Database } from '../db/client.ts';
import { createPeriodic, type Periodic } from '../gateway/periodic.ts';
import { openRootListSigner, type ListSigner } from '../pki/crl.ts';

/**
 * Publishes, once a second, the lists that lack a revocation or are eight hours old. It goes by the rows alone, so that it
 * finds every revocation whoever made it, and needs nothing but Postgres: lists are published while Temporal is away.
 */
export const keepLists = ({
  db,
  signers,
  log,
}: {
  db: Database;
  signers: ListSigner[];
  log: Pick<Logger, 'warn'>;
}): Periodic =>
  createPeriodic({
    name: 'publishing revocation lists',
    everyMs: 1_000,
    log,
    work: async () => void (await publishDueLists(db, signers)),
  });

/**
 * Publishes the root's list, which only its key can sign, where the key is still in its file: at the first start, and whenever
 * the file is put back. The root's key is then moved away, so the list holds as long as the root.
 */
export async function ensureRootList(db: Database, rootKeyFile: string): Promise<void> {
  const root = (await listAuthorities(db)).find(({ kind, state }) => kind === 'root' && state === 'ACTIVE');
  const privateKeyPem = await readFile(rootKeyFile, 'utf8').catch(() => undefined);
  if (!root || privateKeyPem === undefined) return;
  const { id, certificatePem, notAfter } = root;
  await publishRootList(db, openRootListSigner({ id, certificatePem, privateKeyPem }), notAfter);
}
