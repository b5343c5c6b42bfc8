import { afterAll, beforeAll, expect, test } from 'vitest';
import { createProbes } from '../../api/probes.ts';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
beforeAll(async () => void (database = await makeDatabase()));
afterAll(() => database[Symbol.asyncDispose]());

const there = async () => {};
const silent = () => new Promise<void>(() => {});
const away = () => Promise.reject(new Error('secret address'));
const temporal = {
  withDeadline: <Answer>(_: Date, ask: () => Promise<Answer>) => ask(),
  workflowService: { getSystemInfo: async () => ({}) },
};

test('a process is ready when every part is there', async () => {
  const api = await makeApi(database.db, { probes: createProbes(database.db, temporal) });
  const { status, body } = await api.send('GET', '/readyz');
  expect(status).toBe(200);
  expect(body).toEqual({ ready: true, parts: { postgres: 'ok', schema: 'ok', temporal: 'ok' } });
  expect((await api.send('GET', '/healthz')).body).toEqual({ status: 'ok' });
});

test('the parts that are missing are named, also one that never answers, and nothing else is said', async () => {
  const api = await makeApi(database.db, { probes: { postgres: there, schema: away, temporal: silent } });
  const { status, text, body } = await api.send('GET', '/readyz');
  expect(status).toBe(503);
  expect(body).toEqual({ ready: false, parts: { postgres: 'ok', schema: 'missing', temporal: 'missing' } });
  expect(text).not.toContain('secret');
});

test('a schema that is older than the release is missing', async () => {
  await using old = await makeDatabase();
  await old.db.$client`update migrations set version = -version`;
  await expect(createProbes(old.db, temporal).schema()).rejects.toThrow('older');
});
