import { createPublicKey } from 'node:crypto';
import { afterAll, expect, test } from 'vitest';
import { openAuthority } from '../../pki/authority.ts';
import { judgeCsr } from '../../pki/csr-policy.ts';
import { makeKeyPair } from '../../pki/keys.ts';
import { subjectOfCertificate } from '../../pki/subjects.ts';
import { makeAuthorities } from './authorities.ts';
import { openOpenssl } from './openssl.ts';

const openssl = openOpenssl();
afterAll(() => openssl[Symbol.dispose]());
const key = openssl.makeKey('EC', 'ec_paramgen_curve:P-256');

async function requestedBy(subject: string) {
  const verdict = await judgeCsr(openssl.makeCsr(key, subject), {});
  return 'accepted' in verdict ? verdict.accepted.requested.subject : verdict;
}

test('the parts of a name are read, whoever encoded it', async () => {
  expect(await requestedBy('/O=Acme/OU=Pumps/CN=pump-1/serialNumber=SN-1/C=DE')).toEqual({
    organization: 'Acme',
    organizationalUnit: 'Pumps',
    commonName: 'pump-1',
    serialNumber: 'SN-1',
  });
});

test('what stands twice is not there, so that nobody chooses which of the two counts', async () => {
  expect(await requestedBy('/CN=pump-1/CN=pump-2/O=Acme')).toEqual({ organization: 'Acme' });
});

test('the subject of a certificate is read like that of a request', async () => {
  const authority = await openAuthority((await makeAuthorities()).material);
  const publicKey = createPublicKey(makeKeyPair().publicKeyPem).export({ type: 'spki', format: 'der' });
  const request = { certificateId: '0'.repeat(64), publicKey, lifetimeMs: 90 * 86_400_000 };
  const { der } = await authority.issue({ ...request, profile: 'device', subject: { device: 'pump-1' } });
  expect(subjectOfCertificate(der)).toEqual({ commonName: 'pump-1' });
});
