import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, inject, test } from 'vitest';
import { makeReleaseKey, describeKey, readPrivateKey } from '../../pki/release-keys.ts';
import { ensureOrderKeys, openOrderSigner } from '../../workers/order-keys.ts';
import { makeApi, type Ask } from '../support/api.ts';
import { makeDatabase, type TestDatabase } from '../support/database.ts';

let database: TestDatabase;
let file: string;
let ask: Ask;
beforeEach(async () => {
  database = await makeDatabase();
  file = join(mkdtempSync(join(inject('folder'), 'order-keys-')), 'order-keys.pem');
  ({ ask } = await makeApi(database.db));
});
afterEach(() => database[Symbol.asyncDispose]());

const ensure = () => ensureOrderKeys(database.db, file);
const open = () => openOrderSigner(database.db, { keysFile: file, lifetimeSeconds: 60 });
const order = { device: 'pump-1', job: 'a-job', execution: 1, manifest: 'ab'.repeat(32) };
const kidOf = (jws: string) => JSON.parse(Buffer.from(jws.split('.')[0] ?? '', 'base64url').toString()).kid;
const idOf = async (pem: string) => (await describeKey(readPrivateKey(pem))).id;
const states = async () => {
  const { items } = (await ask('GET', '/v1/order-keys')).body;
  return Object.fromEntries(items.map(({ id, state }) => [id, state]));
};
const actions = async (id: string) =>
  (await ask('GET', `/v1/audit?filter=subject==order-key/${id}`)).body.items.map(({ action }) => action);

describe('the keys of orders', () => {
  test('are one at first, which only its owner may read, and the API has its public half', async () => {
    await Promise.all([ensure(), ensure()]);
    const pem = readFileSync(file, 'utf8');
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const { id, publicKeyPem } = await describeKey(readPrivateKey(pem));
    const { body, text } = await ask('GET', `/v1/order-keys/${id}`);
    expect(body).toEqual({
      id,
      algorithm: 'ES256',
      publicKeyPem,
      state: 'SIGNING',
      createdAt: expect.any(String),
      retiredAt: null,
    });
    expect(text).not.toContain('PRIVATE');
    expect((await ask('GET', '/v1/order-keys?filter=state!=RETIRED')).body.items).toEqual([body]);
    expect((await ask('GET', `/v1/order-keys/${'x'.repeat(43)}`)).status).toBe(404);
    expect(kidOf((await open())(order))).toBe(id);
    expect(await actions(id)).toEqual(['order-key.published']);
  });

  test('are changed one after the other: two are known at once, and the first of the file signs', async () => {
    await ensure();
    const [old, next] = [readFileSync(file, 'utf8'), makeReleaseKey('ES256')];
    const [oldId, nextId] = [await idOf(old), await idOf(next)];
    const steps: [string, object, string][] = [
      [old + next, { [oldId]: 'SIGNING', [nextId]: 'STANDBY' }, oldId],
      [next + old, { [oldId]: 'STANDBY', [nextId]: 'SIGNING' }, nextId],
      [next, { [oldId]: 'RETIRED', [nextId]: 'SIGNING' }, nextId],
    ];
    for (const [pems, expected, signer] of steps) {
      writeFileSync(file, pems);
      await ensure();
      await ensure();
      expect(await states()).toEqual(expected);
      expect(kidOf((await open())(order))).toBe(signer);
    }
    expect(await actions(nextId)).toEqual(['order-key.published', 'order-key.published']);
    expect(await actions(oldId)).toEqual(['order-key.retired', 'order-key.published', 'order-key.published']);
    expect((await ask('GET', `/v1/order-keys/${oldId}`)).body).toMatchObject({ retiredAt: expect.any(String) });
  });

  test('sign nothing before they are published, nor once they are retired', async () => {
    writeFileSync(file, makeReleaseKey('ES256'));
    await expect(open()).rejects.toThrow('not published');
    await ensure();
    const first = readFileSync(file, 'utf8');
    writeFileSync(file, makeReleaseKey('ES256'));
    await ensure();
    writeFileSync(file, first);
    await expect(open()).rejects.toThrow('not published');
  });

  test('are not replaced when their file is gone, or is none: devices would refuse every order', async () => {
    await ensure();
    const before = await states();
    const pem = readFileSync(file, 'utf8');
    rmSync(file);
    await expect(ensure()).rejects.toThrow('is gone');
    await expect(open()).rejects.toThrow('is gone');
    writeFileSync(file, 'keys');
    await expect(ensure()).rejects.toThrow('not private keys');
    expect(await states()).toEqual(before);
    writeFileSync(file, pem);
    await ensure();
    expect(await states()).toEqual(before);
  });

  test('are taken from a file that was there before the database', async () => {
    const pem = makeReleaseKey('ES256');
    writeFileSync(file, pem);
    await ensure();
    expect(readFileSync(file, 'utf8')).toBe(pem);
    expect(await states()).toEqual({ [await idOf(pem)]: 'SIGNING' });
  });
});
