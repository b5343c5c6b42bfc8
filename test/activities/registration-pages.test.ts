import { eq, like } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { registerPage } from '../../activities/registration-pages.ts';
import { registrationFileActivities } from '../../activities/registration-files.ts';
import { registeredDevices, registrations } from '../../db/registration-schema.ts';
import { beginUpload, finishUpload, insertChunk } from '../../db/registrations.ts';
import { devices, outbox } from '../../db/schema.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const deviceNamed = async (name: string) => (await database.db.select().from(devices).where(eq(devices.name, name)))[0];
const fresh = () => `bulk-${crypto.randomUUID().slice(0, 8)}`;

/** A file that nobody reads yet. */
async function place(text: string): Promise<string> {
  const id = crypto.randomUUID();
  const bytes = Buffer.from(text);
  const head = { columns: ['name'], byteOffset: 5, line: 2, format: 'csv' as const, createdBy: 'system/test' };
  await beginUpload(database.db, { id, ...head });
  await insertChunk(database.db, id, 0, bytes);
  const workflow = { idPrefix: 'nobody/', name: 'nobody' };
  await database.db.transaction(async (tx) => {
    await finishUpload(tx, 'system/test', { id, size: bytes.length, sha256: Buffer.alloc(32), workflow });
    await tx.delete(outbox).where(like(outbox.workflowId, 'nobody/%'));
  });
  return id;
}

const page = (names: string[], from: number, to: number) => ({
  from: { offset: from, line: 2 },
  end: { offset: to, line: 2 + names.length },
  lines: names.map((name, index) => ({
    line: 2 + index,
    end: { offset: to, line: 2 },
    asked: { name, attributes: {}, groups: [] },
  })),
});

describe('reading', () => {
  test('does a page once, however many read it at the same moment, and goes on behind it', async () => {
    const names = [fresh(), fresh()];
    const id = await place(`name\n${names.join('\n')}\n`);
    const attempts = Array.from({ length: 5 }, () => registerPage(database.db, id, page(names, 5, 32)));
    expect((await Promise.all(attempts)).filter(Boolean)).toHaveLength(1);
    const [row] = await database.db.select().from(registrations).where(eq(registrations.id, id));
    expect(row).toMatchObject({ registered: 2, refused: 0, byteOffset: 32, line: 4, state: 'RUNNING' });
    expect(
      await database.db.select().from(registeredDevices).where(eq(registeredDevices.registrationId, id)),
    ).toHaveLength(2);
  });

  test('does nothing of a page when the last of its statements fails', async () => {
    const name = fresh();
    const id = await place(`name\n${name}\n`);
    const failing = { ...page([name], 5, 20), end: { offset: 20, line: 2 ** 40 } };
    await expect(registerPage(database.db, id, failing)).rejects.toThrow('Failed query');
    expect(await deviceNamed(name)).toBeUndefined();
    expect(await registerPage(database.db, id, page([name], 5, 20))).toBe(true);
  });

  test('ends where it is when it is canceled; what was registered stays', async () => {
    const names = [fresh(), fresh()];
    const id = await place(`name\n${names.join('\n')}\n`);
    expect(await registerPage(database.db, id, page(names.slice(0, 1), 5, 19))).toBe(true);
    expect(await api.ask('POST', `/v1/registrations/${id}/cancel`)).toMatchObject({
      status: 200,
      body: { state: 'CANCELED' },
    });
    expect(await registerPage(database.db, id, page(names.slice(1), 19, 32))).toBe(false);
    const read = await registrationFileActivities({ db: database.db }).registerLines({ registrationId: id });
    expect(read).toMatchObject({ state: 'CANCELED', registered: 1 });
    expect(await Promise.all(names.map(async (name) => (await deviceNamed(name))?.state))).toEqual([
      'REGISTERED',
      undefined,
    ]);
    expect((await api.ask('POST', `/v1/registrations/${id}/cancel`)).status).toBe(409);
  });
});
