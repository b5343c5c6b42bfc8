import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Credentials } from './aws-device.ts';

export type Ran = { code: number | null; output: string };
export type Program = { process: ChildProcess; output(): string; ended: Promise<Ran> };

/** Runs a Node program that we did not write, in a folder of its own. */
export function runProgram(args: string[], { cwd, env = {} }: { cwd: string; env?: NodeJS.ProcessEnv }): Program {
  const child = spawn(process.execPath, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const printed: Buffer[] = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (bytes: Buffer) => printed.push(bytes));
  const output = () => Buffer.concat(printed).toString();
  const ended = once(child, 'close').then(([code]): Ran => ({ code: code as number | null, output: output() }));
  return { process: child, output, ended };
}

/** A device's credentials as the files that programs are pointed at. */
export async function writeCredentials(folder: string, { certificate, privateKey }: Credentials, ca: string) {
  const files = {
    certificate: join(folder, 'certificate.pem'),
    key: join(folder, 'key.pem'),
    ca: join(folder, 'ca.pem'),
  };
  await writeFile(files.certificate, certificate);
  await writeFile(files.key, privateKey, { mode: 0o600 });
  await writeFile(files.ca, ca);
  return files;
}
