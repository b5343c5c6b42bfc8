import { X509Certificate } from 'node:crypto';
import { expect, test } from 'vitest';
import { findAnchor } from '../../pki/chains.ts';
import { makeCertificate, makeRoot, type Made } from '../support/manufacturers.ts';

const read = ({ pem }: Made) => new X509Certificate(pem);
const chains = (leaf: Made, between: Made[], root: Made, now = new Date()) =>
  findAnchor(read(leaf), { shown: between.map(read), anchors: [{ certificate: read(root) }], now }) !== undefined;

test('a certificate chains to its root, directly and over what was shown, in any order', () => {
  const root = makeRoot();
  const first = makeCertificate({ authority: true, issuer: root });
  const second = makeCertificate({ authority: true, issuer: first, pathLength: 0 });
  expect(chains(makeCertificate({ issuer: root }), [], root)).toBe(true);
  const leaf = makeCertificate({ issuer: second });
  expect(chains(leaf, [second, first], root)).toBe(true);
  expect(chains(leaf, [root, first, second], root)).toBe(true);
  expect(chains(leaf, [second], root)).toBe(false);
  expect(chains(leaf, [second, first], makeRoot())).toBe(false);
});

test('a leaf is no authority, and a path is no longer than each of its authorities lets it be', () => {
  const root = makeRoot({ pathLength: 0 });
  const device = makeCertificate({ issuer: root });
  expect(chains(makeCertificate({ issuer: device }), [device], root)).toBe(false);
  const between = makeCertificate({ authority: true, issuer: root });
  expect(chains(makeCertificate({ issuer: between }), [between], root)).toBe(false);
});

test('an authority of the same name with another key vouches for nobody', () => {
  const root = makeRoot();
  const twin = makeRoot({ subject: root.subject });
  const anchors = [{ certificate: read(twin) }, { certificate: read(root) }];
  expect(findAnchor(read(makeCertificate({ issuer: root })), { shown: [], anchors })).toBe(anchors[1]);
  expect(chains(makeCertificate({ issuer: twin }), [], root)).toBe(false);
});

test('nobody vouches outside of his time', () => {
  const root = makeRoot({ notAfter: new Date('2040-01-01') });
  const leaf = makeCertificate({ issuer: root, notAfter: new Date('9999-12-31T23:59:59Z') });
  expect(chains(leaf, [], root, new Date('2039-12-31'))).toBe(true);
  expect(chains(leaf, [], root, new Date('2040-01-02'))).toBe(false);
  expect(chains(leaf, [], root, new Date('2020-01-01'))).toBe(false);
});
