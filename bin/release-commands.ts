import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, readFile, rm } from 'node:fs/promises';
import { basename } from 'node:path';
import { readManifest, type Manifest } from '../api/manifests.ts';
import { openManifest, signManifest } from '../pki/manifests.ts';
import { describeKey, makeReleaseKey, readPrivateKey, readReleaseKey } from '../pki/release-keys.ts';
import type { Keygen, Sign, Verify } from './sign-options.ts';

/** Each returns what is to be printed, and throws what is to be said otherwise. */
export async function keygen({ out, publicOut, algorithm, passphraseFile }: Keygen): Promise<string> {
  const passphrase = await readPassphrase(passphraseFile);
  const pem = makeReleaseKey(algorithm, passphrase);
  const { id, publicKeyPem } = await describeKey(readPrivateKey(pem, passphrase));
  await writeNew(publicOut, publicKeyPem, 0o644);
  await writeNew(out, pem, 0o600).catch(async (error: unknown) => {
    await rm(publicOut);
    throw error;
  });
  return `${algorithm} release key ${id}\nprivate: ${out}\npublic:  ${publicOut}\n`;
}

export async function sign(asked: Sign): Promise<string> {
  const key = await about(asked.key, async (pem) => readPrivateKey(pem, await readPassphrase(asked.passphraseFile)));
  const manifest = {
    product: asked.product,
    version: asked.version,
    hardware: asked.hardware,
    artifact: { ...(await measure(asked.artifact)), name: asked.name ?? basename(asked.artifact) },
    securityCounter: asked.counter,
    ...(asked.allowedFrom && { allowedFrom: asked.allowedFrom }),
    ...(asked.downgrade && { downgrade: true as const }),
    expires: asked.expires,
  } satisfies Manifest;
  const payload = Buffer.from(JSON.stringify(manifest));
  // What the API would refuse is not signed.
  readManifest(payload);
  if (Date.parse(asked.expires) <= Date.now()) throw new Error(`--expires: ${asked.expires} is over`);
  const jws = await signManifest(payload, key);
  if (asked.out === undefined) return `${jws}\n`;
  await writeNew(asked.out, `${jws}\n`, 0o644);
  return '';
}

export async function verify(asked: Verify): Promise<string> {
  const keys = await Promise.all(asked.keys.map((file) => about(file, readReleaseKey)));
  const manifest = await about(asked.manifest, async (text) => {
    const { payload } = await openManifest(text.trim(), async (id) => keys.find((key) => key.id === id));
    return readManifest(payload);
  });
  if (asked.artifact !== undefined) {
    const { sha256, size } = await measure(asked.artifact);
    if (size !== manifest.artifact.size)
      throw new Error(`${asked.artifact}: it has ${size} bytes, not those of the manifest`);
    if (sha256 !== manifest.artifact.sha256)
      throw new Error(`${asked.artifact}: its SHA-256 is ${sha256}, not the manifest's`);
  }
  if (Date.parse(manifest.expires) <= Date.now())
    throw new Error(`${asked.manifest}: it expired at ${manifest.expires}`);
  return `${JSON.stringify(manifest, null, 2)}\n`;
}

async function measure(file: string): Promise<{ sha256: string; size: number }> {
  const hash = createHash('sha256');
  let size = 0;
  // Nobody has set an encoding: its pieces are buffers.
  for await (const bytes of createReadStream(file) as AsyncIterable<Buffer>) {
    hash.update(bytes);
    size += bytes.length;
  }
  return { sha256: hash.digest('hex'), size };
}

/** The first line; what follows it is a person's business. */
async function readPassphrase(file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined;
  const [passphrase = ''] = (await readFile(file, 'utf8')).split(/\r?\n/, 1);
  if (passphrase === '') throw new Error(`${file}: its first line is empty, and no passphrase`);
  return passphrase;
}

/** Never over a file that is there: it may be the only copy of a key. */
async function writeNew(file: string, text: string, mode: number): Promise<void> {
  try {
    await using handle = await open(file, 'wx', mode);
    await handle.writeFile(text);
    await handle.sync();
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') {
      throw new Error(`${file} is there already, and is not overwritten`, { cause: error });
    }
    throw error;
  }
}

/** What is wrong with a file's text is said with the file's name. */
async function about<Result>(file: string, read: (text: string) => Promise<Result>): Promise<Result> {
  const text = await readFile(file, 'utf8');
  try {
    return await read(text);
  } catch (error) {
    throw new Error(`${file}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}
