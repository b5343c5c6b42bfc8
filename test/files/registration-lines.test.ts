import { array, assert, constantFrom, integer, nat, property, string, tuple, uint8Array } from 'fast-check';
import { describe, expect, test } from 'vitest';
import { csv } from '../../files/csv.ts';
import { createLineReader, lineBytesMax, type Format, type Line } from '../../files/lines.ts';
import { ndjson } from '../../files/ndjson.ts';
import { judgeHeader, judgeObject, judgeRow, type Judged } from '../../files/registration-lines.ts';

/** All lines of the file, which comes in pieces of that many bytes. */
function readAll<Said>(format: Format<Said>, file: Buffer, bytes = file.length || 1): Line<Said>[] {
  const reader = createLineReader(format, { offset: 0, line: 1 });
  const lines: Line<Said>[] = [];
  for (let at = 0; at === 0 || at < file.length; at += bytes) {
    lines.push(...reader.read(file.subarray(at, at + bytes), at + bytes >= file.length));
  }
  return lines;
}

const said = <Said>(lines: Line<Said>[]) => lines.map((line) => ('said' in line ? line.said : line.fault.code));
const code = (judged: Judged) => ('fault' in judged ? judged.fault.code : 'accepted');

describe('a CSV', () => {
  const file = Buffer.from('a,"x\r\n""y""",c\r\n\r\nb,"q"z,c\nd,é\n,"never closed\ne,f,g\nl,"ok",3');

  test('is read by RFC 4180; a line whose quotes are at fault is given up alone', () => {
    const lines = readAll(csv, file);
    expect(said(lines)).toEqual([
      ['a', 'x\r\n"y"', 'c'],
      'bad-quotes',
      ['d', 'é'],
      'bad-quotes',
      ['e', 'f', 'g'],
      ['l', 'ok', '3'],
    ]);
    expect(lines.map(({ line }) => line)).toEqual([1, 4, 5, 6, 7, 8]);
  });

  test('is the same in whatever pieces it comes, and from whatever line on', () => {
    const whole = readAll(csv, file);
    for (let bytes = 1; bytes < file.length; bytes += 1) expect(readAll(csv, file, bytes)).toEqual(whole);
    for (const [index, { end }] of whole.entries()) {
      const reader = createLineReader(csv, end);
      expect(reader.read(file.subarray(end.offset), true)).toEqual(whole.slice(index + 1));
    }
  });

  test('has lines that are too long refused, and is read on behind them', () => {
    const long = 'x'.repeat(lineBytesMax);
    for (const text of [`a\n${long}x\nb\n`, `a\n${','.repeat(3 * lineBytesMax)}\nb`, `a\n"${long}${long}"\nb\n`]) {
      for (const bytes of [text.length, 4_096]) {
        const lines = readAll(csv, Buffer.from(text), bytes);
        expect(said(lines).at(0)).toEqual(['a']);
        expect(said(lines).at(-1)).toEqual(['b']);
        expect(said(lines).slice(1, -1)).toEqual([expect.stringMatching(/too-long|bad-quotes/)]);
        expect(lines.at(-1)?.line).toBe(3);
      }
    }
    expect(said(readAll(csv, Buffer.from(`${long}\nb`)))).toEqual(['line-too-long', ['b']]);
  });
});

test('NDJSON is read line by line, and a line that is none is given up alone', () => {
  const file = Buffer.concat([
    Buffer.from('{"name":"a"}\r\n\n{"name"\n[1]\n"'),
    Buffer.of(0xff),
    Buffer.from('"\n{"name":"é"}'),
  ]);
  const whole = readAll(ndjson, file);
  expect(said(whole)).toEqual([{ name: 'a' }, 'bad-json', [1], 'bad-encoding', { name: 'é' }]);
  expect(whole.map(({ line }) => line)).toEqual([1, 3, 4, 5, 6]);
  for (let bytes = 1; bytes < file.length; bytes += 1) expect(readAll(ndjson, file, bytes)).toEqual(whole);
});

test.each([
  [['name', 'serial', 'certificate', 'fingerprint', 'groups', 'attributes.site'], undefined],
  [['name', 'colour'], /"colour"/],
  [['Name'], /"Name"/],
  [['name;serial'], /commas/],
  [['serial'], /no column called name/],
  [['name', 'name'], /twice/],
  [['name', 'attributes.'], /attributes\./],
  [Array.from({ length: 60 }, (_, index) => `attributes.a${index}`), /at most 55/],
])('a header is held to its rules: %j', (header, fault) => {
  if (fault) expect(judgeHeader(header)).toMatch(fault);
  else expect(judgeHeader(header)).toBeUndefined();
});

const header = ['name', 'serial', 'fingerprint', 'groups', 'attributes.site'];
const hex = 'AB'.repeat(32);
test.each([
  [['pump-1', 'SN 1', hex, 'a; b', 'Köln'], 'accepted'],
  [['pump-1', '', '', '', ''], 'accepted'],
  [['pump-1', '', '', ''], 'bad-columns'],
  [['pump-1', '', '', '', '', ''], 'bad-columns'],
  [['', '', '', '', ''], 'bad-name'],
  [['=cmd()', '', '', '', ''], 'bad-name'],
  [['@SUM(A1)', '', '', '', ''], 'bad-name'],
  [['-1', '', '', '', ''], 'bad-name'],
  [['a\0b', '', '', '', ''], 'bad-name'],
  [['a/b', '', '', '', ''], 'bad-name'],
  [['pump-1', 'a\0b', '', '', ''], 'bad-attribute'],
  [['pump-1', '', '', '', 'x'.repeat(801)], 'bad-attribute'],
  [['pump-1', '', '', '', '\ufffd'], 'bad-encoding'],
  [['pump-1', '', hex.slice(1), '', ''], 'bad-fingerprint'],
  [['pump-1', '', '', 'a b', ''], 'bad-group'],
])('a row is held to its rules: %j', (row, expected) => {
  expect(code(judgeRow(header, row))).toBe(expected);
});

test('a serial is an attribute, and an empty field says nothing', () => {
  expect(judgeRow(header, ['pump-1', 'SN 1', hex, 'a; b', ''])).toEqual({
    asked: { name: 'pump-1', attributes: { serial: 'SN 1' }, groups: ['a', 'b'], fingerprint: hex.toLowerCase() },
  });
});

test.each([
  [{ name: 'pump-1', attributes: { site: 'x' }, groups: ['a'] }, 'accepted'],
  [{ name: 'pump-1', serial: 'x', attributes: { serial: 'y' } }, 'bad-attribute'],
  [{ name: 'pump-1', colour: 'red' }, 'unknown-field'],
  [{ name: 1 }, 'bad-json'],
  [{ name: 'pump-1', attributes: { site: 1 } }, 'bad-json'],
  [{ name: 'pump-1', attributes: [] }, 'bad-json'],
  [{ name: 'pump-1', groups: 'a' }, 'bad-json'],
  [JSON.parse('{"name":"pump-1","attributes":{"__proto__":"x"}}'), 'bad-attribute'],
  [JSON.parse('{"name":"pump-1","__proto__":"x"}'), 'unknown-field'],
  [[], 'bad-json'],
  [null, 'bad-json'],
  ['pump-1', 'bad-json'],
])('an object is held to its rules: %j', (object: unknown, expected) => {
  expect(code(judgeObject(object))).toBe(expected);
});

describe('twenty thousand broken files', () => {
  const piece = constantFrom(
    'name',
    'pump-1',
    ',',
    '"',
    '""',
    '\n',
    '\r\n',
    '\r',
    '\0',
    '{',
    '}',
    '{"name":"a"}',
    ':',
    '[',
    '=1+1',
    '\ufeff',
    'é',
  );
  const text = array(tuple(piece, string({ maxLength: 3 })), { maxLength: 12 });
  const files = tuple(text, uint8Array({ maxLength: 12 }), nat(40), integer({ min: 1, max: 9 }));

  test.each([
    [
      'CSV',
      (file: Buffer, bytes?: number) =>
        readAll(csv, file, bytes).map((line) => ({ ...line, judged: 'said' in line && judgeRow(header, line.said) })),
    ],
    [
      'NDJSON',
      (file: Buffer, bytes?: number) =>
        readAll(ndjson, file, bytes).map((line) => ({ ...line, judged: 'said' in line && judgeObject(line.said) })),
    ],
  ])('of %s are each judged, the same in whatever pieces they come, and leave nothing in memory', (_, read) => {
    const judged = property(files, ([parts, bytes, at, size]) => {
      const whole = Buffer.from(parts.flat().join(''));
      const file = Buffer.concat([whole.subarray(0, at), bytes, whole.subarray(at)]);
      const lines = read(file);
      expect(read(file, size)).toEqual(lines);
      expect(lines.at(-1)?.end.offset ?? 0).toBeLessThanOrEqual(file.length);
    });
    assert(judged, { numRuns: 500 });
    globalThis.gc?.();
    const before = process.memoryUsage().arrayBuffers;
    assert(judged, { numRuns: 9_500 });
    globalThis.gc?.();
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(64 * 1024 ** 2);
  });
});
