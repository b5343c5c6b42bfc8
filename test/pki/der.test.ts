import { expect, test } from 'vitest';

import { decode, DerFault, encode, sequence, tags } from '../../pki/der.ts';

test.each([0, 1, 127, 128, 255, 256, 65_535, 65_536, 70_000])(
  'a value of %i bytes is read as it was written',
  (length) => {
    const contents = Buffer.alloc(length, 7);
    const element = decode(sequence(encode(tags.octetString, contents)));
    expect(element.children.map((child) => Buffer.from(child.contents))).toEqual([contents]);
  },
);

test.each([
  ['a tag alone', '30'],
  ['a length that runs over the end', '040201'],
  ['a child that runs over the end of its parent', '3003040201'],
  ['a length whose own bytes are missing', '0482'],
  ['a long length of less than 128', '04810100'],
  ['a length with a leading zero', `04820080${'00'.repeat(128)}`],
  ['a length of four bytes', '048401000000'],
  ['the indefinite form', '30800000'],
  ['an end-of-contents mark', '30020000'],
  ['a tag of several bytes', '1f810100'],
  ['a sequence in the primitive form', '1000'],
  ['a string in pieces', '2403040100'],
  ['a truth value of 1', '010101'],
  ['a null with contents', '050100'],
  ['an empty integer', '0200'],
  ['a padded positive integer', '0202007f'],
  ['a padded negative integer', '0202ff80'],
  ['nothing', ''],
  ['a second value', '05000500'],
])('DER has one form for one value: %s is refused', (_, bytes) => {
  expect(() => decode(Buffer.from(bytes, 'hex'))).toThrow(DerFault);
});
