import { createPrivateKey, X509Certificate } from 'node:crypto';
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
  signers: () => Promise<ListSigner[]>;
  log: Pick<Logger, 'warn'>;
}): Periodic =>
  createPeriodic({
    name: 'publishing revocation lists',
    everyMs: 1_000,
    log,
    work: async () => void (await publishDueLists(db, await signers())),
  });

/**
 * Publishes the list of the root whose key is in the file, which nothing else can sign: at the first start, and whenever the
 * file is put back. The root's key is then moved away, so the list holds as long as the root.
 */
export async function ensureRootList(db: Database, rootKeyFile: string): Promise<void> {
  const privateKeyPem = await readFile(rootKeyFile, 'utf8').catch(() => undefined);
  if (privateKeyPem === undefined) return;
  const key = createPrivateKey(privateKeyPem);
  const root = (await listAuthorities(db)).find(({ kind, certificatePem: pem }) => {
    return kind === 'root' && new X509Certificate(pem).checkPrivateKey(key);
  });
  if (!root) return;
  const { id, certificatePem, notAfter } = root;
  await publishRootList(db, openRootListSigner({ id, certificatePem, privateKeyPem }), notAfter);
}
