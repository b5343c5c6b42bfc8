import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { nodeCommand } from './node-parts.ts';
import { administratorKeyFileOf } from './parts.ts';
import { readFileIfThere } from './secret-files.ts';

const run = promisify(execFile);

const printedSchema = z.object({ rootCertificatePem: z.string() });

export type Initialised = {
  administratorKey: string;
  rootCertificatePem: string;
  rootCertificateFile: string;
};

/** Runs `workers/init.ts`, and says what it made: the root certificate, and at the first start the administrator's key. */
export async function initialise(dataDir: string, env: NodeJS.ProcessEnv): Promise<Initialised> {
  const keyFile = administratorKeyFileOf(dataDir);
  const rootCertificateFile = join(dataDir, 'root-certificate.pem');
  const node = nodeCommand('workers/init.ts', dataDir);
  const { stdout } = await run(node.command, node.args, { cwd: node.cwd, env: { ...env, ...node.env } });
  const printed = printedSchema.parse(JSON.parse(stdout));
  await writeFile(rootCertificateFile, printed.rootCertificatePem);
  const administratorKey = (await readFileIfThere(keyFile))?.trim();
  if (administratorKey === undefined) {
    throw new Error(
      `${keyFile} is gone, and only its hash is in the database: bring it back, or start with another --data`,
    );
  }
  return {
    administratorKey,
    rootCertificatePem: printed.rootCertificatePem,
    rootCertificateFile,
  };
}
