import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:https';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eq } from 'drizzle-orm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { events } from '../../db/schema.ts';
import { eventually } from '../support/eventually.ts';
import type { TestJob } from '../support/jobs.ts';
import { runProgram, writeCredentials, type Program } from './programs.ts';
import { openWorkshop, type Workshop } from './workshop.ts';

const agent = createRequire(import.meta.url).resolve('aws-iot-device-sdk/examples/jobs-agent.js');
const image = randomBytes(300_000);
const sha256 = createHash('sha256').update(image).digest('hex');

let workshop: Workshop;
let folder: string;
let files: Server;
let device: Awaited<ReturnType<Workshop['makeDevice']>>;
const fetched: string[] = [];
let program: Program | undefined;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'longhaul-agent-'));
  workshop = await openWorkshop({
    signAddress: ({ sha256: digest, deviceId, jobId }) =>
      `https://localhost:${port(files)}/artifacts/${digest}?device=${deviceId}&job=${jobId}`,
  });
  const { certificatePem: cert, privateKeyPem: key } = workshop.fleet.server;
  files = createServer({ cert, key }, ({ url = '' }, response) => {
    fetched.push(url);
    response.end(image);
  });
  files.listen(0, '127.0.0.1');
  await once(files, 'listening');
  device = await workshop.makeDevice();
}, 60_000);
afterAll(async () => {
  program?.process.kill();
  await program?.ended;
  files.close();
  await workshop[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

// A server that listens on a port has an AddressInfo.
const port = (server: Server) => (server.address() as AddressInfo).port;

/** The Node agent, as it was shipped. Started once, with the first job waiting for it. */
async function startAgent(): Promise<void> {
  const { certificate, key, ca } = await writeCredentials(folder, device, workshop.mqtt.ca);
  const server = ['-H', workshop.mqtt.serverName, '-p', String(workshop.mqtt.port)];
  const identity = ['-k', key, '-c', certificate, '-a', ca, '-T', device.name, '-i', device.clientId];
  program = runProgram([agent, ...server, ...identity, '-D'], { cwd: folder, env: { NODE_EXTRA_CA_CERTS: ca } });
}

const install = (checksum: string) => ({
  operation: 'install',
  packageName: 'pump',
  workingDirectory: folder,
  files: [
    {
      fileName: 'image.bin',
      fileSource: { url: `\${longhaul:url:${sha256}}` },
      checksum: { inline: { value: checksum }, hashAlgorithm: 'SHA256' },
    },
  ],
});

const give = (document: object) => workshop.give([device], { document: JSON.stringify(document) });
const ended = (job: TestJob) =>
  eventually(
    async () => {
      const row = await workshop.rowOf(job, device);
      return row.endedAt !== null && row;
    },
    { withinMs: 20_000 },
  );
const fetchesFor = ({ id }: TestJob) => fetched.filter((url) => url.includes(`job=${id}`));
const kindsOf = async ({ rolloutId }: TestJob) =>
  (
    await workshop.fleet.db
      .select()
      .from(events)
      .where(eq(events.subject, `rollout/${rolloutId}`))
      .orderBy(events.id)
  ).map(({ kind }) => kind);

test(
  'the Node agent finds a job that was waiting, downloads, checks, and reports, once',
  { timeout: 40_000 },
  async () => {
    const job = await give(install(sha256));
    await startAgent();
    const row = await ended(job);
    expect(row, program?.output()).toMatchObject({
      status: 'SUCCEEDED',
      details: { state: 'package files installed' },
    });
    expect(await readFile(join(folder, 'image.bin'))).toEqual(image);
    expect(fetchesFor(job)).toEqual([`/artifacts/${sha256}?device=${device.deviceId}&job=${job.id}`]);
    expect(await kindsOf(job)).toEqual(['execution.in-progress', 'execution.succeeded']);
  },
);

test('and is told of the next one while it is there', { timeout: 40_000 }, async () => {
  const job = await give(install('0'.repeat(64)));
  const row = await ended(job);
  expect(row).toMatchObject({ status: 'FAILED', details: { errorCode: 'ERR_DOWNLOAD_FAILED' } });
  expect(row.details['downloadError']).toMatch(/Checksum mismatch/);
  expect(fetchesFor(job)).toHaveLength(1);
});

test('and of two, one after the other, though it reports a number', { timeout: 40_000 }, async () => {
  const [first, second] = [await give({ operation: 'systemStatus' }), await give({ operation: 'systemStatus' })];
  for (const job of [first, second]) {
    const { status, details } = await ended(job);
    expect({ status, platform: details['platform'] }).toEqual({ status: 'SUCCEEDED', platform: process.platform });
    expect(Number(details['uptime'])).toBeGreaterThan(0);
    expect(await kindsOf(job)).toEqual(['execution.succeeded']);
  }
});
