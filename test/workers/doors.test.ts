import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { request } from 'node:https';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { rootFolder } from '../../embedded/node-parts.ts';
import { makeCsr, makeKeyPair } from '../../pki/keys.ts';
import { startSystem, type System } from '../support/system.ts';

let system: System;
beforeAll(async () => {
  system = await startSystem({ gateways: 0, doors: true });
}, 120_000);
afterAll(() => system[Symbol.asyncDispose]());

/** A token for one device, and a request that it is good for. */
async function prepare() {
  const template = `line-${randomBytes(4).toString('hex')}`;
  const definition = { namePattern: `${template}-\${serial}`, parameters: ['serial'] };
  expect((await system.ask('POST', '/v1/templates', { name: template, definition })).status).toBe(201);
  const { status, body } = await system.ask('POST', '/v1/claims', { kind: 'token', template });
  expect(status).toBe(201);
  // What the answer of a claim holds beside the rest.
  const { token } = body as unknown as { token: string };
  return { template, token, asked: JSON.stringify({ csr: makeCsr(makeKeyPair()), parameters: { serial: '1' } }) };
}

function send(token: string, asked: string) {
  const url = new URL('/v1/enroll', system.doors.url);
  const headers = { authorization: `Bearer ${token}`, 'content-type': 'application/json' };
  const options = { method: 'POST', headers, ca: system.mqtt.ca, servername: 'localhost', agent: false } as const;
  return request(url, options)
    .on('error', () => {})
    .end(asked);
}

async function enrol(token: string, asked: string) {
  const [response] = (await once(send(token, asked), 'response')) as [IncomingMessage];
  return { status: response.statusCode, body: JSON.parse(await text(response)) };
}

test('a bad environment stops the start with every fault at once', async () => {
  const env = { PATH: process.env['PATH'], DOORS_PORT: 'x' };
  const entry = join(rootFolder, 'workers/doors.ts');
  const ended = promisify(execFile)(process.execPath, [entry], { env });
  // It fails with what it has written.
  const { stderr = '' } = (await ended.then(
    () => ({}),
    (error: unknown) => error,
  )) as { stderr?: string };
  for (const fault of ['DOORS_PORT', 'DOORS_KEY_FILE', 'DATABASE_URL']) expect(stderr).toContain(`  ${fault}: `);
});

test('it is counted, and no token is in the log', async () => {
  const { token, asked } = await prepare();
  await enrol(token, asked);
  const metrics = await (await fetch(`${system.doors.metricsUrl}/metrics`)).text();
  expect(metrics).toMatch(/^longhaul_doors_requests_total\{door="token",status="201"\} [1-9]/m);
  expect((await fetch(`${system.doors.metricsUrl}/readyz`)).status).toBe(200);
  expect(await system.doors.readWholeLog()).not.toContain(token);
});

test('SIGTERM ends it in good order', async () => {
  await system.doors.kill('SIGTERM');
  expect(await system.doors.readLog()).not.toMatch(/"level":[56]0/);
});
