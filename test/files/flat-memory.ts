import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { Readable } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import { addressesOf, open } from '../support/files.ts';
import { startSystem, type System } from '../support/system.ts';

const run = promisify(execFile);
const mebibyte = 1024 * 1024;
/** By hand, a whole GiB: LONGHAUL_TEST_ARTIFACT_MIB=1024. */
const largeMiB = Number(process.env['LONGHAUL_TEST_ARTIFACT_MIB'] ?? 160);
const block = randomBytes(mebibyte);

/** So many different mebibytes; the same ones each time. */
async function* content(mebibytes: number): AsyncGenerator<Buffer, void, undefined> {
  for (let index = 0; index < mebibytes; index += 1) {
    const piece = Buffer.from(block);
    piece.writeUInt32BE(index);
    yield piece;
  }
}

async function digestOf(mebibytes: number): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of content(mebibytes)) hash.update(piece);
  return hash.digest('hex');
}

/** The most memory, in MiB, that the process holds while the work is done. */
async function peakDuring(pid: number, work: () => Promise<void>): Promise<number> {
  let peak = 0;
  let done = false;
  const watch = async () => {
    while (!done) {
      const { stdout } = await run('ps', ['-o', 'rss=', '-p', String(pid)]);
      peak = Math.max(peak, Number(stdout) / 1024);
      await pause(50);
    }
  };
  const watching = watch();
  try {
    await work();
  } finally {
    done = true;
    await watching;
  }
  return peak;
}

async function upload({ apiUrl, token }: System, sha256: string, mebibytes: number): Promise<void> {
  const answer = await fetch(`${apiUrl}/v1/artifacts/${sha256}`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/octet-stream' },
    body: Readable.toWeb(Readable.from(content(mebibytes))) as ReadableStream,
    duplex: 'half',
  });
  expect(await answer.json()).toMatchObject({ sha256, size: mebibytes * mebibyte });
}

async function download(address: string, ca: string, sha256: string): Promise<void> {
  const { response, status } = await open(address, { ca });
  expect(status).toBe(200);
  const hash = createHash('sha256');
  for await (const piece of response) hash.update(piece as Buffer);
  expect(hash.digest('hex')).toBe(sha256);
}

/** For the API and the files' server as processes of their own, with these variables for where artifacts are kept. */
export function holdsMemoryFlat(
  variables: () => Record<string, string>,
  { marginMebibytes }: { marginMebibytes: number },
) {
  test(
    `${largeMiB} MiB go up and come down, and neither process holds more than for 64 MiB`,
    { timeout: 600_000 },
    async () => {
      await using system = await startSystem({ gateways: 0, files: true, env: variables() });
      const { addresses, deviceId, jobId } = await addressesOf(system);
      const [apiPid = 0, filesPid = 0] = [system.api.pid(), system.files.pid()];

      async function measure(mebibytes: number) {
        const sha256 = await digestOf(mebibytes);
        const up = await peakDuring(apiPid, () => upload(system, sha256, mebibytes));
        const address = addresses.sign({ sha256, deviceId, jobId });
        const down = await peakDuring(filesPid, () => download(address, system.mqtt.ca, sha256));
        return { up, down };
      }

      const small = await measure(64);
      const large = await measure(largeMiB);
      expect(large.up - small.up).toBeLessThan(marginMebibytes);
      expect(large.down - small.down).toBeLessThan(marginMebibytes);
    },
  );
}
