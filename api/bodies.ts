import type { Context, MiddlewareHandler } from 'hono';
import { JsonFault, parseJson } from './json.ts';
import { Problem } from './problem.ts';

const jsonType = /^application\/(merge-patch\+)?json\s*(;\s*charset="?utf-8"?\s*)?$/i;
const withoutBody = new Set(['GET', 'HEAD', 'OPTIONS', 'DELETE']);

/**
 * Reads the body once, within the limit, as I-JSON; the routes' validators are given what was checked here, and the
 * idempotency keys compare the same bytes. No body is an empty object: what a route needs in it, its schema says.
 */
export function readBodies({ bytesMax }: { bytesMax: number }): MiddlewareHandler {
  return async (c, next) => {
    if (withoutBody.has(c.req.method)) return next();
    const bytes = await readBody(c, bytesMax);
    if (bytes.length > 0 && !jsonType.test(c.req.header('content-type') ?? '')) {
      throw new Problem('unsupported-media-type', 'The body must be application/json, in UTF-8.');
    }
    const value = bytes.length > 0 ? parse(bytes) : {};
    // What a route's schema makes of it, its validator says: here it is anything.
    c.req.json = async <Anything>() => value as Anything;
    return next();
  };
}

async function readBody(c: Context, bytesMax: number): Promise<Uint8Array> {
  const length = Number(c.req.header('content-length') ?? Number.NaN);
  if (length > bytesMax) throw tooLarge(bytesMax);
  // A length that is announced is kept: the HTTP parser cuts there.
  if (!Number.isNaN(length)) return new Uint8Array(await c.req.arrayBuffer());
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of c.req.raw.body ?? []) {
    size += part.length;
    if (size > bytesMax) throw tooLarge(bytesMax);
    parts.push(part);
  }
  const bytes = Buffer.concat(parts);
  c.req.arrayBuffer = async () => Uint8Array.from(bytes).buffer;
  return bytes;
}

const tooLarge = (bytesMax: number) => new Problem('too-large', `A body may have ${bytesMax} bytes at most.`);

function parse(bytes: Uint8Array): unknown {
  try {
    return parseJson(bytes);
  } catch (fault) {
    if (fault instanceof JsonFault) throw new Problem('malformed-json', `The body is not taken: ${fault.message}.`);
    throw fault;
  }
}
