/*
 * Runs before `npm start`, `npm test` and `npm run check`, on any Node from 20 on and before anything is installed:
 * plain JavaScript, no dependency. It sees to two things and is silent when both are there already:
 * node_modules as in package-lock.json, and a Temporal, linked as .longhaul/temporal.
 */
import { execFileSync, spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { delimiter, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const inProject = (...parts) => join(fileURLToPath(new URL('..', import.meta.url)), ...parts);
const node = inProject('node_modules', '.bin', 'node');
const link = inProject('.longhaul', 'temporal');
const cached = inProject('.longhaul', 'bin', 'temporal');
const unfinished = inProject('.longhaul', 'unfinished');

const temporalModule = 'github.com/temporalio/cli/cmd/temporal@v1.5.1'; // the last tag without a `replace` directive
const serverMin = [1, 29];
const stalledAfterMs = 10_000;

const say = (text) => console.log(`longhaul: ${text}`);

try {
  if (!isInstalled()) await installPackages();
  linkTemporal(findTemporal() ?? (await downloadTemporal()) ?? (await buildTemporal()));
} catch (error) {
  console.error(`longhaul: ${error.message}`);
  process.exitCode = 1;
}

/** Whether npm's record of what it installed agrees with the lock file; optional ones, made for one platform, may differ. */
function isInstalled() {
  const wanted = readLock('package-lock.json');
  const installed = readLock('node_modules', '.package-lock.json');
  return (
    isExecutable(node) &&
    Object.entries(installed).every(([name, { optional }]) => wanted[name] || optional) &&
    Object.entries(wanted).every(
      ([name, { version, optional }]) =>
        name === '' || (installed[name] ? installed[name].version === version : optional),
    )
  );
}

function readLock(...file) {
  try {
    return JSON.parse(fs.readFileSync(inProject(...file), 'utf8')).packages;
  } catch {
    return {};
  }
}

async function installPackages() {
  say('installing packages (npm install, once: about a minute)');
  const folders = (process.env.PATH ?? '').split(delimiter);
  const PATH = folders.filter((folder) => !folder.startsWith(inProject('node_modules'))).join(delimiter); // not the Node that npm replaces
  // Unlike `npm ci` it replaces only what changed; the lock file is followed either way, and checked afterwards.
  const args = ['install', '--no-save', '--include=dev', '--include=optional', '--no-audit', '--no-fund'];
  await run('npm', args, { env: { ...process.env, PATH }, cwd: inProject(), stdio: ['ignore', 'inherit', 'inherit'] })
    .done;
  if (!isInstalled()) {
    throw new Error(
      'npm left the packages incomplete. If your npm ignores scripts: npm rebuild --ignore-scripts=false',
    );
  }
}

/** The one on PATH, when it is recent enough, else the one that an earlier start left behind. */
function findTemporal() {
  const folders = (process.env.PATH ?? '').split(delimiter);
  const onPath = folders.map((folder) => join(folder, 'temporal')).find(isExecutable);
  if (onPath && isRecent(onPath)) return onPath;
  return isExecutable(cached) ? cached : undefined;
}

function isRecent(binary) {
  const version = execFileSync(binary, ['--version'], { encoding: 'utf8' });
  const [, major, minor] = /Server (\d+)\.(\d+)/.exec(version) ?? [];
  const recent = Number(major) > serverMin[0] || (Number(major) === serverMin[0] && Number(minor) >= serverMin[1]);
  if (!recent) say(`${binary} is older than server ${serverMin.join('.')} and not used: ${version.trim()}`);
  return recent;
}

/** The SDK downloads and tries out a development server by itself. Given up when nothing arrives for a while. */
async function downloadTemporal() {
  say('downloading Temporal');
  const script = `
    import { TestWorkflowEnvironment } from '@temporalio/testing';
    const executable = { type: 'cached-download', downloadDir: process.argv[1] };
    const environment = await TestWorkflowEnvironment.createLocal({ server: { executable } });
    await environment.teardown();`;
  makeFolder(unfinished);
  let size = 0;
  let grownAt = Date.now();
  const download = run(node, ['--input-type=module', '--eval', script, unfinished], {
    cwd: inProject(),
    stdio: 'ignore',
  });
  const watch = setInterval(() => {
    const now = sizeOf(unfinished);
    if (now !== size) grownAt = Date.now();
    else if (Date.now() - grownAt > stalledAfterMs) download.child.kill();
    size = now;
  }, 500);
  try {
    await download.done;
    return keep(fs.readdirSync(unfinished)[0]);
  } catch {
    say('Temporal cannot be downloaded from here');
    return undefined;
  } finally {
    clearInterval(watch);
  }
}

async function buildTemporal() {
  say(`building Temporal from source, once: about 5 minutes on 2 cores (go install ${temporalModule})`);
  makeFolder(unfinished);
  const started = Date.now();
  let compiled = 0;
  let last = '';
  const tell = () =>
    say(`building Temporal: ${compiled} packages, ${Math.round((Date.now() - started) / 1000)} s. ${last}`);
  const progress = setInterval(tell, 10_000);
  try {
    const build = run('go', ['install', '-v', temporalModule], {
      env: { ...process.env, GOBIN: unfinished },
      stdio: ['ignore', 'inherit', 'pipe'],
    });
    createInterface({ input: build.child.stderr }).on('line', (line) => {
      compiled += line.startsWith('go: ') ? 0 : 1;
      last = line;
    });
    await build.done;
    return keep('temporal');
  } catch (error) {
    throw new Error(
      `no Temporal: none on PATH, none to download, and it could not be built (${error.message}. ${last}).\n` +
        'Install the Temporal CLI 1.5 or later (https://docs.temporal.io/cli) or Go 1.25 or later (https://go.dev/dl).',
      { cause: error },
    );
  } finally {
    clearInterval(progress);
  }
}

/** Moves what was fetched to where the next start finds it: whole, or not there at all. */
function keep(name) {
  fs.mkdirSync(dirname(cached), { recursive: true });
  fs.renameSync(join(unfinished, name), cached);
  fs.rmSync(unfinished, { recursive: true });
  return cached;
}

function makeFolder(folder) {
  fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(folder, { recursive: true });
}

function sizeOf(folder) {
  const sizes = fs.readdirSync(folder).map((name) => fs.statSync(join(folder, name), { throwIfNoEntry: false })?.size);
  return sizes.reduce((total, size) => total + (size ?? 0), 0);
}

function linkTemporal(binary) {
  try {
    if (fs.readlinkSync(link) === binary) return;
  } catch {
    // none yet
  }
  fs.mkdirSync(dirname(link), { recursive: true });
  fs.rmSync(link, { force: true });
  fs.symlinkSync(binary, link);
}

function isExecutable(file) {
  try {
    fs.accessSync(file, fs.constants.X_OK);
    return fs.statSync(file).isFile();
  } catch {
    return false;
  }
}

function run(command, args, options) {
  const child = spawn(command, args, options);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => child.kill(signal));
  const done = new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      if (code === 0) resolve();
      else reject(new Error(`${command} ended with ${signal ?? code}`));
    });
  });
  return { child, done };
}
