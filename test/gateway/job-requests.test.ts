import { anything, array, assert, asyncProperty, constantFrom, dictionary, json, oneof, string } from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { makeDatabase, type TestDatabase } from '../support/database.ts';
import { executionOf, type TestJob } from '../support/jobs.ts';
import { createExecutors, seconds } from './executors.ts';

let database: TestDatabase;
let executors: ReturnType<typeof createExecutors>;
beforeAll(async () => {
  database = await makeDatabase();
  executors = createExecutors(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

async function started() {
  const { device, ask, db } = executors;
  const { session, id, jobs } = await device({});
  const [job] = jobs as [TestJob];
  await ask(session, 'start-next');
  return {
    session,
    job,
    detailsOf: async () => (await executionOf(db, job, id)).details,
    row: () => executionOf(db, job, id),
  };
}

describe('status details', () => {
  test.each<[string, unknown, Record<string, string>]>([
    ['texts', { step: 'one', 'a:b_c-D': '' }, { step: 'one', 'a:b_c-D': '' }],
    [
      'numbers and truth values, as the Node agent sends them',
      { uptime: 17.25, ok: true, n: 0 },
      { uptime: '17.25', ok: 'true', n: '0' },
    ],
    [
      'newlines, as the Device Client sends them',
      { stdout: 'one\r\ntwo\ttabbed\n' },
      { stdout: 'one\r\ntwo\ttabbed\n' },
    ],
    ['what is nested', { a: { b: [1] }, c: ['x'] }, { a: '{"b":[1]}', c: '["x"]' }],
    ['null', { a: null, b: 'x' }, { b: 'x' }],
    ['characters that no column can hold', { a: 'nul \u0000 half \ud800' }, { a: 'nul \ufffd half \ufffd' }],
    ['keys of other characters', { 'a b/ü': 'x' }, { a_b__: 'x' }],
    ['nothing', {}, {}],
  ])('with %s are taken', async (_, given, kept) => {
    const { session, job, detailsOf } = await started();
    const answer = await executors.update(session, job, { status: 'IN_PROGRESS', statusDetails: given });
    expect(answer.outcome).toBe('accepted');
    expect(await detailsOf()).toEqual(kept);
  });

  test('that are too long, or too many, are cut', async () => {
    const { session, job, detailsOf } = await started();
    const many = Object.fromEntries(Array.from({ length: 500 }, (_, n) => [`k${n}`, 'v']));
    const statusDetails = { long: 'x'.repeat(5_000), ['y'.repeat(500)]: 'y', ...many };
    expect(await executors.update(session, job, { status: 'IN_PROGRESS', statusDetails })).toMatchObject({
      outcome: 'accepted',
    });
    const details = await detailsOf();
    expect(details['long']).toHaveLength(1_024);
    expect(details['y'.repeat(128)]).toBe('y');
    expect(Object.keys(details)).toHaveLength(64);
  });

  test('replace those before them, and where there are none, those before them stay', async () => {
    const { session, job, detailsOf } = await started();
    const report = (statusDetails: unknown) => executors.update(session, job, { status: 'IN_PROGRESS', statusDetails });
    await report({ a: '1', b: '2' });
    for (const none of [undefined, null, 'text', 17, ['x']]) await report(none);
    expect(await detailsOf()).toEqual({ a: '1', b: '2' });
    await report({ c: '3' });
    expect(await detailsOf()).toEqual({ c: '3' });
  });
});

describe('a client token', () => {
  test('comes back in what is accepted and in what is refused, as it was', async () => {
    const { session, job } = await started();
    const { ask, update } = executors;
    for (const clientToken of ['x', 'é"\\\u0001', 'y'.repeat(64), 17]) {
      const answers = [
        await ask(session, 'get', { clientToken }),
        await ask(session, '$next/get', { clientToken }),
        await ask(session, 'start-next', { clientToken }),
        await update(session, job, { status: 'IN_PROGRESS', clientToken }),
        await update(session, job, { status: 'QUEUED', clientToken }),
        await ask(session, 'nothing', { clientToken }),
      ];
      expect(answers.map(({ body }) => body)).toEqual(answers.map(() => expect.objectContaining({ clientToken })));
    }
  });

  test.each([['y'.repeat(65)], ['ü'.repeat(33)], [true], [{}]])('like %j is refused', async (clientToken) => {
    const { session } = await started();
    const answer = await executors.ask(session, 'get', { clientToken });
    expect(answer).toMatchObject({ outcome: 'rejected', body: { code: 'InvalidRequest' } });
  });
});

describe('a body', () => {
  test.each<[string, string | Uint8Array]>([
    ['that is empty', ''],
    ['of a NUL', '\0'],
    ['with a NUL behind it', '{"clientToken":"x"}\0'],
    [
      'of a whole request, as V1 clients write it',
      '{"thingName":"x","jobId":"y","executionNumber":0,"includeJobDocument":true}',
    ],
    ['of nulls', '{"executionNumber":null,"includeJobDocument":null,"clientToken":null}'],
  ])('%s is taken', async (_, body) => {
    const { session, job } = await started();
    for (const path of ['get', 'start-next', '$next/get', `${job.id}/get`]) {
      expect(await executors.ask(session, path, body)).toMatchObject({ outcome: 'accepted' });
    }
  });

  test.each<[string, string | Uint8Array, string]>([
    ['not JSON', 'x', 'InvalidJson'],
    ['not UTF-8', Uint8Array.of(0x7b, 0xff, 0x7d), 'InvalidJson'],
    ['an array', '[]', 'InvalidRequest'],
    ['without a status', '{}', 'InvalidRequest'],
  ])('that is %s is refused by name', async (_, body, code) => {
    const { session, job } = await started();
    const { outcome, body: answer } = await executors.update(session, job, body);
    expect({ outcome, answer }).toEqual({
      outcome: 'rejected',
      answer: { code, message: expect.any(String), timestamp: seconds },
    });
  });

  test('of any kind gets one answer, and harms nobody', async () => {
    const { session, job, row } = await started();
    const { ask, device } = executors;
    const neighbour = await device({});
    const field = constantFrom(
      'status',
      'statusDetails',
      'expectedVersion',
      'executionNumber',
      'clientToken',
      '__proto__',
    );
    const body = oneof(
      dictionary(oneof(field, string()), anything({ withNullPrototype: true, withBigInt: false })),
      json(),
      array(anything({ withBigInt: false })),
      string({ unit: 'binary' }),
    );
    await assert(
      asyncProperty(
        constantFrom('get', 'start-next', '$next/get', `${job.id}/get`, `${job.id}/update`),
        body,
        async (path, given) => {
          const text = typeof given === 'string' ? given : (JSON.stringify(given) ?? '');
          const { outcome } = await ask(session, path, text);
          expect(['accepted', 'rejected']).toContain(outcome);
        },
      ),
      { numRuns: 300 },
    );
    expect(['IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'REJECTED']).toContain((await row()).status);
    expect(await ask(neighbour.session, '$next/get')).toMatchObject({ body: { execution: { versionNumber: 1 } } });
    expect(({} as Record<string, unknown>)['status']).toBeUndefined();
  });
});
