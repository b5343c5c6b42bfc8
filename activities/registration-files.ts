import { Context } from '@temporalio/activity';
import { insertAudit } from '../db/audit.ts';
import type { Db } from '../db/client.ts';
import { readChunk } from '../db/registration-pages.ts';
import { chunkBytes, endRegistration, findRegistration, type RegistrationRow } from '../db/registrations.ts';
import { csv } from '../files/csv.ts';
import { createLineReader, type Line } from '../files/lines.ts';
import { ndjson } from '../files/ndjson.ts';
import { judgeObject, judgeRow } from '../files/registration-lines.ts';
import type { FileRead } from '../workflows/register-devices.ts';
import { refusal } from '../workflows/refusals.ts';
import type { Deps } from './deps.ts';
import { judgeLine, registerPage, type JudgedLine, type RegistrationPage } from './registration-pages.ts';

/** One transaction: what a crash has done in vain, and how long a cancellation may have to wait. */
const pageLines = 5_000;
/** One activity: how often the lifecycle tells how far it is. */
const linesAtOnce = 50_000;
const linesMax = 1_000_000;

export const registrationFileActivities = ({ db }: Pick<Deps, 'db'>) => ({
  /**
   * Registers the devices of the next lines. Repeating it is safe: a page of lines and the place behind it are one
   * transaction, so another attempt, or one beside this, goes on from where the row says.
   */
  async registerLines({ registrationId }: { registrationId: string }): Promise<FileRead> {
    const row = await findRegistration(db, registrationId);
    if (!row) throw refusal('RegistrationNotFound', 'there is no such registration', 404);
    const done = row.finishedAt ? 'ended' : await readOn(db, row);
    if (done === 'all') await finish(db, registrationId);
    const { state, registered, refused, line } = (await findRegistration(db, registrationId)) ?? row;
    return { state, registered, refused, line };
  },
});

/** While Postgres writes a page, the next one is read. `ended`: by somebody else. */
async function readOn(db: Db, row: RegistrationRow): Promise<'all' | 'some' | 'ended'> {
  const heartbeat = (details: object) => Context.current().heartbeat(details);
  let count = 0;
  let writing = Promise.resolve(true);
  for await (const page of pagesOf(db, row)) {
    if (!(await writing)) return 'ended';
    heartbeat(page.from);
    if (count >= linesAtOnce) return 'some';
    count += page.lines.length;
    writing = registerPage(db, row.id, page);
    // Awaited in the next round: whatever it says is heard there.
    writing.catch(() => {});
  }
  return (await writing) ? 'all' : 'ended';
}

async function* pagesOf(db: Db, row: RegistrationRow): AsyncGenerator<RegistrationPage> {
  let from = { offset: row.byteOffset, line: row.line };
  let left = linesMax - row.registered - row.refused;
  for await (const lines of linesOf(db, row)) {
    for (let at = 0; at < lines.length; at += pageLines) {
      const page = lines.slice(at, Math.min(at + pageLines, at + left + 1));
      const last = page.at(-1);
      if (!last) return;
      left -= page.length;
      if (left < 0) page[page.length - 1] = { line: last.line, end: last.end, fault: tooManyLines };
      yield { from, end: last.end, lines: page };
      from = last.end;
      if (left < 0) return;
    }
  }
}

const tooManyLines = { code: 'too-many-lines', detail: `a file has ${linesMax} lines at most: it was not read on` };

/** The lines that are whole with each chunk. */
async function* linesOf(db: Db, row: RegistrationRow): AsyncGenerator<JudgedLine[]> {
  const read = readerOf(row);
  const first = Math.floor(row.byteOffset / chunkBytes);
  for (let number = first; number * chunkBytes < (row.size ?? 0); number += 1) {
    const chunk = await readChunk(db, row.id, number);
    // It was canceled: what is written next is told so.
    if (!chunk) return;
    const begun = number === first ? row.byteOffset - number * chunkBytes : 0;
    yield read(chunk.subarray(begun), (number + 1) * chunkBytes >= (row.size ?? 0));
  }
}

function readerOf({ format, columns, byteOffset: offset, line }: RegistrationRow) {
  const place = { offset, line };
  if (format === 'ndjson') {
    const reader = createLineReader(ndjson, place);
    return (chunk: Buffer, isLast: boolean) => reader.read(chunk, isLast).map((found) => judgeLine(found, judgeObject));
  }
  const reader = createLineReader(csv, place);
  const judge = (found: Line<string[]>) => judgeLine(found, (fields) => judgeRow(columns, fields));
  return (chunk: Buffer, isLast: boolean) => reader.read(chunk, isLast).map(judge);
}

async function finish(db: Db, id: string): Promise<void> {
  await db.transaction(async (tx) => {
    const row = await endRegistration(tx, id, 'FINISHED');
    if (!row) return;
    const data = { registered: row.registered, refused: row.refused };
    await insertAudit(tx, 'system/lifecycle', {
      action: 'registration.finished',
      subject: `registration/${id}`,
      data,
    });
  });
}
