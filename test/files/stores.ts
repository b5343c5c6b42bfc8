import { createHash, randomBytes } from 'node:crypto';
import { setImmediate as turn } from 'node:timers/promises';
import { buffer } from 'node:stream/consumers';
import { describe, expect, test } from 'vitest';
import { checkContent, ContentFault, ContentGone, type Store } from '../../files/store.ts';

const digestOf = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

/** Large enough that a store of parts needs several of them. */
const largeBytes = 20 * 1024 * 1024;

async function* pieces(bytes: Uint8Array, pieceBytes = 64 * 1024): AsyncGenerator<Uint8Array, void, undefined> {
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    yield bytes.subarray(at, at + pieceBytes);
    await turn();
  }
}

/**
 * What every store promises. `names` lists everything that is kept anywhere in it, visible or not, without what the
 * store needs for itself.
 */
export function keepsItsPromises(store: () => Store, names: () => Promise<string[]>): void {
  const never = new AbortController().signal;
  const readAll = async (sha256: string, first: number, last: number) =>
    buffer(await store().read(sha256, { first, last }, never));
  const put = async (bytes: Uint8Array) => {
    const sha256 = digestOf(bytes);
    await store().write(sha256, pieces(bytes));
    return sha256;
  };

  describe('content', () => {
    test.each([1, 64 * 1024, largeBytes])('of %i bytes is found and read as it was written', async (size) => {
      const bytes = randomBytes(size);
      const sha256 = await put(bytes);
      expect(await store().find(sha256)).toEqual({ size });
      expect(digestOf(await readAll(sha256, 0, size - 1))).toBe(sha256);
    });

    test('is read in any range', async () => {
      const bytes = randomBytes(300_000);
      const sha256 = await put(bytes);
      for (const [first, last] of [
        [0, 0],
        [299_999, 299_999],
        [1_000, 299_998],
        [150_000, 150_001],
      ] as const) {
        expect(await readAll(sha256, first, last)).toEqual(bytes.subarray(first, last + 1));
      }
    });

    test('may be nothing', async () => {
      expect(await store().find(await put(Buffer.alloc(0)))).toEqual({ size: 0 });
    });

    test('that is not there is not found, and cannot be read', async () => {
      expect(await store().find('0'.repeat(64))).toBeUndefined();
      await expect(store().read('0'.repeat(64), { first: 0, last: 1 }, never)).rejects.toThrow(ContentGone);
    });

    test('written twice, and by several at once, is there once', async () => {
      const bytes = randomBytes(500_000);
      const before = (await names()).length;
      const [sha256] = await Promise.all([put(bytes), put(bytes), put(bytes)]);
      await put(bytes);
      expect(digestOf(await readAll(sha256, 0, bytes.length - 1))).toBe(sha256);
      expect(await names()).toHaveLength(before + 1);
    });

    test.each([100_000, largeBytes])('of %i bytes that breaks off leaves nothing, visible or not', async (size) => {
      const bytes = randomBytes(size);
      const before = await names();
      async function* breaking() {
        yield* pieces(bytes.subarray(0, size - 10));
        throw new Error('the line is cut');
      }
      await expect(store().write(digestOf(bytes), breaking())).rejects.toThrow('the line is cut');
      expect(await store().find(digestOf(bytes))).toBeUndefined();
      expect(await names()).toEqual(before);
    });

    test.each([
      ['another byte', (bytes: Buffer) => Buffer.concat([bytes.subarray(0, -1), Buffer.of((bytes.at(-1) ?? 0) ^ 1)])],
      ['a byte less', (bytes: Buffer) => bytes.subarray(0, -1)],
      ['a byte more', (bytes: Buffer) => Buffer.concat([bytes, Buffer.of(0)])],
    ])('with %s than was announced leaves nothing', async (_, change) => {
      const bytes = randomBytes(largeBytes);
      const announced = { sha256: digestOf(bytes), size: bytes.length, bytesMax: 2 * largeBytes };
      const before = await names();
      const content = checkContent(pieces(change(bytes)), announced);
      await expect(store().write(announced.sha256, content)).rejects.toThrow(ContentFault);
      expect(await store().find(announced.sha256)).toBeUndefined();
      expect(await names()).toEqual(before);
    });

    test('that is larger than may be is given up before its end', async () => {
      let taken = 0;
      async function* endless() {
        for (;;) {
          taken += 64 * 1024;
          yield Buffer.alloc(64 * 1024);
          await turn();
        }
      }
      const before = await names();
      const content = checkContent(endless(), { sha256: '1'.repeat(64), size: undefined, bytesMax: 1024 * 1024 });
      await expect(store().write('1'.repeat(64), content)).rejects.toThrow(
        expect.objectContaining({ fault: 'too-large' }),
      );
      expect(taken).toBeLessThan(4 * 1024 * 1024);
      expect(await names()).toEqual(before);
    });

    test('whose reader goes away is read no further', async () => {
      const sha256 = await put(randomBytes(largeBytes));
      const gone = new AbortController();
      const stream = await store().read(sha256, { first: 0, last: largeBytes - 1 }, gone.signal);
      const reading = buffer(stream);
      gone.abort();
      await expect(reading).rejects.toThrow(/abort/);
      expect(stream.destroyed).toBe(true);
    });
  });

  test('it says that it is there', async () => {
    await expect(store().probe()).resolves.toBeUndefined();
  });
}
