import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rm } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { renameDurably } from './device-disk.ts';
import type { Fetch } from './device-http.ts';
import type { Power } from './device-power.ts';

export type Download = {
  /** Where the file comes to lie, under its digest. Nothing else is kept there. */
  folder: string;
  sha256: string;
  size: number;
  address: string;
  /** Another address, when this one has ceased to serve; undefined when nobody wants the file any more. */
  renew: () => Promise<string | undefined>;
  fetch: Fetch;
  power: Pick<Power, 'signal' | 'reach'>;
  backOffMs: number;
};

/** The file cannot be had, or is not what it should be. */
export class DownloadFailed extends Error {
  override name = 'DownloadFailed';

  constructor(code: string, message: string) {
    super(`${code}: ${message}`);
  }
}

type Part = { hash: Hash; bytes: number; /** Some of it is from before the power-on. */ resumed: boolean };

/** What a request has shown, besides what it got: the address is over, or the server wants to be asked later. */
type Got = { stale?: boolean; laterMs?: number };

const fruitlessMax = 10;
const retryAfterSeconds = 10;
const backOffMaxMs = 60_000;

/**
 * The path of the whole file, size and digest checked while it came; undefined when the download was called off. What
 * earlier tries have got is kept and only the rest is asked for, also after a restart.
 */
export async function download(wanted: Download): Promise<string | undefined> {
  const { folder, sha256, size, renew, fetch, power } = wanted;
  const { signal } = power;
  const file = join(folder, sha256);
  const partFile = `${file}.part`;
  let { address } = wanted;

  await mkdir(folder, { recursive: true, mode: 0o700 });
  const names = await readdir(folder);
  if (names.includes(sha256)) return file;
  for (const name of names) {
    if (name !== `${sha256}.part`) await rm(join(folder, name), { force: true });
  }

  let part = await resume();
  for (let fruitless = 0; fruitless < fruitlessMax;) {
    const before = part.bytes;
    const { stale = false, laterMs }: Got = before === size ? {} : await fetchRest();
    if (part.bytes === size) {
      if (part.hash.digest('hex') === sha256) return keep();
      const { resumed } = part;
      part = await startAnew();
      if (!resumed) throw new DownloadFailed('WRONG_DIGEST', `the ${size} bytes are not those that were signed`);
      continue;
    }
    if (stale) {
      const renewed = await renew();
      if (renewed === undefined) return undefined;
      address = renewed;
    }
    fruitless = part.bytes > before || laterMs !== undefined ? 0 : fruitless + 1;
    const waitMs = Math.min(laterMs ?? wanted.backOffMs * 2 ** fruitless, backOffMaxMs);
    await pause(waitMs * (0.5 + Math.random()), undefined, { signal });
  }
  throw new DownloadFailed('NOT_DOWNLOADED', `${part.bytes} of ${size} bytes came`);

  async function resume(): Promise<Part> {
    const hash = createHash('sha256');
    let bytes = 0;
    if (names.includes(`${sha256}.part`)) {
      for await (const chunk of createReadStream(partFile)) {
        hash.update(chunk);
        bytes += chunk.length;
      }
    }
    return bytes > size ? startAnew() : { hash, bytes, resumed: bytes > 0 };
  }

  async function startAnew(): Promise<Part> {
    await rm(partFile, { force: true });
    return { hash: createHash('sha256'), bytes: 0, resumed: false };
  }

  async function wrongSize(how: 'more' | 'fewer'): Promise<DownloadFailed> {
    part = await startAnew();
    return new DownloadFailed('WRONG_SIZE', `there are ${how} than ${size} bytes`);
  }

  /** Gets as much as it can. */
  async function fetchRest(): Promise<Got> {
    try {
      const answer = await fetch(address, part.bytes);
      const { statusCode = 0 } = answer;
      if (statusCode === 200 && part.bytes > 0) part = await startAnew();
      if (statusCode === 200 || (statusCode === 206 && firstByteOf(answer) === part.bytes)) await take(answer);
      else answer.destroy();
      if (statusCode === 416) throw await wrongSize('fewer');
      const seconds = Number(answer.headers['retry-after']) || retryAfterSeconds;
      if (statusCode === 429 || statusCode === 503) return { laterMs: seconds * 1_000 };
      return { stale: [401, 403, 404, 410].includes(statusCode) };
    } catch (error) {
      if (signal.aborted || error instanceof DownloadFailed) throw error;
      return {}; // a lost connection
    }
  }

  async function take(answer: IncomingMessage): Promise<void> {
    await using handle = await open(partFile, 'a', 0o600);
    // An answer whose encoding nobody has set is read as buffers.
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      if (part.bytes + chunk.length > size) throw await wrongSize('more');
      await handle.appendFile(chunk);
      part.hash.update(chunk);
      part.bytes += chunk.length;
      power.reach('downloading');
    }
  }

  async function keep(): Promise<string> {
    {
      await using handle = await open(partFile, 'a', 0o600);
      await handle.sync();
    }
    power.reach('checked');
    await renameDurably(partFile, file);
    power.reach('downloaded');
    return file;
  }
}

/** RFC 9110 14.4. */
function firstByteOf({ headers }: IncomingMessage): number {
  return Number(/^bytes (\d+)-/.exec(headers['content-range'] ?? '')?.[1] ?? Number.NaN);
}
