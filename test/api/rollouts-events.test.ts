import { randomUUIDv7 } from 'node:crypto';
import { once } from 'node:events';
import { createAdaptorServer } from '@hono/node-server';
import { sql } from 'drizzle-orm';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { StreamLimits } from '../../api/event-streams.ts';
import type { Db } from '../../db/client.ts';
import { makeApi } from '../support/api.ts';
import { eventually } from '../support/eventually.ts';
import { makeDevices, startRollouts } from '../support/rollouts.ts';
import { readEvents } from './event-source.ts';

let rig: Awaited<ReturnType<typeof startRollouts>>;
let api: Awaited<ReturnType<typeof makeApi>>;
let device: string;
beforeAll(async () => {
  rig = await startRollouts();
  api = await makeApi(rig.db, { streams: { pollMs: 10 } });
  [device = ''] = await makeDevices(rig.db, 1);
});
afterAll(() => rig[Symbol.asyncDispose]());

async function create() {
  const asked = { name: 'followed', targets: { filter: 'name==*' }, document: { do: 'it' } };
  return (await api.ask('POST', '/v1/jobs', asked)).body.id;
}
const happens = (db: Db, id: string, kind: string, deviceId: string | null = null) =>
  db.execute(sql`
    insert into events (id, kind, device_id, subject, data)
    values (${randomUUIDv7()}, ${kind}, ${deviceId}::uuid, ${`rollout/${id}`}, jsonb_build_object('rolloutId', ${id}::text))`);

type Server = Pick<typeof api, 'app' | 'token'>;
async function follow(id: string, lastEventId?: string, { app, token }: Server = api) {
  const headers = { authorization: `Bearer ${token}`, ...(lastEventId && { 'last-event-id': lastEventId }) };
  const response = await app.request(`/v1/rollouts/${id}/events`, { headers });
  return { status: response.status, headers: response.headers, ...readEvents(response.body) };
}
const limited = (streams: Partial<StreamLimits>, closing?: AbortSignal) =>
  makeApi(rig.db, { streams: { pollMs: 10, ...streams }, closing, authority: api.authority });

describe('the events of a rollout', () => {
  test('are told from the first on, as they happen, with the device by its name', async () => {
    const id = await create();
    const stream = await follow(id);
    expect(stream.headers.get('content-type')).toBe('text/event-stream; charset=utf-8');
    expect(await stream.next()).toMatchObject({ kind: 'rollout.created', data: { rolloutId: id, device: null } });
    await happens(rig.db, id, 'execution.succeeded', device);
    expect(await stream.next()).toMatchObject({
      kind: 'execution.succeeded',
      data: { rolloutId: id, device: 'device-00000', at: expect.stringMatching(/^\d{4}-.*Z$/) },
    });
    await api.ask('POST', `/v1/rollouts/${id}/stop`);
    expect(await stream.next()).toMatchObject({ kind: 'rollout.stopping', data: { words: 'An operator stops it.' } });
    await stream.close();
  });

  test('are those of this rollout only', async () => {
    const [id, other] = [await create(), await create()];
    await happens(rig.db, other, 'execution.failed');
    await happens(rig.db, id, 'execution.succeeded');
    const stream = await follow(id);
    expect([(await stream.next())?.kind, (await stream.next())?.kind]).toEqual([
      'rollout.created',
      'execution.succeeded',
    ]);
    await stream.close();
  });

  test('wait for a transaction that began before and ends after, and come in its order', async () => {
    const id = await create();
    const stream = await follow(id);
    await stream.next();
    const [begun, mayEnd] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const slow = rig.db.transaction(async (tx) => {
      await happens(tx, id, 'execution.slow');
      begun.resolve();
      await mayEnd.promise;
    });
    await begun.promise;
    await happens(rig.db, id, 'execution.quick');
    const first = stream.next();
    // Another stream has had time to read what is there, and was told nothing of either.
    const alive = await limited({ heartbeatMs: 50 });
    const beside = await follow(id, undefined, alive);
    await beside.next();
    await beside.comment();
    mayEnd.resolve();
    await slow;
    expect([(await first)?.kind, (await stream.next())?.kind]).toEqual(['execution.slow', 'execution.quick']);
    await Promise.all([stream.close(), beside.close()]);
  });

  test('are each told once to a client that breaks off and resumes, while many write at a time', async () => {
    const id = await create();
    const writers = Array.from({ length: 6 }, async (_, writer) => {
      for (let n = 0; n < 20; n += 1) {
        await rig.db.transaction(async (tx) => {
          await happens(tx, id, `execution.w${writer}-${n}a`);
          await tx.execute(sql`select pg_sleep(random() * 0.01)`);
          await happens(tx, id, `execution.w${writer}-${n}b`);
        });
      }
    });
    const told: string[] = [];
    let last: string | undefined;
    while (told.length < 241) {
      const stream = await follow(id, last);
      for (let count = 1 + Math.floor(Math.random() * 30); count > 0 && told.length < 241; count -= 1) {
        const event = await stream.next();
        told.push(event?.kind ?? 'the end');
        last = event?.id;
      }
      await stream.close();
    }
    await Promise.all(writers);
    const rows = await rig.db.execute<{ kind: string }>(sql`
      select kind from events where subject = ${`rollout/${id}`} order by xid, id`);
    expect(told).toEqual(rows.map(({ kind }) => kind));
  });
});

describe('a stream', () => {
  test('of what is not there is answered 404, and a last id that is none 400', async () => {
    expect((await follow(crypto.randomUUID())).status).toBe(404);
    const id = await create();
    const xid = '18446744073709551616';
    for (const wrong of ['1', 'x', `${xid}-${randomUUIDv7()}`, `-1-${randomUUIDv7()}`, `1-${'0'.repeat(36)}`]) {
      expect((await follow(id, wrong)).status).toBe(400);
    }
  });

  test('says that it is alive when nothing happens', async () => {
    const id = await create();
    const stream = await follow(id, undefined, await limited({ heartbeatMs: 20 }));
    await stream.next();
    await stream.comment();
    expect(stream.comments).toContain('nothing new');
    await stream.close();
  });

  test('is one of a few that a key may hold; one that is closed makes room', async () => {
    const id = await create();
    const server = await limited({ perKeyMax: 2 });
    const open = [await follow(id, undefined, server), await follow(id, undefined, server)];
    const more = await follow(id, undefined, server);
    expect([more.status, more.headers.has('retry-after')]).toEqual([429, true]);
    await open[0]?.close();
    await eventually(async () => {
      const again = await follow(id, undefined, server);
      expect(again.status).toBe(200);
      await again.close();
    });
    await open[1]?.close();
  });

  test('ends with its connection', async () => {
    const id = await create();
    const { app, token } = await limited({ perKeyMax: 1 });
    const server = createAdaptorServer({ fetch: app.fetch }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = Object(server.address());
    const open = async () => {
      const gone = new AbortController();
      const headers = { authorization: `Bearer ${token}` };
      const response = await fetch(`http://127.0.0.1:${port}/v1/rollouts/${id}/events`, {
        headers,
        signal: gone.signal,
      });
      return { status: response.status, ...readEvents(response.body), abort: () => gone.abort() };
    };
    const first = await open();
    expect(await first.next()).toMatchObject({ kind: 'rollout.created' });
    expect((await open()).status).toBe(429);
    first.abort();
    await eventually(async () => {
      const again = await open();
      again.abort();
      expect(again.status).toBe(200);
    });
    server.close();
  });

  test('ends after its time, and when the process is about to stop', async () => {
    const id = await create();
    const old = await follow(id, undefined, await limited({ lifetimeMs: 50 }));
    await old.next();
    expect(await old.next()).toBeUndefined();
    const closing = new AbortController();
    const stream = await follow(id, undefined, await limited({}, closing.signal));
    await stream.next();
    closing.abort();
    expect(await stream.next()).toBeUndefined();
  });
});
