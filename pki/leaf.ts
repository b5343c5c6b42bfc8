import { encode, encodeTime, objectIdentifier, sequence, tags } from './der.ts';
import { encodeName, type Names } from './names.ts';
import { oids } from './object-identifiers.ts';
import { ecdsaWithSha256 } from './signed.ts';
import { hostExtension, keyIdentifier } from './x509.ts';

export type Leaf = {
  serial: Uint8Array;
  /** The issuer's name in the very bytes of its certificate. */
  issuer: Uint8Array;
  notBefore: Date;
  notAfter: Date;
  names: Names;
  publicKey: Uint8Array;
  /** Extensions that do not depend on whom the certificate names, encoded one after the other. */
  fixedExtensions: Uint8Array;
};

const version3 = encode(tags.context0, encode(tags.integer, Buffer.of(2)));

/**
 * Encodes a TBSCertificate (RFC 5280 4.1). Written out here and not by the library, which takes many times as long as the
 * signature: a fleet's worth of these is made, while what is the same in all of them the library encodes once.
 */
export const encodeLeaf = (leaf: Leaf): Buffer =>
  sequence(
    version3,
    encode(tags.integer, leaf.serial),
    ecdsaWithSha256,
    leaf.issuer,
    sequence(encodeTime(leaf.notBefore), encodeTime(leaf.notAfter)),
    encodeName(leaf.names.commonName),
    leaf.publicKey,
    encode(
      tags.context3,
      sequence(leaf.fixedExtensions, subjectKeyIdentifier(leaf.publicKey), alternativeNames(leaf.names)),
    ),
  );

const subjectKeyIdentifier = (publicKey: Uint8Array): Buffer =>
  extension(oids.subjectKeyIdentifier, encode(tags.octetString, keyIdentifier(publicKey)));

const alternativeNames = (names: Names): Uint8Array =>
  'hosts' in names
    ? hostExtension(names.hosts)
    : extension(oids.subjectAlternativeName, sequence(encode(tags.uriName, Buffer.from(names.uri, 'latin1'))));

const extension = (id: string, value: Uint8Array): Buffer =>
  sequence(objectIdentifier(id), encode(tags.octetString, value));
