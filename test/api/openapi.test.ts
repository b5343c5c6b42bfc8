import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeApi } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let api: Awaited<ReturnType<typeof makeApi>>;
beforeAll(async () => {
  database = await makeDatabase();
  api = await makeApi(database.db);
});
afterAll(() => database[Symbol.asyncDispose]());

const undescribed = ['GET /v1/openapi.json', 'GET /authorities.pem', 'GET /crl/{file}'];

test('every route is described', async () => {
  const { paths } = (await api.ask('GET', '/v1/openapi.json')).body;
  const described = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
  const routed = api.app.routes
    .filter(({ method }) => method !== 'ALL')
    .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`);
  expect(new Set([...described, ...undescribed])).toEqual(new Set(routed));
  expect(described.length).toBeGreaterThan(20);
});

test('every reference leads somewhere, every operation has a name of its own, every path parameter is declared', async () => {
  const { body, text } = await api.ask('GET', '/v1/openapi.json');
  expect(body).toMatchObject({ openapi: '3.1.0', security: [{ apiKey: [] }] });
  const references = [...text.matchAll(/"\$ref":"#\/([^"]+)"/g)].map(([, path = '']) => path.split('/'));
  expect(references.length).toBeGreaterThan(20);
  for (const path of references) {
    expect(body).toHaveProperty(path);
  }
  const operations = Object.entries(body.paths).flatMap(([path, methods]) =>
    Object.values(methods).map((operation) => ({ path, operation })),
  );
  expect(new Set(operations.map(({ operation }) => operation['operationId'])).size).toBe(operations.length);
  for (const { path, operation } of operations) {
    const declared = JSON.stringify(operation['parameters'] ?? []);
    for (const [, name] of path.matchAll(/\{(\w+)\}/g))
      expect(declared).toContain(`"name":"${name}","in":"path"`.split(',')[0]);
    expect(Object.keys(Object(operation['responses'])).length).toBeGreaterThan(0);
  }
});
