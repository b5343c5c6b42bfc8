import { createHash, createPrivateKey, createPublicKey, randomBytes, sign, verify } from 'node:crypto';
import { insertCertificate } from '../../db/certificates.ts';
import { connect, type Database } from '../../db/client.ts';
import type { Authority } from '../../pki/authority.ts';
import { judgeCsr } from '../../pki/csr-policy.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { openSigner } from '../../workers/signer.ts';
import { each } from './mqtt.ts';

let signer: { db: Database; authority: Authority } | undefined;
const dayMs = 86_400_000;

export const certificateJobs = {
  async openSigner({ databaseUrl, keyEncryptionKeyFile }: { databaseUrl: string; keyEncryptionKeyFile: string }) {
    const db = connect({ url: databaseUrl, applicationName: 'longhaul bench' });
    signer = { db, authority: await openSigner(db, { keyEncryptionKeyFile }) };
  },

  /** From a request in PEM to a certificate in PEM that stands in its row, so many at a time. Returns them per second. */
  async issue({ count, atATime }: { count: number; atATime: number }) {
    if (!signer) throw new Error('there is no signer');
    const { db, authority } = signer;
    const requests = Array.from({ length: count }, () => makeCsr(makeKeyPair()));
    const startedAt = performance.now();
    await each(requests, atATime, (csr) => issueOne(db, authority, csr));
    return (count / (performance.now() - startedAt)) * 1_000;
  },

  /** The two signatures' worth of arithmetic in it, and nothing else. */
  async verifyAndSign({ count }: { count: number }) {
    const pair = makeKeyPair();
    const privateKey = createPrivateKey(pair.privateKeyPem);
    const publicKey = createPublicKey(pair.publicKeyPem);
    const text = randomBytes(300);
    const signature = sign('sha256', text, privateKey);
    const startedAt = performance.now();
    for (let n = 0; n < count; n++) {
      if (!verify('sha256', text, publicKey, signature)) throw new Error('the signature is wrong');
      sign('sha256', text, privateKey);
    }
    return (count / (performance.now() - startedAt)) * 1_000;
  },
};

async function issueOne(db: Database, authority: Authority, csr: string): Promise<void> {
  const judged = await judgeCsr(csr);
  if ('refused' in judged) throw new Error(judged.refused.detail);
  const { publicKey } = judged.accepted;
  const certificateId = randomBytes(32).toString('hex');
  const issued = await authority.issue({
    profile: 'device',
    certificateId,
    subject: { certificate: certificateId },
    publicKey,
    lifetimeMs: 365 * dayMs,
  });
  const { authorityId, serial, fingerprint, pem, notBefore, notAfter } = issued;
  const spkiSha256 = createHash('sha256').update(publicKey).digest();
  const row = { authorityId, serial, fingerprint, pem, notBefore, notAfter, spkiSha256, subject: certificateId };
  const inserted = await insertCertificate(db, {
    ...row,
    id: certificateId,
    kind: 'device',
    state: 'PENDING_ACTIVATION',
  });
  if (!inserted) throw new Error('the key has a certificate already');
}
