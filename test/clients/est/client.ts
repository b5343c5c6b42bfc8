import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { access, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { randomBytes } from 'node:crypto';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { inject } from 'vitest';
import { rootFolder } from '../../../embedded/node-parts.ts';
import type { Credentials } from '../../support/gateway.ts';

const run = promisify(execFile);
const folder = join(rootFolder, 'test', 'clients', 'est');
const jars = join(rootFolder, '.longhaul', 'bin', 'est-client-1.82');

export const estClientWithinMs = 5 * 60_000;

type Identity = Pick<Credentials, 'certificate' | 'privateKey'>;
export type EstAsking = { label?: string; token?: string; identity?: Identity; commonName?: string };
export type EstAnswer = { status: string; text: string };

export type EstClient = AsyncDisposable & {
  ask(operation: 'cacerts' | 'csrattrs' | 'simpleenroll' | 'simplereenroll', asking?: EstAsking): Promise<EstAnswer>;
};

/** Bouncy Castle's EST client, in a Java of its own; or why there is none here, for the test to be skipped with. */
export async function startEstClient({ port, ca }: { port: number; ca: string }): Promise<EstClient | string> {
  const missing = await bringJars();
  if (missing) return missing;
  const trust = await keep(ca);
  const program = [join(folder, 'EstClient.java'), `localhost:${port}`, trust];
  const child = spawn('java', ['-cp', join(jars, '*'), ...program], { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = once(child, 'close');
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();

  async function ask(operation: string, { label, token, identity, commonName }: EstAsking = {}): Promise<EstAnswer> {
    const files = identity ? [await keep(identity.certificate), await keep(identity.privateKey)] : [];
    const [certificate, key] = files;
    child.stdin.write(
      `${[operation, label, token, certificate, key, commonName].map((word) => word ?? '-').join(' ')}\n`,
    );
    const { value, done } = await lines.next();
    if (done) throw new Error('the EST client has ended');
    const [status = '', ...rest] = value.split(' ');
    if (status === 'fault') throw new Error(`the EST client could not go on: ${rest.join(' ')}`);
    return { status, text: Buffer.from(rest.join(''), 'base64').toString() };
  }

  return {
    ask,
    async [Symbol.asyncDispose]() {
      child.stdin.end();
      await ended;
    },
  };
}

async function keep(pem: string): Promise<string> {
  const file = join(inject('folder'), `est-${randomBytes(5).toString('hex')}.pem`);
  await writeFile(file, pem, { mode: 0o600 });
  return file;
}

/** Once, through whatever registry this machine's Maven is set up for. */
async function bringJars(): Promise<string | undefined> {
  for (const [command, version] of [
    ['java', '-version'],
    ['mvn', '-v'],
  ] as const) {
    if (!(await works(command, version))) return `there is no ${command} to run Bouncy Castle's EST client with`;
  }
  const isThere = access(jars).then(
    () => true,
    () => false,
  );
  if (await isThere) return undefined;
  const unfinished = `${jars}-${randomBytes(4).toString('hex')}`;
  try {
    await mkdir(dirname(jars), { recursive: true });
    const copy = ['-q', '-B', '-f', join(folder, 'pom.xml'), 'dependency:copy-dependencies'];
    await run('mvn', [...copy, `-DoutputDirectory=${unfinished}`], { timeout: estClientWithinMs - 60_000 });
    await rename(unfinished, jars);
    return undefined;
  } catch (error) {
    return `Maven does not bring Bouncy Castle: ${String(error).slice(0, 500)}`;
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
}

const works = (command: string, ...args: string[]) =>
  run(command, args).then(
    () => true,
    () => false,
  );
