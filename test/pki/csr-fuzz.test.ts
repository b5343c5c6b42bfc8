import { sign } from 'node:crypto';

import { afterAll, expect, test } from 'vitest';
import {
  array,
  assert,
  asyncProperty,
  constantFrom,
  double,
  integer,
  nat,
  record,
  uint8Array,
  type Arbitrary,
} from 'fast-check';

import { judgeCsr } from '../../pki/csr-policy.ts';
import { bitString, decode, encode, sequence, tags, type Element } from '../../pki/der.ts';
import { ecdsaWithSha256 } from '../../pki/signed.ts';
import { derOf, openOpenssl } from './openssl.ts';
import { verdictOn } from './verdict.ts';

const openssl = openOpenssl();
afterAll(() => openssl[Symbol.dispose]());

const p256 = openssl.makeKey('EC', 'ec_paramgen_curve:P-256');
const extensions = ['-addext', 'subjectAltName=DNS:pump-1', '-addext', 'keyUsage=digitalSignature'];
const requests = [
  openssl.makeCsr(p256, '/'),
  openssl.makeCsr(p256, '/C=CH/O=Pumps/CN=pump-1', ...extensions),
  openssl.makeCsr(openssl.makeKey('EC', 'ec_paramgen_curve:P-384'), '/CN=pump-1', '-sha384'),
  openssl.makeCsr(openssl.makeKey('RSA', 'rsa_keygen_bits:2048'), '/CN=pump-1', ...extensions),
];
const originals = requests.map(derOf);

/** Longer than any honest judgement by far, shorter than anybody would wait. */
const judgementMsMax = 5000;

/** Fails for an exception, also one that was turned into a refusal, for a hang, and for an acceptance of anything that openssl and its own signature do not bear out. */
async function judgeMutant(input: string | Uint8Array): Promise<'accepted' | 'refused'> {
  const startedAt = performance.now();
  const verdict = await judgeCsr(input, { expectedNames: ['pump-1'] });
  expect(performance.now() - startedAt).toBeLessThan(judgementMsMax);
  expect(verdict).not.toMatchObject({ refused: { reason: 'unreadable' } });
  if ('refused' in verdict) return 'refused';
  const der = typeof input === 'string' ? derOf(input) : Buffer.from(input);
  if (originals.some((original) => original.equals(der))) return 'accepted';
  const part = signedPart(der);
  expect(originals.some((original) => signedPart(original).equals(part))).toBe(true);
  expect(openssl.acceptsCsr(der)).toBe(true);
  return 'accepted';
}

const signedPart = (der: Uint8Array): Buffer => Buffer.from(decode(der).children[0]?.bytes ?? []);

test('the requests that are spoilt here are good ones', async () => {
  for (const request of [...requests, ...originals]) expect(await judgeMutant(request)).toBe('accepted');
});

test('a request is refused whichever one of its bits is flipped', async () => {
  let inputs = 0;
  for (const original of originals) {
    for (let bit = 0; bit < original.length * 8; bit += 1) {
      const mutant = Buffer.from(original);
      mutant.writeUInt8(mutant.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      expect(await judgeMutant(mutant), `bit ${bit}`).toBe('refused');
      inputs += 1;
    }
  }
  expect(inputs).toBeGreaterThan(10_000);
});

test('a request is refused wherever it is cut, and wherever a byte is missing or too many', async () => {
  for (const original of originals) {
    for (let position = 0; position < original.length; position += 1) {
      const [before, from, after] = [
        original.subarray(0, position),
        original.subarray(position),
        original.subarray(position + 1),
      ];
      expect(await judgeMutant(before), `cut at ${position}`).toBe('refused');
      expect(await judgeMutant(Buffer.concat([before, after])), `without ${position}`).toBe('refused');
      expect(await judgeMutant(Buffer.concat([before, Buffer.of(0), from])), `more at ${position}`).toBe('refused');
    }
  }
});

type Edit = { at: number; kind: 'flip' | 'set' | 'cut' | 'insert' | 'copy'; bytes: Uint8Array; length: number };

/** `at` runs from 0 to 1 over the length, so that an edit means the same in a short and in a long request. */
const edit: Arbitrary<Edit> = record({
  at: double({ min: 0, max: 1, noNaN: true }),
  kind: constantFrom('flip', 'set', 'cut', 'insert', 'copy'),
  bytes: uint8Array({ minLength: 1, maxLength: 6 }),
  length: integer({ min: 1, max: 40 }),
});

function apply(input: Buffer, { at, kind, bytes, length }: Edit): Buffer {
  const position = Math.floor(at * input.length);
  const [before, after] = [input.subarray(0, position), input.subarray(position)];
  if (kind === 'cut') return Buffer.concat([before, after.subarray(length)]);
  if (kind === 'insert') return Buffer.concat([before, bytes, after]);
  if (kind === 'copy') return Buffer.concat([before, after.subarray(0, length), after]);
  const changed = bytes.map((byte, index) => (kind === 'flip' ? byte ^ (after[index] ?? 0) : byte));
  return Buffer.concat([before, changed, after.subarray(bytes.length)]);
}

const edits = array(edit, { minLength: 1, maxLength: 4 });
const which = nat(requests.length - 1);

test('whatever several edits make of a request in DER, it is judged, and accepted only if openssl takes it too', async () => {
  const property = asyncProperty(which, edits, async (index, changes) => {
    await judgeMutant(changes.reduce(apply, originals[index] ?? Buffer.of()));
  });
  await expect(assert(property, { numRuns: 12_000 })).resolves.toBeUndefined();
});

test('whatever several edits make of a request in PEM, it is judged, and accepted only if openssl takes it too', async () => {
  const property = asyncProperty(which, edits, async (index, changes) => {
    await judgeMutant(changes.reduce(apply, Buffer.from(requests[index] ?? '')).toString('latin1'));
  });
  await expect(assert(property, { numRuns: 5000 })).resolves.toBeUndefined();
});

/** One value somewhere in a request, by its place in reading order, with another tag or other contents. */
const replacement = record({
  place: nat(60),
  tag: constantFrom(...Object.values(tags)),
  contents: uint8Array({ maxLength: 8 }),
});

test('a request that is rightly signed is judged, whatever stands in its values', async () => {
  const property = asyncProperty(array(replacement, { minLength: 1, maxLength: 3 }), async (replacements) => {
    const info = replacements.reduce<Uint8Array>(replaceValue, signedPart(originals[1] ?? Buffer.of()));
    const csr = sequence(info, ecdsaWithSha256, bitString(sign('sha256', info, p256)));
    expect(await verdictOn(csr, { expectedNames: ['pump-1'] })).not.toMatch(/unreadable|wrong-signature/);
  });
  await expect(assert(property, { numRuns: 2000 })).resolves.toBeUndefined();
});

test.each([
  ['white space', `-----BEGIN CERTIFICATE REQUEST-----${' '.repeat(32_000)}`],
  ['white space before the block', `${' '.repeat(32_000)}x`],
  ['labels', '-----BEGIN '.repeat(2900)],
  ['dashes', '-'.repeat(32_000)],
  ['base64 without an end', `-----BEGIN CERTIFICATE REQUEST-----${'A\n'.repeat(15_000)}`],
  ['empty values', Buffer.concat([Buffer.of(0x30, 0x82, 0x3f, 0xfc), Buffer.alloc(0x3ffc, Buffer.of(0x05, 0x00))])],
])('much of one thing does not take long to refuse: %s', async (_, input) => {
  expect(await judgeMutant(input)).toBe('refused');
});

type Replacement = { place: number; tag: number; contents: Uint8Array };

function replaceValue(der: Uint8Array, { place, tag, contents }: Replacement): Uint8Array {
  let position = 0;
  const rewrite = (element: Element): Uint8Array => {
    position += 1;
    if (position === place) return encode(tag, contents);
    return element.children.length > 0 ? encode(element.tag, ...element.children.map(rewrite)) : element.bytes;
  };
  try {
    return rewrite(decode(der));
  } catch {
    return der;
  }
}
