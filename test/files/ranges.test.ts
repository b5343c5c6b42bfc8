import { describe, expect, test } from 'vitest';
import { select } from '../../files/ranges.ts';

const etag = '"abc"';
const content = { size: 1_000, etag };
const get = (conditions: Parameters<typeof select>[2], size = 1_000) => select('GET', { size, etag }, conditions);

describe('a range (RFC 9110 14.1.2)', () => {
  test.each([
    ['bytes=0-499', [[0, 499]]],
    ['bytes=500-', [[500, 999]]],
    ['bytes=-1', [[999, 999]]],
    ['bytes=-5000', [[0, 999]]],
    ['bytes=999-99999', [[999, 999]]],
    [
      'bytes=0-0,-1',
      [
        [0, 0],
        [999, 999],
      ],
    ],
    [
      'bytes=500-600,601-999',
      [
        [500, 600],
        [601, 999],
      ],
    ],
    [
      'bytes=600-999, 0-10',
      [
        [600, 999],
        [0, 10],
      ],
    ],
    [
      'bytes= 0-1 , ,5-6,',
      [
        [0, 1],
        [5, 6],
      ],
    ],
    ['Bytes=1-1', [[1, 1]]],
    ['bytes=0-1,5000-', [[0, 1]]],
  ])('%s is sent', (range, expected) => {
    const ranges = expected.map(([first, last]) => ({ first, last }));
    expect(get({ range })).toEqual({ answer: 'ranges', ranges });
  });

  test.each([
    'bytes=1000-',
    'bytes=-0',
    'bytes=5000-6000,7000-',
    'bytes=99999999999999999999999-',
    'bytes=0-10,5-15',
    'bytes=0-,-1',
    'bytes=0-0,2-2,4-4,6-6,8-8,10-10,12-12,14-14,16-16',
  ])('%s is refused', (range) => {
    expect(get({ range })).toEqual({ answer: 'unsatisfiable' });
  });

  test.each([
    'bytes=',
    'bytes=-',
    'bytes=a-b',
    'bytes=5-1',
    'bytes=0x1-2',
    'bytes=1.5-2',
    'bytes 0-1',
    'lines=0-1',
    '',
    '0-1',
  ])('"%s" is none, and ignored', (range) => {
    expect(get({ range })).toEqual({ answer: 'whole' });
  });

  test('of what is empty is refused; of a HEAD it is ignored', () => {
    expect(get({ range: 'bytes=0-' }, 0)).toEqual({ answer: 'unsatisfiable' });
    expect(get({ range: 'bytes=-1' }, 0)).toEqual({ answer: 'unsatisfiable' });
    expect(select('HEAD', content, { range: 'bytes=0-1' })).toEqual({ answer: 'whole' });
  });

  test('with If-Range is sent only while the content is the very same', () => {
    const range = 'bytes=1-2';
    expect(get({ range, 'if-range': etag })).toMatchObject({ answer: 'ranges' });
    for (const other of ['"abd"', 'W/"abc"', 'abc', 'Sat, 29 Oct 1994 19:43:31 GMT', '*']) {
      expect(get({ range, 'if-range': other }), other).toEqual({ answer: 'whole' });
    }
  });
});

describe('a condition (RFC 9110 13.1)', () => {
  test.each([
    [{ 'if-match': etag }, 'whole'],
    [{ 'if-match': '*' }, 'whole'],
    [{ 'if-match': '"x", "abc"' }, 'whole'],
    [{ 'if-match': '"x"' }, 'changed'],
    [{ 'if-match': 'W/"abc"' }, 'changed'],
    [{ 'if-none-match': etag }, 'unchanged'],
    [{ 'if-none-match': 'W/"abc"' }, 'unchanged'],
    [{ 'if-none-match': '*' }, 'unchanged'],
    [{ 'if-none-match': '"x", "y"' }, 'whole'],
    [{ 'if-match': '"x"', range: 'bytes=0-1' }, 'changed'],
    [{ 'if-none-match': etag, range: 'bytes=0-1' }, 'unchanged'],
  ])('%j is answered as %s', (conditions, answer) => {
    expect(get(conditions)).toEqual({ answer });
  });
});
