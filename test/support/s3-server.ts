import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { access, constants, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { delimiter, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { inject } from 'vitest';
import { rootFolder } from '../../embedded/node-parts.ts';
import { freePort, untilListening } from '../../embedded/ports.ts';
import { startProcess, untilReady, type Part } from '../../embedded/processes.ts';

export type S3Server = AsyncDisposable & {
  endpoint: string;
  bucket: string;
  /** For the variables of a process that speaks to it. */
  credentials: { AWS_ACCESS_KEY_ID: string; AWS_SECRET_ACCESS_KEY: string };
  /** Whatever it keeps in the bucket, parts of unfinished uploads too. */
  names(): Promise<string[]>;
  process: Part;
};

/** An S3 server that is used in production: it checks signatures and checksums, and keeps objects as files. */
const module = 'github.com/versity/versitygw/cmd/versitygw@v1.8.0';
const built = join(rootFolder, '.longhaul', 'bin', 'versitygw');
const run = promisify(execFile);

/** How long a test that needs it may take to begin: building it takes some minutes, once. */
export const s3ServerWithinMs = 15 * 60_000;

/** A real S3 server on a free port of this machine, with one bucket. It is built by Go where there is none. */
export async function startS3Server(): Promise<S3Server> {
  const command = await findServer();
  const folder = await mkdtemp(join(inject('folder'), 's3-'));
  const port = await freePort();
  const bucket = 'artifacts';
  const data = join(folder, 'data');
  await mkdir(join(data, bucket), { recursive: true });
  await mkdir(join(folder, 'sidecar'));
  const [accessKey, secret] = [randomBytes(8).toString('hex'), randomBytes(16).toString('hex')];
  const endpoint = `http://127.0.0.1:${port}`;
  const logFile = join(folder, 'server.log');
  const process = await startProcess({
    command,
    args: ['--port', `127.0.0.1:${port}`, 'posix', '--sidecar', join(folder, 'sidecar'), data],
    env: { PATH: '', ROOT_ACCESS_KEY_ID: accessKey, ROOT_SECRET_ACCESS_KEY: secret },
    logFile,
  });
  await untilReady(process, {
    name: 'versitygw',
    logFile,
    withinMs: 30_000,
    ask: (giveUp) => untilListening(port, giveUp),
  });
  return {
    endpoint,
    bucket,
    credentials: { AWS_ACCESS_KEY_ID: accessKey, AWS_SECRET_ACCESS_KEY: secret },
    async names() {
      const entries = await readdir(join(data, bucket), { recursive: true, withFileTypes: true });
      const files = entries.filter((entry) => entry.isFile());
      return files.map(({ parentPath, name }) => join(parentPath, name).slice(data.length)).toSorted();
    },
    process,
    async [Symbol.asyncDispose]() {
      await process[Symbol.asyncDispose]();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function findServer(): Promise<string> {
  const folders = (process.env['PATH'] ?? '').split(delimiter);
  for (const file of [...folders.map((folder) => join(folder, 'versitygw')), built]) {
    if (await isExecutable(file)) return file;
  }
  return build();
}

const isExecutable = (file: string) =>
  access(file, constants.X_OK).then(
    () => true,
    () => false,
  );

/** A test that cannot have its server fails, and says what is missing. */
async function build(): Promise<string> {
  const folder = `${built}-${randomBytes(4).toString('hex')}`;
  try {
    await run('go', ['install', module], {
      env: { ...process.env, GOBIN: folder },
      timeout: s3ServerWithinMs - 60_000,
    });
    await mkdir(dirname(built), { recursive: true });
    await rename(join(folder, 'versitygw'), built);
    return built;
  } catch (error) {
    throw new Error(`no S3 server: put versitygw on the path, or Go 1.25 or later to build it (go install ${module})`, {
      cause: error,
    });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
