import type { X509Certificate } from 'node:crypto';

import { decode, hex, tags } from './der.ts';
import { oids } from './object-identifiers.ts';

/** Authorities between a device and the one that is registered. */
const intermediatesMax = 4;

/**
 * The anchor that a certificate chains to, over the certificates that were shown with it: each was signed by the next, which
 * is an authority, in its time, and lets as many follow below it (RFC 5280 6.1). It names the anchor of a chain that the
 * handshake has proven, and does not stand in for that proof: names that a chain is limited to are not looked at here.
 */
export function findAnchor<Anchor extends { certificate: X509Certificate }>(
  leaf: X509Certificate,
  { shown, anchors, now = new Date() }: { shown: X509Certificate[]; anchors: Anchor[]; now?: Date },
): Anchor | undefined {
  const climb = (below: X509Certificate, depth: number): Anchor | undefined => {
    const anchor = anchors.find(({ certificate }) => vouches(certificate, below, { depth, now }));
    if (anchor || depth >= intermediatesMax) return anchor;
    for (const next of shown) {
      const found = vouches(next, below, { depth, now }) && climb(next, depth + 1);
      if (found) return found;
    }
    return undefined;
  };
  return climb(leaf, 0);
}

function vouches(issuer: X509Certificate, subject: X509Certificate, { depth, now }: { depth: number; now: Date }) {
  if (!issuer.ca || issuer.validFromDate > now || issuer.validToDate <= now) return false;
  if (pathLengthOf(issuer.raw) < depth) return false;
  return subject.checkIssued(issuer) && subject.verify(issuer.publicKey);
}

/** How many authorities may stand between this one and a leaf (RFC 5280 4.2.1.9). What cannot be read lets none. */
function pathLengthOf(der: Uint8Array): number {
  try {
    const extensions = decode(der).children[0]?.children.find(({ tag }) => tag === tags.context3)?.children[0];
    const constraints = extensions?.children.find(
      ({ children: [id] }) => id && hex(id.contents) === oids.basicConstraints,
    );
    const value = constraints?.children.at(-1);
    const limit = value && decode(value.contents).children.find(({ tag }) => tag === tags.integer);
    return limit ? Number(`0x${hex(limit.contents)}`) : Infinity;
  } catch {
    return -1;
  }
}
