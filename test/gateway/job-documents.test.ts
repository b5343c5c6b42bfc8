import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createJobDocuments, type SignAddress } from '../../gateway/job-documents.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { makeJob, queueJob, type TestJob } from '../support/jobs.ts';
import { quiet } from './ear.ts';
import { createExecutors } from './executors.ts';

let database: TestDatabase;
beforeAll(async () => void (database = await makeDatabase()));
afterAll(() => database[Symbol.asyncDispose]());

const digest = (text: string) => createHash('sha256').update(text).digest('hex');
const [one, two] = [digest('one'), digest('two')];
const document = `{"a":"\${longhaul:url:${one}}","b":{"c":["x\${longhaul:url:${two}}y","\${longhaul:url:${one}}"]}}`;
const signAddress: SignAddress = ({ sha256, deviceId, jobId }) =>
  `https://files/${sha256}?device=${deviceId}&job=${jobId}&"\\`;

describe('the address in a document', () => {
  test('is made for the device that is given it, wherever it is given it', async () => {
    const { device, ask, update, ear, notices, db } = createExecutors(database.db, { signAddress });
    const [own, other] = [await device(), await device()];
    const job = await makeJob(db, { document });
    await queueJob(db, job, [own.id, other.id]);
    const filter = `$aws/things/${own.name}/jobs/notify-next`;
    ear.subscribe(own.session.key, filter);
    notices.subscribed(own.session, [filter]);
    const told = await eventually(() => ear.told[0]?.message.payload ?? null);
    const given = [
      JSON.parse(Buffer.from(told).toString()).execution.jobDocument,
      (await ask(own.session, '$next/get')).body.execution?.jobDocument,
      (await ask(own.session, `${job.id}/get`)).body.execution?.jobDocument,
      (await ask(own.session, 'start-next')).body.execution?.jobDocument,
      (await update(own.session, job, { status: 'SUCCEEDED', includeJobDocument: true })).body.jobDocument,
    ];
    const address = (sha256: string, deviceId = own.id) => signAddress({ sha256, deviceId, jobId: job.id });
    const expected = { a: address(one), b: { c: [`x${address(two)}y`, address(one)] } };
    expect(given).toEqual(given.map(() => expected));
    const others = (await ask(other.session, '$next/get')).body.execution?.jobDocument;
    expect(others).toMatchObject({ a: address(one, other.id) });
  });

  test('is left empty, with a fault in the log, where none can be made', async () => {
    const { device, ask, logged } = createExecutors(database.db);
    const { session, jobs } = await device({ document });
    for (let times = 0; times < 3; times += 1) {
      const { execution } = (await ask(session, '$next/get')).body;
      expect(execution?.jobDocument).toEqual({ a: '', b: { c: ['xy', ''] } });
    }
    expect(logged).toEqual([[{ jobId: jobs[0]?.id }, expect.stringContaining('addresses of files')]]);
  });

  test.each([
    ['short', '${longhaul:url:abc}'],
    ['in capitals', `\${longhaul:url:${one.toUpperCase()}}`],
    ['of another kind', `\${longhaul:file:${one}}`],
    ['AWS’s own', '${aws:iot:s3-presigned-url:https://s3.amazonaws.com/bucket/key}'],
  ])('that is %s is none, and stays as it was given', async (_, text) => {
    const { device, ask, logged } = createExecutors(database.db, { signAddress });
    const { session } = await device({ document: JSON.stringify({ text }) });
    expect((await ask(session, '$next/get')).body.execution?.jobDocument).toEqual({ text });
    expect(logged).toEqual([]);
  });
});

test('a document of 32 KiB comes byte by byte as it was given', async () => {
  const { device, ask } = createExecutors(database.db, { signAddress });
  const whole = `{ "pad" : "${'ü'.repeat(16_000)}" ,\n "n": 1.0e0 }`;
  const { session } = await device({ document: whole });
  expect((await ask(session, '$next/get')).text).toContain(`"jobDocument":${whole}`);
});

test('documents are read once, and the ones not used for longest are forgotten', async () => {
  const jobs: TestJob[] = [];
  for (let n = 0; n < 5; n += 1) jobs.push(await makeJob(database.db, { document: `{"n":${n}}` }));
  const ids = jobs.map(({ id }) => id);
  const read: string[][] = [];
  // Every statement of this pool names the ids that it asks for in its parameters.
  const db = new Proxy(database.db, {
    get: (target, name, receiver) => {
      if (name === 'select') read.push([]);
      return Reflect.get(target, name, receiver) as unknown;
    },
  });
  const documents = createJobDocuments({ db, signAddress, log: quiet, keptMax: 3 });
  const texts = async (...numbers: number[]) => {
    const before = read.length;
    const documentFor = await documents.load(numbers.map((n) => ids[n] ?? ''));
    return { texts: numbers.map((n) => documentFor(ids[n] ?? '', 'd')), reads: read.length - before };
  };
  expect(await texts(0, 1, 1, 0)).toEqual({ texts: ['{"n":0}', '{"n":1}', '{"n":1}', '{"n":0}'], reads: 1 });
  expect(await texts(0, 1)).toMatchObject({ reads: 0 });
  expect(await texts(2, 3)).toMatchObject({ texts: ['{"n":2}', '{"n":3}'], reads: 1 });
  expect(await texts(1, 2, 3)).toMatchObject({ reads: 0 });
  expect(await texts(0)).toMatchObject({ texts: ['{"n":0}'], reads: 1 });
  expect(await texts(0, 1, 2, 3, 4)).toMatchObject({ texts: ids.map((_, n) => `{"n":${n}}`), reads: 1 });
  expect(
    (await documents.load(['01900000-0000-7000-8000-000000000000']))('01900000-0000-7000-8000-000000000000', 'd'),
  ).toBeUndefined();
});
