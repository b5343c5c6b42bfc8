import { randomBytes } from 'node:crypto';
import { createServer } from 'node:https';
import { text } from 'node:stream/consumers';
import { connect } from '../../db/client.ts';
import type { Authority } from '../../pki/authority.ts';
import { judgeCsr } from '../../pki/csr-policy.ts';
import { openSigner } from '../../workers/signer.ts';
import { listen, type TlsFiles } from './tls.ts';

const lifetimeMs = 3_600_000;

type Options = TlsFiles & { databaseUrl: string; keyEncryptionKeyFile: string };

/** HTTPS and two signatures: a request is verified, its certificate signed, and nothing is kept or asked. Its port. */
export async function startSigningServer({ certificatePem, privateKeyPem, ...keys }: Options): Promise<number> {
  const db = connect({ url: keys.databaseUrl, applicationName: 'longhaul bench' });
  const authority = await openSigner(db, keys);
  const server = createServer({ cert: certificatePem, key: privateKeyPem }, (request, response) => {
    void text(request).then(async (csr) => response.end(await certify(authority, csr)));
  });
  return listen(server);
}

async function certify(authority: Authority, csr: string): Promise<string> {
  const judged = await judgeCsr(Buffer.from(csr, 'base64'));
  if ('refused' in judged) throw new Error(judged.refused.detail);
  const { publicKey } = judged.accepted;
  const certificateId = randomBytes(32).toString('hex');
  const subject = { certificate: certificateId };
  const issued = await authority.issue({ profile: 'device', certificateId, subject, publicKey, lifetimeMs });
  return issued.pem;
}
