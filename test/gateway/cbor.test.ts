import { decode, Encoder } from 'cbor-x';
import { describe, expect, test } from 'vitest';
import { readCbor, writeCbor } from '../../gateway/cbor.ts';

const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');
const read = (text: string) => readCbor(hex(text), 1_000);
const encoder = new Encoder({ useRecords: false, mapsAsObjects: true, variableMapSize: true, tagUint8Array: false });

test.each([
  ['nothing', '', {}],
  ['an empty map', 'a0', {}],
  ['an empty map of indefinite length', 'bf ff', {}],
  [
    'what tinycbor writes',
    'a1 6a 706172616d6574657273 a1 66 53657269616c 63 312d32',
    { parameters: { Serial: '1-2' } },
  ],
  [
    "what AWS's embedded C demo registers with, byte for byte",
    'a2 7819 63657274696669636174654f776e657273686970546f6b656e 65 746f6b2d31 6a 706172616d6574657273 a1 6c 53657269616c4e756d626572 64 534e2d31',
    { certificateOwnershipToken: 'tok-1', parameters: { SerialNumber: 'SN-1' } },
  ],
  ['a text in parts', 'bf 6161 7f 626263 6164 ff ff', { a: 'bcd' }],
  ['a key in parts', 'a1 7f 6161 6162 ff 01', { ab: 1 }],
  [
    'lists, numbers and names of values',
    'a1 6161 9f 18ff 20 f5 f4 f6 f93c00 ff',
    { a: [255, -1, true, false, null, 1] },
  ],
  ['a length that is longer than need be', 'b8 01 7801 61 1900 05', { a: 5 }],
])('%s is read', (_, bytes, value) => {
  expect(read(bytes)).toEqual({ value });
});

test.each([
  ['a tag', 'a1 6161 c0 6130', 'a tag'],
  ['a key twice', 'a2 6161 01 6161 02', 'twice'],
  ['a key twice, once in parts', 'a2 6161 01 7f 6161 ff 02', 'twice'],
  ['a key that is a number', 'a1 01 02', 'not text'],
  ['a byte string', 'a1 6161 4100', 'byte string'],
  ['a byte string in a text', 'a1 6161 7f 4161 ff', 'parts of another kind'],
  ['a text in parts in a text in parts', 'a1 6161 7f 7f 6161 ff ff', 'parts of another kind'],
  ['half a character', 'a1 6161 61c3', 'UTF-8'],
  ['a character across parts', 'a1 6161 7f 61c3 61a9 ff', 'UTF-8'],
  ['what is cut short', 'a1 6161', 'cut short'],
  ['a text that is longer than all', 'a1 6161 7b 0000000100000000', 'cut short'],
  ['a length beyond numbers', 'bb ffffffffffffffff', 'too large'],
  ['a map without an end', 'bf 6161 01', 'cut short'],
  ['bytes after the end', 'a0 00', 'follow the end'],
  ['an end without a beginning', 'a1 6161 ff', 'no kind'],
  ['a reserved form of length', 'a1 6161 1c', 'no form'],
  ['a simple value without a name', 'a1 6161 f820', 'no kind'],
  ['a list', '80', 'not a CBOR map'],
])('%s is refused', (_, bytes, words) => {
  expect(read(bytes)).toMatchObject({ fault: { detail: expect.stringContaining(words) } });
});

test('what is too deep, too many or too large is refused', () => {
  expect(read(`a1 6161 ${'81'.repeat(40)} 01`)).toMatchObject({ fault: { detail: expect.stringContaining('levels') } });
  expect(read(`a1 6161 ${'9f'.repeat(500)}`)).toMatchObject({ fault: { detail: expect.stringContaining('levels') } });
  expect(readCbor(hex(`a1 6161 9f ${'00'.repeat(2_000)} ff`), 10_000)).toMatchObject({
    fault: { detail: expect.stringContaining('more than 1000') },
  });
  expect(readCbor(Buffer.alloc(1_001), 1_000)).toMatchObject({ fault: { code: 'InvalidRequest' } });
});

test('a key called __proto__ is a key like any other', () => {
  const { value } = read('a1 69 5f5f70726f746f5f5f a1 6161 01') as { value: object };
  expect(Object.keys(value)).toEqual(['__proto__']);
  expect(Object.getPrototypeOf(value)).toBe(Object.prototype);
});

describe('an answer', () => {
  const answer = { thingName: 'p'.repeat(300), statusCode: 503, large: 70_000, deviceConfiguration: { a: 'ü', b: '' } };

  test('is read by another codec as it was meant, and by ours', () => {
    expect(decode(writeCbor(answer))).toEqual(answer);
    expect(readCbor(writeCbor(answer), 10_000)).toEqual({ value: answer });
  });

  test('is a map of definite length with texts as keys, in the shortest form', () => {
    expect(writeCbor({ statusCode: 403 }).toString('hex')).toBe('a16a737461747573436f6465190193');
  });
});

/** The same every time. */
function random(seed: number) {
  let state = seed;
  return (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

test('20,000 payloads that were tampered with are each read or refused, and leave no memory behind', () => {
  const pick = random(7);
  const originals = [
    encoder.encode({ certificateSigningRequest: 'x'.repeat(500) }),
    encoder.encode({ certificateOwnershipToken: 'y'.repeat(43), parameters: { SerialNumber: '1', n: 2, deep: [[1]] } }),
    hex('bf 6a 706172616d6574657273 bf 6161 7f 6162 6163 ff ff ff'),
  ];
  const tampered = () => {
    const bytes = Buffer.from(originals[pick(originals.length)] ?? []);
    for (let left = 1 + pick(6); left > 0; left -= 1) bytes[pick(bytes.length)] = pick(256);
    return bytes.subarray(0, pick(4) === 0 ? pick(bytes.length) : bytes.length);
  };
  const outcomes = { value: 0, fault: 0 };
  const work = (times: number) => {
    for (let time = 0; time < times; time += 1)
      outcomes['value' in readCbor(tampered(), 65_536) ? 'value' : 'fault'] += 1;
  };
  work(5_000);
  const before = process.memoryUsage().heapUsed;
  work(15_000);
  expect(outcomes.value + outcomes.fault).toBe(20_000);
  expect(Math.min(outcomes.value, outcomes.fault)).toBeGreaterThan(1_000);
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(64 * 1024 ** 2);
});
