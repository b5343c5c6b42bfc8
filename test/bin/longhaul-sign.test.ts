import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';

const inProject = (path: string) => fileURLToPath(new URL(`../../${path}`, import.meta.url));

let folder: string;
const at = (name: string) => join(folder, name);
const firmware = Buffer.alloc(100_000, 'firmware');
beforeAll(async () => {
  folder = await mkdtemp(join(inject('folder'), 'sign-'));
  await writeFile(at('pump.bin'), firmware);
  await writeFile(at('passphrase'), 'correct horse\nbattery staple\n');
});
afterAll(() => rm(folder, { recursive: true, force: true }));

function run(...args: string[]) {
  const env = { ...process.env, NODE_COMPILE_CACHE: join(inject('folder'), 'compile-cache') };
  const program = [inProject('bin/longhaul-sign.ts'), ...args];
  const { status, stdout, stderr } = spawnSync(process.execPath, program, { cwd: folder, encoding: 'utf8', env });
  return { status, stdout, stderr };
}

const whatItIs = ['--product', 'pump', '--version', '1.2.3', '--counter', '7', '--hardware', 'rev-a'];
const signed = (key: string, ...more: string[]) =>
  run('sign', '--key', key, '--artifact', 'pump.bin', ...whatItIs, '--expires', '2999-01-01T00:00:00Z', ...more);

describe('longhaul-sign', () => {
  test('makes a key that only its owner may read, and writes over nothing', async () => {
    const made = run('keygen', '--out', 'a.key');
    expect(made).toMatchObject({ status: 0, stderr: '' });
    expect(made.stdout).toMatch(/^ES256 release key [\w-]{43}\n/);
    expect((await stat(at('a.key'))).mode & 0o777).toBe(0o600);
    const key = await readFile(at('a.key'), 'utf8');
    const again = run('keygen', '--out', 'a.key', '--public-out', 'other.pub');
    expect(again).toMatchObject({
      status: 1,
      stderr: 'longhaul-sign: a.key is there already, and is not overwritten\n',
    });
    expect(await readFile(at('a.key'), 'utf8')).toBe(key);
    await expect(stat(at('other.pub'))).rejects.toThrow('ENOENT');
    expect(run('keygen', '--out', 'b.key', '--public-out', 'a.key.pub').status).toBe(1);
    await expect(stat(at('b.key'))).rejects.toThrow('ENOENT');
  });

  test.each(['ES256', 'EdDSA'])(
    'signs with %s what it verifies with the public half, the artifact too',
    async (algorithm) => {
      const name = `key-${algorithm}`;
      expect(run('keygen', '--out', name, '--algorithm', algorithm).status).toBe(0);
      const range = ['--hardware', 'rev b', '--allowed-from', '1.2.2', '--allowed-from', '1.2.1', '--downgrade'];
      expect(signed(name, ...range, '--out', `${name}.jws`)).toEqual({ status: 0, stdout: '', stderr: '' });
      const checked = run('verify', '--key', `${name}.pub`, '--manifest', `${name}.jws`, '--artifact', 'pump.bin');
      expect(checked).toMatchObject({ status: 0, stderr: '' });
      expect(JSON.parse(checked.stdout)).toEqual({
        product: 'pump',
        version: '1.2.3',
        hardware: ['rev-a', 'rev b'],
        artifact: { sha256: createHash('sha256').update(firmware).digest('hex'), size: 100_000, name: 'pump.bin' },
        securityCounter: 7,
        allowedFrom: ['1.2.2', '1.2.1'],
        downgrade: true,
        expires: '2999-01-01T00:00:00Z',
      });
      await writeFile(at('changed.bin'), Buffer.concat([firmware.subarray(1), Buffer.from('x')]));
      expect(
        run('verify', '--key', `${name}.pub`, '--manifest', `${name}.jws`, '--artifact', 'changed.bin').stderr,
      ).toContain('its SHA-256 is');
    },
  );

  test('signs what OpenSSL verifies', async () => {
    run('keygen', '--out', 'ed.key', '--algorithm', 'EdDSA');
    const [header = '', payload = '', signature = ''] = signed('ed.key').stdout.trim().split('.');
    await writeFile(at('signed'), `${header}.${payload}`);
    await writeFile(at('signature'), Buffer.from(signature, 'base64url'));
    const verified = spawnSync(
      'openssl',
      ['pkeyutl', '-verify', '-pubin', '-inkey', 'ed.key.pub', '-rawin', '-in', 'signed', '-sigfile', 'signature'],
      { cwd: folder },
    );
    expect(String(verified.stdout)).toContain('Verified Successfully');
  });

  test('keeps a key under a passphrase, and asks for the right one', async () => {
    run('keygen', '--out', 'kept.key', '--passphrase-file', 'passphrase');
    expect(await readFile(at('kept.key'), 'utf8')).toContain('ENCRYPTED PRIVATE KEY');
    expect(signed('kept.key', '--passphrase-file', 'passphrase').status).toBe(0);
    await writeFile(at('wrong'), 'wrong\n');
    for (const more of [[], ['--passphrase-file', 'wrong']]) {
      expect(signed('kept.key', ...more)).toMatchObject({ status: 1, stderr: expect.stringContaining('is encrypted') });
    }
  });

  test('refuses a manifest of another key, one that was changed, and one that has expired', async () => {
    run('keygen', '--out', 'mine');
    run('keygen', '--out', 'other');
    const { stdout } = signed('mine');
    await writeFile(at('good.jws'), stdout);
    await writeFile(
      at('bad.jws'),
      stdout.replace(/\.(.)/, (_, first) => (first === 'e' ? '.f' : '.e')),
    );
    const check = (key: string, manifest: string) => run('verify', '--key', key, '--manifest', manifest);
    expect(check('mine.pub', 'good.jws').status).toBe(0);
    expect(check('other.pub', 'good.jws').stderr).toContain('no release key that is known');
    expect(check('mine.pub', 'bad.jws').stderr).toContain('the signature is not');
    expect(check('mine', 'good.jws').stderr).toContain('mine: this is a private key');
    expect(run('verify', '--key', 'other.pub', '--key', 'mine.pub', '--manifest', 'good.jws').status).toBe(0);
  });

  test.each([
    [['--name', '../../etc/passwd'], 'artifact.name: a name is'],
    [['--product', '../pump'], 'product: a product is'],
    [['--version', 'a b'], 'version: a version is'],
    [['--hardware', ''], 'hardware.1'],
    [['--expires', '2020-01-01T00:00:00Z'], 'is over'],
    [['--expires', 'tomorrow'], 'expires: it is an RFC 3339 time'],
  ])('does not sign what the API would refuse: %j', (flags, message) => {
    expect(signed('mine', ...flags)).toMatchObject({ status: 1, stdout: '', stderr: expect.stringContaining(message) });
  });

  test.each([
    [[], 0, ''],
    [['--help'], 0, ''],
    [['sign', '--help'], 0, ''],
    [['shred'], 2, 'there is no command "shred"'],
    [['keygen'], 2, '--out is needed'],
    [['keygen', '--out', 'x', '--algorithm', 'RS256'], 2, '--algorithm is ES256 or EdDSA'],
    [['sign', '--key', 'mine'], 2, '--artifact is needed'],
    [['sign', '--what'], 2, '--what'],
    [['verify', '--key', 'mine.pub'], 2, '--manifest is needed'],
    [['verify', '--key', 'absent', '--manifest', 'good.jws'], 1, 'absent'],
  ])('called with %j ends with %i', (args, status, message) => {
    const ended = run(...args);
    expect(ended.status).toBe(status);
    expect(ended.stderr).toContain(message);
    expect(ended.stderr).not.toMatch(/\n\s+at /);
    if (status === 0) expect(ended.stdout).toContain('longhaul-sign keygen');
  });

  test('runs as a command, under whatever Node the machine has', () => {
    const ended = spawnSync(inProject('bin/longhaul-sign.mjs'), ['keygen'], { cwd: folder, encoding: 'utf8' });
    expect(ended).toMatchObject({ status: 2, stderr: expect.stringContaining('--out is needed') });
  });

  test.each(['9007199254740992', '-1', '1.5', '1e3', 'x'])('takes no counter of %s', (counter) => {
    const args = whatItIs.map((arg) => (arg === '7' ? counter : arg));
    const ended = run('sign', '--key', 'mine', '--artifact', 'pump.bin', ...args, '--expires-in-days', '30');
    expect(ended).toMatchObject({ status: 2, stdout: '' });
  });
});
