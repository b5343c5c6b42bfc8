import { createHash, createPublicKey, randomUUIDv7 } from 'node:crypto';
import { compactVerify } from 'jose';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { createJobDocuments, type SignAddress } from '../../gateway/job-documents.ts';
import { createOrderSigner, type SignOrder } from '../../pki/orders.ts';
import { describeKey, makeReleaseKey, readPrivateKey } from '../../pki/release-keys.ts';
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

describe('the order in a document', () => {
  const privateKey = readPrivateKey(makeReleaseKey('ES256'));
  const ofRelease = { document: `{"manifest":"header.payload.signature","a":"\${longhaul:url:${one}}"}` };
  const manifest = digest('header.payload.signature');
  const started = Date.now();

  async function openShop() {
    let signed = 0;
    const sign = await createOrderSigner({ privateKey, lifetimeSeconds: 3_600 });
    const signOrder: SignOrder = (order) => {
      signed += 1;
      return sign(order);
    };
    return { ...createExecutors(database.db, { signAddress, signOrder }), signed: () => signed };
  }

  /** What it says, and by which key it is known. */
  async function open(given: unknown) {
    const { order } = z.object({ order: z.string() }).parse(given);
    const options = { algorithms: ['ES256'], typ: 'ota-order+jws' };
    const { payload, protectedHeader } = await compactVerify(order, createPublicKey(privateKey), options);
    expect(protectedHeader).toEqual({ alg: 'ES256', typ: 'ota-order+jws', kid: (await describeKey(privateKey)).id });
    return JSON.parse(Buffer.from(payload).toString());
  }

  test('is to this device, for this attempt and this manifest, wherever the document is given', async () => {
    const { device, ask, update, ear, notices, db, signed } = await openShop();
    const [own, other] = [await device(), await device()];
    const job = await makeJob(db, { ...ofRelease, releaseId: randomUUIDv7() });
    await queueJob(db, job, [own.id]);
    await queueJob(db, job, [other.id], { attempt: 3 });
    const filter = `$aws/things/${own.name}/jobs/notify-next`;
    ear.subscribe(own.session.key, filter);
    notices.subscribed(own.session, [filter]);
    const told = await eventually(() => ear.told[0]?.message.payload ?? null);
    const given = [
      JSON.parse(Buffer.from(told).toString()).execution.jobDocument,
      (await ask(own.session, '$next/get')).body.execution?.jobDocument,
      (await ask(own.session, `${job.id}/get`, { executionNumber: 1 })).body.execution?.jobDocument,
      (await ask(own.session, 'start-next')).body.execution?.jobDocument,
      (await update(own.session, job, { status: 'IN_PROGRESS', includeJobDocument: true })).body.jobDocument,
    ];
    const issuedAt = expect.toSatisfy((at: number) => Math.abs(at - started / 1_000) < 60);
    for (const text of given) {
      const said = await open(text);
      expect(said).toEqual({
        device: own.name,
        job: job.id,
        execution: 1,
        manifest,
        issuedAt,
        expiresAt: said.issuedAt + 3_600,
      });
    }
    expect(signed()).toBe(given.length);
    const others = await open((await ask(other.session, '$next/get')).body.execution?.jobDocument);
    expect(others).toMatchObject({ device: other.name, execution: 3 });
  });

  test('of another attempt is another order', async () => {
    const { device, ask, update, db } = await openShop();
    const { id, session, jobs } = await device({ ...ofRelease, releaseId: randomUUIDv7() });
    const [job] = jobs as [TestJob];
    await update(session, job, { status: 'FAILED' });
    await queueJob(db, job, [id], { attempt: 2 });
    expect(await open((await ask(session, 'start-next')).body.execution?.jobDocument)).toMatchObject({ execution: 2 });
    expect((await ask(session, `${job.id}/get`, { executionNumber: 1 })).body.code).toBe('TerminalStateReached');
  });

  test('is not given for what has ended, nor where no document is asked for', async () => {
    const { device, ask, update, signed } = await openShop();
    const { session, jobs } = await device({ ...ofRelease, releaseId: randomUUIDv7() });
    const [job] = jobs as [TestJob];
    await ask(session, `${job.id}/get`, { includeJobDocument: false });
    await ask(session, 'get');
    const ended = await update(session, job, { status: 'SUCCEEDED', includeJobDocument: true });
    expect(ended.body.jobDocument).toMatchObject({ manifest: 'header.payload.signature' });
    expect(ended.body.jobDocument).not.toHaveProperty('order');
    await ask(session, `${job.id}/get`);
    expect(signed()).toBe(0);
  });

  test('is not in a document that is of no release, whatever it says: its bytes are those that were given', async () => {
    const { device, ask, signed } = await openShop();
    const whole = '{ "operation":"update", "manifest":"header.payload.signature" , "order":"${longhaul:order}" }';
    const { session } = await device({ document: whole });
    expect((await ask(session, '$next/get')).text).toContain(`"jobDocument":${whole}`);
    expect(signed()).toBe(0);
  });

  test('is missing, with one fault in the log, where nothing signs', async () => {
    const { device, ask, logged } = createExecutors(database.db, { signAddress });
    const { session, jobs } = await device({ ...ofRelease, releaseId: randomUUIDv7() });
    for (let times = 0; times < 3; times += 1) {
      expect((await ask(session, '$next/get')).body.execution?.jobDocument).not.toHaveProperty('order');
    }
    expect(logged).toEqual([[{ jobId: jobs[0]?.id }, expect.stringContaining('nothing signs orders')]]);
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
  const documents = createJobDocuments({ db, signAddress, signOrder: undefined, log: quiet, keptMax: 3 });
  const named = (jobId: string) => ({ jobId, deviceId: 'd', attempt: 1, status: 'QUEUED' as const });
  const texts = async (...numbers: number[]) => {
    const before = read.length;
    const documentFor = await documents.load(numbers.map((n) => ids[n] ?? ''));
    return { texts: numbers.map((n) => documentFor(named(ids[n] ?? ''), 'pump-1')), reads: read.length - before };
  };
  expect(await texts(0, 1, 1, 0)).toEqual({ texts: ['{"n":0}', '{"n":1}', '{"n":1}', '{"n":0}'], reads: 1 });
  expect(await texts(0, 1)).toMatchObject({ reads: 0 });
  expect(await texts(2, 3)).toMatchObject({ texts: ['{"n":2}', '{"n":3}'], reads: 1 });
  expect(await texts(1, 2, 3)).toMatchObject({ reads: 0 });
  expect(await texts(0)).toMatchObject({ texts: ['{"n":0}'], reads: 1 });
  expect(await texts(0, 1, 2, 3, 4)).toMatchObject({ texts: ids.map((_, n) => `{"n":${n}}`), reads: 1 });
  const none = '01900000-0000-7000-8000-000000000000';
  expect((await documents.load([none]))(named(none), 'pump-1')).toBeUndefined();
});
