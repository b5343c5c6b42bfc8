import { createHash, hash, randomUUIDv7 } from 'node:crypto';
import type { Context } from 'hono';
import type { Db } from '../db/client.ts';
import { beginUpload, chunkBytes, deleteUpload, finishUpload, insertChunk } from '../db/registrations.ts';
import { csv } from '../files/csv.ts';
import { createLineReader, lineBytesMax, type Place } from '../files/lines.ts';
import { ndjson } from '../files/ndjson.ts';
import { judgeHeader } from '../files/registration-lines.ts';
import { registerDevicesId } from '../workflows/register-devices.ts';
import type { Api, Deps } from './app.ts';
import { workUnderKey } from './idempotency.ts';
import { lifecycleOf } from './lifecycles.ts';
import { Problem } from './problem.ts';
import { createRegistration, presentRegistration } from './registrations.ts';
import * as schemas from './schemas.ts';

const formats: Record<string, 'csv' | 'ndjson'> = { 'text/csv': 'csv', 'application/x-ndjson': 'ndjson' };
const contentType = /^([a-z/+-]+)\s*(?:;\s*(?:charset="?utf-8"?|header=present)\s*)*$/i;
const byteOrderMark = Buffer.of(0xef, 0xbb, 0xbf);

/**
 * A file comes in, in chunks that are rows as soon as they are here, so that no more than one is in memory. What is wrong
 * with its head is said at once. Once it is whole, its key (`Idempotency-Key`) is looked at: a file that was sent before is
 * dropped, and answered like the first.
 */
export const registrationUploads = (deps: Pick<Deps, 'db' | 'wire' | 'limits' | 'temporalUiUrl' | 'namespace'>) =>
  schemas.createRouter().openapi(createRegistration, async (c) => {
    const { db, wire, limits } = deps;
    const id = randomUUIDv7();
    const format = formatOf(c);
    const bytesMax = limits.registrationBytes;
    if (Number(c.req.header('content-length') ?? 0) > bytesMax) throw tooLarge(bytesMax);
    try {
      const whole = await takeIn(c, db, { id, format, bytesMax });
      const workflow = { idPrefix: registerDevicesId(''), name: 'registerDevices' };
      const requestHash = hash('sha256', `${format}\n${whole.sha256.toString('hex')}`, 'buffer');
      await workUnderKey(c, db, requestHash, async (tx) => {
        const row = await finishUpload(tx, c.var.actor, { id, ...whole, workflow });
        if (!row) throw new Error('an upload has gone while it was finished');
        const lifecycle = lifecycleOf(deps, registerDevicesId(id));
        c.res = c.json({ ...presentRegistration(row), lifecycle }, 202);
      });
      wire.tell({ outbox: true });
      // It stands in the context, and is the 202 from above, or what was kept of one.
      return c.res as never;
    } catch (error) {
      throw c.req.raw.signal.aborted
        ? new Problem('upload-interrupted', 'Nothing is registered: the file broke off.')
        : error;
    } finally {
      // Nothing, where it was finished.
      await deleteUpload(db, id);
    }
  });

function formatOf(c: Context<Api>): 'csv' | 'ndjson' {
  const type = contentType.exec(c.req.header('content-type') ?? '')?.[1]?.toLowerCase() ?? '';
  const format = formats[type];
  if (!format) throw unsupported('The file must be text/csv or application/x-ndjson, in UTF-8.');
  const encoding = c.req.header('content-encoding') ?? 'identity';
  if (encoding !== 'identity') throw unsupported('The file must be sent as it is, not compressed.');
  return format;
}

type Upload = { id: string; format: 'csv' | 'ndjson'; bytesMax: number };

async function takeIn(c: Context<Api>, db: Db, { id, format, bytesMax }: Upload) {
  const sha256 = createHash('sha256');
  let size = 0;
  let number = 0;
  for await (const { bytes, isLast } of chunksOf(c.req.raw.body ?? emptyBody())) {
    size += bytes.length;
    if (size > bytesMax) throw tooLarge(bytesMax);
    sha256.update(bytes);
    if (number === 0) {
      const head = readHead(format, bytes, isLast);
      await beginUpload(db, { id, format, createdBy: c.var.actor, ...head });
    }
    await insertChunk(db, id, number, bytes);
    number += 1;
  }
  return { size, sha256: sha256.digest() };
}

/** All of one size but the last, of which there is always one. */
async function* chunksOf(body: AsyncIterable<Uint8Array>): AsyncGenerator<{ bytes: Buffer; isLast: boolean }> {
  let parts: Uint8Array[] = [];
  let size = 0;
  for await (const part of body) {
    parts.push(part);
    size += part.length;
    // One byte more than a chunk, so that the last is known when it is given.
    while (size > chunkBytes) {
      const bytes = Buffer.concat(parts);
      yield { bytes: bytes.subarray(0, chunkBytes), isLast: false };
      parts = [bytes.subarray(chunkBytes)];
      size -= chunkBytes;
    }
  }
  yield { bytes: Buffer.concat(parts), isLast: true };
}

async function* emptyBody(): AsyncGenerator<Uint8Array> {}

/** Where the lines begin, and the columns of a CSV. Refuses a file of which no line could register anything. */
function readHead(format: 'csv' | 'ndjson', bytes: Buffer, isLast: boolean) {
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) throw unsupported('The file must be sent as it is, not compressed.');
  const offset = bytes.subarray(0, 3).equals(byteOrderMark) ? 3 : 0;
  const start: Place = { offset, line: 1 };
  const text = bytes.subarray(offset, offset + lineBytesMax);
  const isWhole = isLast && text.length === bytes.length - offset;
  if (format === 'ndjson') {
    const [first] = createLineReader(ndjson, start).read(text, isWhole);
    if (!first || 'fault' in first) throw refused(first?.fault.detail ?? 'it has no line');
    return { columns: [], byteOffset: offset, line: 1 };
  }
  const [header] = createLineReader(csv, start).read(text, isWhole);
  if (!header) throw refused('it has no header');
  const fault = 'fault' in header ? header.fault.detail : judgeHeader(header.said);
  if (fault !== undefined || 'fault' in header) throw refused(fault ?? 'its header cannot be read');
  if (isLast && header.end.offset === bytes.length) throw refused('it has a header, and no line');
  return { columns: header.said, byteOffset: header.end.offset, line: header.end.line };
}

const refused = (why: string) => new Problem('file-refused', `Nothing is registered: ${why}.`);
const unsupported = (detail: string) => new Problem('unsupported-media-type', detail);
const tooLarge = (bytesMax: number) => new Problem('too-large', `A file may have ${bytesMax} bytes at most.`);
