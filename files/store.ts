import { createHash } from 'node:crypto';
import type { Readable } from 'node:stream';

/** Content by its SHA-256 (64 lower-case hexadecimal digits). What stands in it never changes, and is whole or not there. */
export type Store = {
  /**
   * Takes the content in as it comes. Nobody sees any of it before its last byte is kept for good; when the stream fails,
   * what was kept of it goes. The bytes are the caller's to check: see `checkContent`. Writing what is there changes nothing.
   */
  write(sha256: string, content: AsyncIterable<Uint8Array>): Promise<void>;
  /** Undefined when it is not there. */
  find(sha256: string): Promise<{ size: number } | undefined>;
  /** The bytes from the first to the last, both of them included. Rejects with `ContentGone` when there is no such content. */
  read(sha256: string, range: Range, signal: AbortSignal): Promise<Readable>;
  /** Resolves when the store is there, and rejects when it is not. */
  probe(): Promise<void>;
};

/** Positions of the first and the last byte, counted from 0. */
export type Range = { first: number; last: number };

/** The content is not in the store, though it was promised. */
export class ContentGone extends Error {
  override name = 'ContentGone';
}

/** Bytes that are not those that were announced. */
export class ContentFault extends Error {
  override name = 'ContentFault';
  readonly fault: 'digest' | 'size' | 'too-large';

  constructor(fault: ContentFault['fault'], message: string) {
    super(message);
    this.fault = fault;
  }
}

/** Passes the bytes on, and fails at their end, before a store keeps them, when they are not the announced ones. */
export async function* checkContent(
  content: AsyncIterable<Uint8Array>,
  { sha256, size, bytesMax }: { sha256: string; size: number | undefined; bytesMax: number },
): AsyncGenerator<Uint8Array, void, undefined> {
  const hash = createHash('sha256');
  let passed = 0;
  for await (const bytes of content) {
    passed += bytes.length;
    if (passed > bytesMax) throw new ContentFault('too-large', `the content has more than ${bytesMax} bytes`);
    hash.update(bytes);
    yield bytes;
  }
  if (size !== undefined && passed !== size) {
    throw new ContentFault('size', `the content has ${passed} bytes; ${size} were announced`);
  }
  const digest = hash.digest('hex');
  if (digest !== sha256) throw new ContentFault('digest', `the SHA-256 of the content is ${digest}`);
}
