import { copyFile, mkdtemp, rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { runProgram, writeCredentials } from './programs.ts';
import { openWorkshop, type Workshop } from './workshop.ts';

const sdk = dirname(createRequire(import.meta.url).resolve('aws-iot-device-sdk-v2/package.json'));
const preload = fileURLToPath(new URL('servicetest-preload.mjs', import.meta.url));

let workshop: Workshop;
let folder: string;
beforeAll(async () => {
  workshop = await openWorkshop();
  folder = await mkdtemp(join(tmpdir(), 'longhaul-servicetest-'));
  // Node strips no types from what lies in a folder of packages.
  await copyFile(join(sdk, 'servicetests/tests/jobs_execution/index.ts'), join(folder, 'index.ts'));
  await symlink(dirname(sdk), join(folder, 'node_modules'));
}, 60_000);
afterAll(async () => {
  await workshop[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

test.each([3, 5])('the SDK’s own service test over MQTT %i does two jobs', { timeout: 60_000 }, async (version) => {
  const { makeDevice, give, rowOf, mqtt } = workshop;
  const device = await makeDevice();
  const jobs = [await give([device]), await give([device])];
  const files = await writeCredentials(folder, device, mqtt.ca);
  const credentials = ['--endpoint', mqtt.serverName, '--cert', files.certificate, '--key', files.key];
  const { ended } = runProgram(
    ['--import', preload, 'index.ts', ...credentials, '--thing_name', device.name, '--mqtt_version', String(version)],
    { cwd: folder, env: { SERVICETEST_PORT: String(mqtt.port), SERVICETEST_CA_FILE: files.ca } },
  );
  const { code, output } = await ended;
  expect(output).not.toMatch(/rejected|error/i);
  expect({ code, marked: output.match(/Marked job \S+ SUCCEEDED/g)?.length }, output).toEqual({ code: 0, marked: 2 });
  // Started, reported in progress, and ended, each with the version that the answer before had told.
  for (const job of jobs) expect(await rowOf(job, device)).toMatchObject({ status: 'SUCCEEDED', version: 4 });
});
