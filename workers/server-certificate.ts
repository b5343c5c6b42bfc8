import { createPublicKey, randomBytes, X509Certificate } from 'node:crypto';
import { readFile, rename, writeFile } from 'node:fs/promises';
import type { Authority } from '../pki/authority.ts';
import { makeKeyPair } from '../pki/keys.ts';

export type ServerCertificateFiles = { certificateFile: string; keyFile: string; names: string[] };

const dayMs = 86_400_000;
const lifetimeMs = 365 * dayMs;
const renewBeforeMs = 30 * dayMs;

/**
 * The gateway's own certificate from our authority, for whoever does not bring one from elsewhere. Made anew a month
 * before it ends, and when it does not carry one of the names or is not of this authority.
 */
export async function ensureServerCertificate(authority: Authority, files: ServerCertificateFiles): Promise<void> {
  if (await isGood(authority, files)) return;
  const { publicKeyPem, privateKeyPem } = makeKeyPair();
  const { chainPem } = await authority.issue({
    profile: 'server',
    certificateId: randomBytes(32).toString('hex'),
    subject: { server: files.names },
    publicKey: createPublicKey(publicKeyPem).export({ type: 'spki', format: 'der' }),
    lifetimeMs,
  });
  await writeWhole(files.keyFile, privateKeyPem, 0o600);
  await writeWhole(files.certificateFile, chainPem, 0o644);
}

async function isGood(authority: Authority, { certificateFile, keyFile, names }: ServerCertificateFiles) {
  try {
    const certificate = new X509Certificate(await readFile(certificateFile));
    await readFile(keyFile);
    return (
      certificate.checkIssued(new X509Certificate(authority.certificatePem)) &&
      certificate.validToDate.getTime() > Date.now() + renewBeforeMs &&
      names.every((name) => (/^[\d.]+$|:/.test(name) ? certificate.checkIP(name) : certificate.checkHost(name)))
    );
  } catch {
    return false;
  }
}

/** A reader finds the old file or the new one, never half of either. */
async function writeWhole(file: string, text: string, mode: number): Promise<void> {
  await writeFile(`${file}.new`, text, { mode });
  await rename(`${file}.new`, file);
}
