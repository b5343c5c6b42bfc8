import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, expect, inject, test } from 'vitest';
import { readIssuing, readRoot } from '../../pki/authority-certificates.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { readCsr, unwrapPem } from '../../pki/csr.ts';

const program = fileURLToPath(new URL('../../bin/longhaul-authority.ts', import.meta.url));
let folder: string;
beforeAll(async () => void (folder = await mkdtemp(join(inject('folder'), 'authority-'))));

function run(...args: string[]) {
  const env = { ...process.env, NODE_COMPILE_CACHE: join(inject('folder'), 'compile-cache') };
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], {
    cwd: folder,
    encoding: 'utf8',
    env,
  });
  return { status, stdout, stderr };
}
const read = (name: string) => readFile(join(folder, name), 'utf8');

test('a root is made once, its key is for its owner alone, and what it certifies is what the API takes', async () => {
  const make = () => run('root', '--name', 'Example root', '--key-out', 'root.key', '--out', 'root.pem');
  expect(make()).toMatchObject({ status: 0, stderr: '' });
  expect(make()).toMatchObject({ status: 1 });
  expect((await stat(join(folder, 'root.key'))).mode & 0o777).toBe(0o600);
  const certificatePem = await read('root.pem');
  expect(readRoot(certificatePem).subject).toBe('CN=Example root');

  const csr = makeCsr(makeKeyPair(), 'Line 2');
  await writeFile(join(folder, 'csr.pem'), csr);
  const certified = run('certify', '--root', 'root.pem', '--key', 'root.key', '--request', 'csr.pem');
  expect(certified).toMatchObject({ status: 0, stderr: '' });
  const spkiSha256 = createHash('sha256')
    .update(readCsr(unwrapPem(csr)).publicKey)
    .digest();
  const { issuing } = readIssuing(certified.stdout, { spkiSha256, roots: [{ certificatePem }] });
  expect(issuing.subject).toBe('CN=Line 2');
});

test('it says what is wrong: a request that is none, a flag that is missing, a command that it does not know', async () => {
  await writeFile(join(folder, 'none.pem'), 'none');
  const certify = ['certify', '--root', 'root.pem', '--key', 'root.key', '--request', 'none.pem'];
  expect(run(...certify)).toMatchObject({ status: 1, stderr: expect.stringContaining('refused') });
  expect(run('root', '--name', 'x')).toMatchObject({ status: 2, stderr: expect.stringContaining('--out is needed') });
  expect(run('revoke').status).toBe(2);
  expect(run('--help')).toMatchObject({ status: 0, stdout: expect.stringContaining('longhaul-authority certify') });
});
