import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { writeSecretFile } from './secret-files.ts';

const stackSchema = z.object({
  api: z.object({ url: z.string(), token: z.string() }),
  mqtt: z.object({ host: z.string(), port: z.number(), serverName: z.string() }),
  /** Where devices download, over TLS by the same certificate as MQTT. */
  files: z.object({ url: z.string() }),
  /** Where devices enrol by token or EST, and find what is trusted and revoked; by the same certificate. */
  doors: z.object({ url: z.string() }),
  ui: z.object({ url: z.string() }),
  temporal: z.object({ address: z.string(), namespace: z.string() }),
  postgres: z.object({ url: z.string() }),
  /** The root certificate, PEM: by it devices recognise the gateway. */
  authority: z.object({ file: z.string() }),
  /** PEM, both: a permission to enrol. */
  claim: z.object({ certificate: z.string(), privateKey: z.string(), template: z.string() }),
});

/** Where everything is, for a program or a person who wants to talk to the stack. */
export type Stack = z.infer<typeof stackSchema>;

export const stackFileOf = (dataDir: string): string => join(dataDir, 'stack.json');

export const readStackFile = async (file: string): Promise<Stack> =>
  stackSchema.parse(JSON.parse(await readFile(file, 'utf8')));

/** The file is there while the stack is up, and only then. */
export async function publishStackFile(dataDir: string, stack: Stack): Promise<AsyncDisposable> {
  await writeSecretFile(stackFileOf(dataDir), `${JSON.stringify(stack, null, 2)}\n`);
  return { [Symbol.asyncDispose]: () => withdrawStackFile(dataDir) };
}

/** A stack that was killed leaves its file behind. */
export const withdrawStackFile = (dataDir: string): Promise<void> => rm(stackFileOf(dataDir), { force: true });
