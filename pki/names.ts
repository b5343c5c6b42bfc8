import { isIP } from 'node:net';

import { decode, encode, objectIdentifier, sequence, tags } from './der.ts';
import { oids } from './object-identifiers.ts';

/**
 * Whom a certificate names, by its profile. A device whose name is not decided yet is named by its certificate; a
 * server by its DNS names and IP addresses.
 */
export type NamedProfile =
  | { profile: 'device'; subject: { device: string } | { certificate: string } }
  | { profile: 'claim'; subject: { claim: string } }
  | { profile: 'service'; subject: { service: string } }
  | { profile: 'server'; subject: { server: string[] } };

export type Profile = NamedProfile['profile'];

/** ub-common-name of RFC 5280 A.1. */
const commonNameMax = 64;
const name = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}$/;
const certificateName = /^[0-9a-f]{64}$/;
const hostName = /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?)*$/i;

/** The names that go into a certificate: its common name, and either one URI or the addresses of a server. */
export type Names = { commonName: string } & ({ uri: string } | { hosts: string[] });

export const deviceUri = (device: string): string => `urn:longhaul:device:${device}`;

/** Throws a RangeError for a name that was not checked where it came in: such a name is never certified. */
export function namesOf({ subject }: NamedProfile): Names {
  if ('device' in subject) return { commonName: checked(subject.device, name), uri: deviceUri(subject.device) };
  if ('certificate' in subject) return named('certificate', checked(subject.certificate, certificateName));
  if ('claim' in subject) return named('claim', checked(subject.claim, name));
  if ('service' in subject) return named('service', checked(subject.service, name));
  return serverNames(subject.server);
}

const named = (kind: string, commonName: string): Names => ({
  commonName,
  uri: `urn:longhaul:${kind}:${commonName}`,
});

/** A distinguished name of one common name. Any text stays one value: there is no syntax in it that could be read. */
export const encodeName = (commonName: string): Buffer =>
  sequence(
    encode(
      tags.set,
      sequence(objectIdentifier(oids.commonName), encode(tags.utf8String, Buffer.from(commonName, 'utf8'))),
    ),
  );

/**
 * The subject of a certificate in its very bytes, as what it issues repeats them. Before it stand version, serial,
 * algorithm, issuer and validity.
 */
export function subjectOf(certificate: Uint8Array): Uint8Array {
  const subject = decode(certificate).children[0]?.children[5];
  if (!subject) throw new Error('The certificate has no subject');
  return subject.bytes;
}

function serverNames(hosts: string[]): Names {
  for (const host of hosts) if (!isIP(host)) checked(host, hostName);
  const commonName = hosts.find((host) => host.length <= commonNameMax);
  if (!commonName) throw new RangeError(`A server certificate needs a name of at most ${commonNameMax} characters`);
  return { commonName, hosts };
}

function checked(value: string, pattern: RegExp): string {
  if (!pattern.test(value)) throw new RangeError(`A name that may not be certified: ${JSON.stringify(value)}`);
  return value;
}
