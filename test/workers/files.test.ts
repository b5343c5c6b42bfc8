import { spawnSync } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { rootFolder } from '../../embedded/node-parts.ts';
import { eventually } from '../support/eventually.ts';
import { addressesOf, digestOf, fetchAll, open } from '../support/files.ts';
import { startSystem, type System } from '../support/system.ts';

let system: System;
beforeAll(async () => {
  system = await startSystem({ gateways: 0, files: true });
}, 120_000);
afterAll(() => system[Symbol.asyncDispose]());

async function store(content: Buffer): Promise<string> {
  const sha256 = digestOf(content);
  const answer = await fetch(`${system.apiUrl}/v1/artifacts/${sha256}`, {
    method: 'PUT',
    headers: { authorization: `Bearer ${system.token}`, 'content-type': 'application/octet-stream' },
    body: new Uint8Array(content),
  });
  expect(answer.status).toBe(201);
  return sha256;
}

test('a bad environment stops the start with every fault at once', () => {
  const env = { PATH: process.env['PATH'], FILES_PORT: 'x', FILES_KEY_FILE: 'key', LONGHAUL_ARTIFACTS_BUCKET: 'a' };
  const { status, stderr } = spawnSync(process.execPath, [join(rootFolder, 'workers/files.ts')], {
    env,
    encoding: 'utf8',
  });
  expect(status).not.toBe(0);
  const faults = [
    'FILES_PORT',
    'FILES_KEY_FILE',
    'LONGHAUL_ARTIFACTS_BUCKET',
    'DATABASE_URL',
    'LONGHAUL_ADDRESS_KEY_FILE',
  ];
  for (const fault of faults) expect(stderr).toContain(`  ${fault}: `);
});

test('what an operator has stored, a device fetches over TLS that it recognises by our root', async () => {
  const content = Buffer.alloc(100_000, 'firmware');
  const { addresses, ...addressed } = await addressesOf(system);
  const address = addresses.sign({ ...addressed, sha256: await store(content) });
  expect(address).toMatch(/^https:/);
  const answer = await fetchAll(address, { ca: system.mqtt.ca });
  expect(answer).toMatchObject({ status: 200 });
  expect(answer.body.equals(content)).toBe(true);
  await expect(fetchAll(address, { ca: 'none' })).rejects.toThrow(/certificate/);
});

test('it is counted, and says what it misses', async () => {
  const { metricsUrl, url } = system.files;
  const metrics = await (await fetch(`${metricsUrl}/metrics`)).text();
  expect(metrics).toMatch(/^longhaul_files_requests_total\{outcome="whole"\} [1-9]/m);
  expect((await fetch(`${metricsUrl}/healthz`)).status).toBe(200);
  expect(await fetchAll(`${url}/readyz`, { ca: system.mqtt.ca })).toMatchObject({ status: 200 });
  await rm(join(system.folder, 'artifacts', 'incoming'), { recursive: true });
  await eventually(async () => {
    const { status, body } = await fetchAll(`${url}/readyz`, { ca: system.mqtt.ca });
    expect({ status, body: String(body) }).toEqual({ status: 503, body: '{"ready":false,"missing":["store"]}' });
  });
});

test('SIGTERM ends it when the downloads under way have ended', async () => {
  const content = Buffer.alloc(64 * 1024 * 1024, 'longhaul');
  await system.api.kill('SIGTERM');
  await system.api.start();
  expect(await readdir(join(system.folder, 'artifacts'))).toContain('incoming');
  const { addresses, ...addressed } = await addressesOf(system);
  const { response } = await open(addresses.sign({ ...addressed, sha256: await store(content) }), {
    ca: system.mqtt.ca,
  });
  response.pause();
  const ended = system.files.kill('SIGTERM');
  await eventually(async () => (await system.files.readLog()).includes('files are draining'));
  let bytes = 0;
  for await (const chunk of response) bytes += (chunk as Buffer).length;
  expect(bytes).toBe(content.length);
  await ended;
  expect(await system.files.readLog()).not.toMatch(/"level":[56]0/);
});
