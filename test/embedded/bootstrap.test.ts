import { execFile } from 'node:child_process';
import { chmod, copyFile, mkdir, mkdtemp, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';

/*
 * A clone of its own, and on its PATH only programs that stand for npm, go and temporal: they note that they were called
 * and leave what the real ones leave.
 */
const bootstrap = fileURLToPath(new URL('../../embedded/bootstrap.mjs', import.meta.url));
let clone: string;

beforeEach(async () => {
  clone = await mkdtemp(join(tmpdir(), 'longhaul-clone-'));
  await mkdir(join(clone, 'embedded'));
  await copyFile(bootstrap, join(clone, 'embedded', 'bootstrap.mjs'));
  await lock('1.0.0');
  await program(
    'bin/npm',
    `
    echo "npm $1" >> calls
    /bin/mkdir -p node_modules/.bin
    /bin/cp package-lock.json node_modules/.package-lock.json
    printf '#!/bin/sh\\nexit 1' > node_modules/.bin/node # cannot download
    /bin/chmod +x node_modules/.bin/node`,
  );
});
afterEach(() => rm(clone, { recursive: true }));

async function program(path: string, script: string): Promise<void> {
  const file = join(clone, path);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, `#!/bin/sh\n${script}\n`);
  await chmod(file, 0o755);
}

const lock = (version: string) =>
  writeFile(
    join(clone, 'package-lock.json'),
    JSON.stringify({ packages: { '': {}, 'node_modules/one': { version } } }),
  );

const goThatBuilds = () =>
  program('bin/go', `echo "go $1" >> calls; printf '#!/bin/sh' > "$GOBIN/temporal"; /bin/chmod +x "$GOBIN/temporal"`);

const temporalOnPath = (server: string) =>
  program('bin/temporal', `echo "temporal version 1.0.0 (Server ${server}, UI 2.0.0)"`);

const calls = () =>
  readFile(join(clone, 'calls'), 'utf8').then(
    (text) => text.trim().split('\n'),
    () => [],
  );
const linked = () => readlink(join(clone, '.longhaul', 'temporal'));

type Outcome = { code: number; output: string };

function run(): Promise<Outcome> {
  const env = { PATH: join(clone, 'bin') };
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [join(clone, 'embedded', 'bootstrap.mjs')],
      { env, cwd: clone },
      (error, stdout, stderr) => {
        resolve({ code: error ? Number(error.code) : 0, output: stdout + stderr });
      },
    );
  });
}

test('a fresh clone is installed once; after that nothing is called and nothing said', async () => {
  await temporalOnPath('1.29.1');
  expect((await run()).output).toContain('installing packages');
  expect(await calls()).toEqual(['npm install']);

  expect(await run()).toEqual({ code: 0, output: '' });
  expect(await calls()).toHaveLength(1);
});

test('another version in the lock file is installed', async () => {
  await temporalOnPath('1.29.1');
  await run();
  await lock('1.0.1');
  await run();
  expect(await calls()).toEqual(['npm install', 'npm install']);
});

test('an npm that leaves the packages incomplete is an error', async () => {
  await program('bin/npm', 'exit 0');
  const { code, output } = await run();
  expect(code).toBe(1);
  expect(output).toContain('npm left the packages incomplete');
});

test('the Temporal on PATH comes first', async () => {
  await temporalOnPath('1.30.0');
  await goThatBuilds();
  await run();
  expect(await linked()).toBe(join(clone, 'bin', 'temporal'));
  expect(await calls()).not.toContain('go install');
});

test('one that is too old is named and not used', async () => {
  await temporalOnPath('1.28.9');
  await goThatBuilds();
  expect((await run()).output).toContain('bin/temporal is older than server 1.29');
  expect(await linked()).toBe(join(clone, '.longhaul', 'bin', 'temporal'));
});

test('without one, and without a download, it is built once and kept', async () => {
  await goThatBuilds();
  expect((await run()).output).toMatch(/cannot be downloaded from here[\s\S]*building Temporal from source/);
  expect(await run()).toEqual({ code: 0, output: '' });
  expect(await calls()).toEqual(['npm install', 'go install']);
  expect(await linked()).toBe(join(clone, '.longhaul', 'bin', 'temporal'));
});

test('a build that fails leaves nothing behind and says what to install', async () => {
  await program('bin/go', `printf 'half' > "$GOBIN/temporal"; echo 'no space left' >&2; exit 1`);
  const { code, output } = await run();
  expect(code).toBe(1);
  expect(output).toMatch(/no space left[\s\S]*Install the Temporal CLI 1\.5 or later .* or Go 1\.25 or later/);
  await expect(linked()).rejects.toThrow('ENOENT');

  await goThatBuilds();
  expect((await run()).code).toBe(0);
});
