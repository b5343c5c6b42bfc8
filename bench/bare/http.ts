import { randomUUIDv7 } from 'node:crypto';
import type { Server } from 'node:http';
import { createAdaptorServer } from '@hono/node-server';
import { Hono } from 'hono';
import postgres from 'postgres';
import { listen } from './tls.ts';

/** Hono and one INSERT: the least that a durable 202 can cost. */
export async function startHttp({ databaseUrl }: { databaseUrl: string }): Promise<number> {
  const sql = postgres(databaseUrl, { max: 10, onnotice: () => {} });
  await sql`create table if not exists bench_accepted (id uuid primary key, body jsonb not null)`;
  const app = new Hono();
  app.post('/v1/commands', async (c) => {
    const id = randomUUIDv7();
    await sql`insert into bench_accepted (id, body) values (${id}, ${sql.json(await c.req.json())})`;
    return c.json({ id }, 202);
  });
  const server = createAdaptorServer({ fetch: app.fetch });
  // Without options it is a plain HTTP server, which is one of `net`.
  return listen(server as Server);
}
