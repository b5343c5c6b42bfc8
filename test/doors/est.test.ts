import { execFile } from 'node:child_process';
import { randomBytes, X509Certificate } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { makeCsr, makeKeyPair, type KeyPair } from '../../pki/keys.ts';
import { openRig, type Rig } from './rig.ts';
import { serveTestDoors, type Asking, type Served } from './served.ts';

const run = promisify(execFile);
const est = '/.well-known/est';
const perRequest = { namePattern: 'est-${request.commonName}', parameters: [], attributes: {}, configuration: {} };
let rig: Rig;
let served: Served;
beforeAll(async () => {
  rig = await openRig();
  served = await serveTestDoors(rig);
}, 120_000);
afterAll(async () => {
  await served[Symbol.asyncDispose]();
  await rig[Symbol.asyncDispose]();
});

const makeToken = async (part = {}, claim = {}) =>
  rig.makeToken((await rig.makeTemplate({ ...perRequest, ...part })).template, claim);
const freshName = () => randomBytes(5).toString('hex');
const base64Of = (pem: string) => pem.replaceAll(/-----[A-Z ]+-----|\s/g, '');
const basic = (token: string) => `Basic ${Buffer.from(`any:${token}`).toString('base64')}`;
const ask = (operation: string, authorization: string | undefined, body: string | Buffer, asking: Asking = {}) =>
  served.ask('POST', `${est}/${operation}`, {
    ...asking,
    headers: {
      'content-type': 'application/pkcs10',
      ...(authorization !== undefined && { authorization }),
      ...asking.headers,
    },
    body,
  });
const enrol = (token: string, key: KeyPair, name: string, label = '') =>
  ask(`${label}simpleenroll`, basic(token), base64Of(makeCsr(key, name)));

/** What openssl reads in an answer. */
async function readBag(base64: string): Promise<X509Certificate[]> {
  const file = join(inject('folder'), `${freshName()}.p7`);
  await writeFile(file, Buffer.from(base64, 'base64'));
  const { stdout } = await run('openssl', ['pkcs7', '-inform', 'DER', '-in', file, '-print_certs']);
  const blocks = stdout.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return blocks.map((block) => new X509Certificate(block));
}

describe('without credentials', () => {
  test('everybody reads what to trust, by whatever label', async () => {
    for (const path of ['cacerts', 'any-label/cacerts']) {
      const { status, headers, body } = await served.ask('GET', `${est}/${path}`);
      expect({ status, type: headers['content-type'], encoding: headers['content-transfer-encoding'] }).toEqual({
        status: 200,
        type: 'application/pkcs7-mime',
        encoding: 'base64',
      });
      expect(headers['content-length']).toBe(String(body.length));
      expect(body).not.toMatch(/\s/);
      const subjects = (await readBag(body)).map(({ subject }) => subject).toSorted();
      expect(subjects).toEqual(['CN=Longhaul issuing authority', 'CN=Longhaul root authority']);
    }
  });

  test('a device is told which key the template wants, and of no template whether it is there', async () => {
    const { template } = await rig.makeTemplate({ keys: ['P-384'] });
    const { headers, body } = await served.ask('GET', `${est}/${template}/csrattrs`);
    expect(headers['content-type']).toBe('application/csrattrs');
    const plain = await served.ask('GET', `${est}/csrattrs`);
    expect(body).not.toBe(plain.body);
    expect((await served.ask('GET', `${est}/no-such-template/csrattrs`)).body).toBe(plain.body);
  });

  test('nobody enrols, and the answer says what is wanted', async () => {
    const { status, headers } = await ask('simpleenroll', undefined, base64Of(makeCsr(makeKeyPair())));
    expect(status).toBe(401);
    expect(headers['www-authenticate']).toMatch(/^Basic realm=/);
  });
});

describe('a claim token', () => {
  test.each(['', 'label/'])('as the password enrols, at %jsimpleenroll', async (label) => {
    const { permit, token } = await makeToken();
    const [key, name] = [makeKeyPair(), freshName()];
    const answer = await enrol(token, key, name, label && `${permit.template}/`);
    expect(answer.status).toBe(200);
    expect(answer.headers['content-type']).toBe('application/pkcs7-mime; smime-type=certs-only');
    expect(answer.headers['content-length']).toBe(String(answer.body.length));
    const [leaf, ...others] = await readBag(answer.body);
    expect(others).toEqual([]);
    expect(leaf?.subject).toBe(`CN=est-${name}`);
    const enrolment = await rig.enrolmentOf(permit);
    const credentials = { certificateId: enrolment?.certificateId ?? '', privateKey: key.privateKeyPem };
    const certificate = `${leaf?.toString()}${rig.fleet.authority.certificatePem}`;
    (await rig.gateway.connect({ ...credentials, certificate })).end(true);
  });

  test('enrols by any spelling of the request, and the answer to the same request is the same', async () => {
    const { token } = await makeToken({}, { usesMax: 1 });
    const base64 = base64Of(makeCsr(makeKeyPair(), freshName()));
    const spellings = [base64, base64.replaceAll(/.{1,64}/g, '$&\n'), base64.replaceAll(/.{1,76}/g, '$&\r\n')];
    const answers = await Promise.all(
      [...spellings, ...Array<string>(47).fill(base64)].map((body) => ask('simpleenroll', `Bearer ${token}`, body)),
    );
    expect(new Set(answers.map(({ status, body }) => `${status} ${body}`)).size).toBe(1);
    expect(answers[0]?.status).toBe(200);
  });

  test('is refused at the label of another template, and when it is wrong', async () => {
    const { token } = await makeToken();
    const { template } = await rig.makeTemplate(perRequest);
    expect((await enrol(token, makeKeyPair(), freshName(), `${template}/`)).status).toBe(403);
    expect((await enrol(`${token.slice(0, -2)}__`, makeKeyPair(), freshName())).status).toBe(401);
    expect((await ask('simpleenroll', 'Digest x', '')).status).toBe(401);
  });

  test('that has to wait is answered 202 with the time to come back at', async () => {
    const { token } = await makeToken({ approval: true });
    const { status, headers } = await enrol(token, makeKeyPair(), freshName());
    expect({ status, retry: headers['retry-after'] }).toEqual({ status: 202, retry: '30' });
  });

  test.each([
    ['PEM', makeCsr(makeKeyPair()), {}, 400],
    ['an empty body', '', {}, 400],
    ['another media type', 'AAAA', { 'content-type': 'application/pkcs7-mime' }, 415],
    ['too much', 'A'.repeat(70_000), {}, 413],
  ])('with %s is refused', async (_, body, headers, status) => {
    const { token } = await makeToken();
    expect((await ask('simpleenroll', `Bearer ${token}`, body, { headers })).status).toBe(status);
  });
});

test("a claim's certificate enrols without more, and a device's does not", async () => {
  const { template } = await rig.makeTemplate(perRequest);
  const claim = await rig.fleet.makeClaim({ template });
  const body = base64Of(makeCsr(makeKeyPair(), freshName()));
  expect((await ask('simpleenroll', undefined, body, { credentials: claim })).status).toBe(200);
  const device = await rig.fleet.makeDevice();
  expect((await ask('simpleenroll', undefined, body, { credentials: device })).status).toBe(401);
});

test('openssl and curl are a whole client', async () => {
  const { token } = await makeToken();
  const [folder, name] = [join(inject('folder'), `est-${freshName()}`), freshName()];
  const at = (file: string) => join(folder, file);
  await mkdir(folder);
  await writeFile(at('ca.pem'), served.ca);
  const base = `https://localhost:${served.port}${est}`;
  const curl = (...args: string[]) => run('curl', ['-sSf', '--max-time', '20', '--cacert', at('ca.pem'), ...args]);
  await curl('-o', at('cacerts.b64'), `${base}/cacerts`);
  await run('openssl', ['base64', '-d', '-A', '-in', at('cacerts.b64'), '-out', at('cacerts.p7')]);
  await run('openssl', ['pkcs7', '-inform', 'DER', '-in', at('cacerts.p7'), '-print_certs', '-out', at('trust.pem')]);
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', at('key.pem')];
  await run('openssl', ['req', '-new', ...key, '-subj', `/CN=${name}`, '-outform', 'DER', '-out', at('csr.der')]);
  await run('openssl', ['base64', '-e', '-in', at('csr.der'), '-out', at('csr.b64')]);
  const body = ['--data-binary', `@${at('csr.b64')}`, '-H', 'Content-Type: application/pkcs10'];
  await curl('-u', `est:${token}`, ...body, '-o', at('cert.b64'), `${base}/simpleenroll`);
  await run('openssl', ['base64', '-d', '-A', '-in', at('cert.b64'), '-out', at('cert.p7')]);
  await run('openssl', ['pkcs7', '-inform', 'DER', '-in', at('cert.p7'), '-print_certs', '-out', at('cert.pem')]);
  const { stdout } = await run('openssl', ['verify', '-CAfile', at('trust.pem'), at('cert.pem')]);
  expect(stdout).toContain('OK');
  expect(new X509Certificate(await readFile(at('cert.pem'))).subject).toBe(`CN=est-${name}`);
});
