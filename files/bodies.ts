import { randomBytes } from 'node:crypto';
import type { Range, Store } from './store.ts';

/** What is sent of a content: headers that say so, and the bytes with what stands around them. */
export type Body = {
  status: 200 | 206;
  headers: Record<string, string | number>;
  /** A text that goes before the bytes, and the bytes. */
  parts: { before?: string; range?: Range }[];
};

const type = 'application/octet-stream';

export function wholeBody(size: number): Body {
  const parts = size > 0 ? [{ range: { first: 0, last: size - 1 } }] : [];
  return { status: 200, headers: { 'Content-Type': type, 'Content-Length': size }, parts };
}

/** One range as it is; several as `multipart/byteranges` (RFC 9110 14.6), in the order in which they were asked for. */
export function rangedBody(size: number, ranges: [Range, ...Range[]]): Body {
  const [range] = ranges;
  if (ranges.length === 1) {
    const headers = {
      'Content-Type': type,
      'Content-Length': lengthOf(range),
      'Content-Range': contentRange(range, size),
    };
    return { status: 206, headers, parts: [{ range }] };
  }
  const boundary = randomBytes(18).toString('base64url');
  const inner = ranges.map((part, index) => ({
    before:
      `${index === 0 ? '' : '\r\n'}--${boundary}\r\n` +
      `Content-Type: ${type}\r\nContent-Range: ${contentRange(part, size)}\r\n\r\n`,
    range: part,
  }));
  const end = `\r\n--${boundary}--\r\n`;
  const length = inner.reduce((sum, part) => sum + part.before.length + lengthOf(part.range), end.length);
  const headers = { 'Content-Type': `multipart/byteranges; boundary=${boundary}`, 'Content-Length': length };
  return { status: 206, headers, parts: [...inner, { before: end }] };
}

/** The bytes of a body as they come from the store; one range is open at a time. */
export async function* readBody(
  { store, sha256, signal }: { store: Store; sha256: string; signal: AbortSignal },
  parts: Body['parts'],
): AsyncGenerator<Uint8Array, void, undefined> {
  for (const { before, range } of parts) {
    if (before !== undefined) yield Buffer.from(before);
    if (range) yield* await store.read(sha256, range, signal);
  }
}

const lengthOf = ({ first, last }: Range) => last - first + 1;
const contentRange = ({ first, last }: Range, size: number) => `bytes ${first}-${last}/${size}`;
