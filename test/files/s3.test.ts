import { ListMultipartUploadsCommand, S3Client } from '@aws-sdk/client-s3';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { openS3 } from '../../files/s3.ts';
import type { Store } from '../../files/store.ts';
import { s3ServerWithinMs, startS3Server, type S3Server } from '../support/s3-server.ts';
import { holdsMemoryFlat } from './flat-memory.ts';
import { keepsItsPromises } from './stores.ts';

let server: S3Server;
let store: Store;
beforeAll(async () => {
  server = await startS3Server();
  for (const [name, value] of Object.entries(server.credentials)) vi.stubEnv(name, value);
  store = openS3({ bucket: server.bucket, prefix: 'fleet/', region: 'us-east-1', endpoint: server.endpoint });
}, s3ServerWithinMs);
afterAll(async () => {
  vi.unstubAllEnvs();
  await server[Symbol.asyncDispose]();
});

keepsItsPromises(
  () => store,
  () => server.names(),
);
holdsMemoryFlat(
  () => ({
    ...server.credentials,
    LONGHAUL_ARTIFACTS_FOLDER: '',
    LONGHAUL_ARTIFACTS_BUCKET: server.bucket,
    LONGHAUL_ARTIFACTS_PREFIX: 'fleet/',
    LONGHAUL_ARTIFACTS_ENDPOINT: server.endpoint,
  }),
  { marginMebibytes: 96 },
);

test('objects stand under their prefix, and no upload is left open', async () => {
  const objects = (await server.names()).filter((name) => !name.includes('/.sgwtmp/'));
  expect(objects.length).toBeGreaterThan(0);
  for (const name of objects) expect(name).toMatch(/^\/artifacts\/fleet\/[0-9a-f]{64}$/);
  const client = new S3Client({ region: 'us-east-1', endpoint: server.endpoint, forcePathStyle: true });
  const { Uploads = [] } = await client.send(new ListMultipartUploadsCommand({ Bucket: server.bucket }));
  expect(Uploads).toEqual([]);
});

test('a bucket that is not there, or not ours, is missed', async () => {
  const options = { bucket: 'absent', prefix: '', region: 'us-east-1', endpoint: server.endpoint };
  await expect(openS3(options).probe()).rejects.toMatchObject({ $metadata: { httpStatusCode: 404 } });
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'wrong');
  const notOurs = openS3({ ...options, bucket: server.bucket });
  await expect(notOurs.probe()).rejects.toMatchObject({ $metadata: { httpStatusCode: 403 } });
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', server.credentials.AWS_SECRET_ACCESS_KEY);
});
