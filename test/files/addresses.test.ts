import { randomBytes, randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { createAddresses } from '../../files/addresses.ts';

const key = randomBytes(32);
const startMs = Date.UTC(2026, 10, 23);
let nowMs = startMs;
const options = { base: 'https://files.example:8443/fleet/', key, lifetimeSeconds: 60, now: () => nowMs };
const addresses = createAddresses(options);
const addressed = { sha256: randomBytes(32).toString('hex'), deviceId: randomUUID(), jobId: randomUUID() };
const pathOf = (address: string) => address.slice(address.indexOf('/artifacts/'));

test('an address says whom it is for and what it leads to, whole and from its path on', () => {
  const address = addresses.sign(addressed);
  expect(address).toMatch(/^https:\/\/files\.example:8443\/fleet\/artifacts\/[0-9a-f]{64}\?device=/);
  expect(addresses.verify(address)).toEqual({ addressed });
  expect(addresses.verify(pathOf(address))).toEqual({ addressed });
});

test('an address lives as long as it is said to, and not a second longer', () => {
  const address = addresses.sign(addressed);
  nowMs = startMs + 59_999;
  expect(addresses.verify(address)).toEqual({ addressed });
  nowMs = startMs + 60_000;
  expect(addresses.verify(address)).toEqual({ refused: 'expired' });
  nowMs = startMs;
});

test.each([
  ['content', { sha256: randomBytes(32).toString('hex') }],
  ['device', { deviceId: randomUUID() }],
  ['job', { jobId: randomUUID() }],
])('an address of another %s has another signature', (_, other) => {
  const address = addresses.sign(addressed);
  const signature = /signature=(.*)/.exec(address)?.[1] ?? '';
  const foreign = addresses.sign({ ...addressed, ...other });
  expect(addresses.verify(foreign.replace(/signature=.*/, `signature=${signature}`))).toEqual({ refused: 'tampered' });
});

test('no character of an address may be another, left out, said twice or added', () => {
  const address = pathOf(addresses.sign(addressed));
  // What stands before its path is for whoever stands in front of the server.
  for (const index of address.split('').keys().drop(1)) {
    const character = address[index] ?? '';
    const others = /[0-9a-f]/.test(character) ? ['0', '1', 'f'] : ['A', '-', '_', 'B'];
    const changed = others.filter((other) => other !== character).map((other) => replaceAt(address, index, other));
    for (const text of [...changed, replaceAt(address, index, ''), replaceAt(address, index, character.repeat(2))]) {
      expect(addresses.verify(text), text).toHaveProperty('refused');
    }
  }
});

test('the bits at the end of a signature that stand for nothing may not be others', () => {
  const address = addresses.sign(addressed);
  const last = address.at(-1) ?? '';
  const digits = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  const twin = address.slice(0, -1) + digits[digits.indexOf(last) ^ 1];
  const bytesOf = (text: string) => Buffer.from(text.split('signature=')[1] ?? '', 'base64url');
  expect(bytesOf(twin)).toEqual(bytesOf(address));
  expect(addresses.verify(twin)).toEqual({ refused: 'tampered' });
});

const replaceAt = (text: string, index: number, part: string) => text.slice(0, index) + part + text.slice(index + 1);

test('an address cannot be told to live longer', () => {
  const address = addresses.sign(addressed);
  const longer = address.replace(/expires=\d+/, `expires=${startMs / 1_000 + 9_999}`);
  expect(addresses.verify(longer)).toEqual({ refused: 'tampered' });
});

test.each([
  ['a parameter more', (address: string) => `${address}&device=${randomUUID()}`],
  ['a parameter before', (address: string) => address.replace('?', `?device=${randomUUID()}&`)],
  ['parameters in another order', (address: string) => address.replace(/(device=[^&]*)&(job=[^&]*)/, '$2&$1')],
  ['a percent sign', (address: string) => address.replace('device', '%64evice')],
  ['upper case', (address: string) => address.toUpperCase()],
  ['a fragment', (address: string) => `${address}#x`],
  ['a line after it', (address: string) => `${address}\n`],
  ['no query', (address: string) => address.split('?')[0] ?? ''],
  ['nothing', () => ''],
])('an address with %s is refused', (_, change) => {
  expect(addresses.verify(change(addresses.sign(addressed)))).toEqual({ refused: 'malformed' });
});

test('an address of another key is refused, and a key is not short', () => {
  const others = createAddresses({ ...options, key: randomBytes(32) });
  expect(addresses.verify(others.sign(addressed))).toEqual({ refused: 'tampered' });
  expect(() => createAddresses({ ...options, key: randomBytes(16) })).toThrow('32 bytes');
});
