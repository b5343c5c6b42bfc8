import { parseArgs, type ParseArgsOptionsConfig } from 'node:util';
import type { ReleaseAlgorithm } from '../pki/release-keys.ts';

export type Keygen = {
  command: 'keygen';
  out: string;
  publicOut: string;
  algorithm: ReleaseAlgorithm;
  passphraseFile: string | undefined;
};

export type Sign = {
  command: 'sign';
  key: string;
  passphraseFile: string | undefined;
  artifact: string;
  product: string;
  version: string;
  counter: number;
  hardware: string[];
  allowedFrom: string[] | undefined;
  downgrade: boolean;
  /** Of the file on the device; the artifact's own when it is not said. */
  name: string | undefined;
  /** RFC 3339. */
  expires: string;
  /** Printed when it is not said. */
  out: string | undefined;
};

export type Verify = { command: 'verify'; keys: string[]; manifest: string; artifact: string | undefined };

/** It was not called in a way that it knows; the message says what is wrong. */
export class UsageError extends Error {
  override name = 'UsageError';
}

const dayMs = 86_400_000;
const text = { type: 'string' } as const;
const texts = { type: 'string', multiple: true } as const;
const yes = { type: 'boolean' } as const;

/** Undefined when help was asked for. */
export function parseSignOptions(args: string[]): Keygen | Sign | Verify | undefined {
  const [command, ...rest] = args;
  if (command === undefined || rest.includes('--help') || ['--help', '-h', 'help'].includes(command)) return undefined;
  if (command === 'keygen') return parseKeygen(rest);
  if (command === 'sign') return parseSign(rest);
  if (command === 'verify') return parseVerify(rest);
  throw new UsageError(`there is no command "${command}": keygen, sign and verify are known`);
}

function parseKeygen(args: string[]): Keygen {
  const flags = readFlags(args, { out: text, 'public-out': text, algorithm: text, 'passphrase-file': text });
  const { algorithm = 'ES256' } = flags;
  if (algorithm !== 'ES256' && algorithm !== 'EdDSA') throw new UsageError('--algorithm is ES256 or EdDSA');
  const out = needed('--out', flags.out);
  const publicOut = flags['public-out'] ?? `${out}.pub`;
  return { command: 'keygen', out, publicOut, algorithm, passphraseFile: flags['passphrase-file'] };
}

function parseSign(args: string[]): Sign {
  const flags = readFlags(args, {
    key: text,
    'passphrase-file': text,
    artifact: text,
    product: text,
    version: text,
    counter: text,
    hardware: texts,
    'allowed-from': texts,
    downgrade: yes,
    name: text,
    expires: text,
    'expires-in-days': text,
    out: text,
  });
  return {
    command: 'sign',
    key: needed('--key', flags.key),
    passphraseFile: flags['passphrase-file'],
    artifact: needed('--artifact', flags.artifact),
    product: needed('--product', flags.product),
    version: needed('--version', flags.version),
    counter: whole('--counter', needed('--counter', flags.counter)),
    hardware: needed('--hardware', flags.hardware),
    allowedFrom: flags['allowed-from'],
    downgrade: flags.downgrade ?? false,
    name: flags.name,
    expires: expiryOf(flags.expires, flags['expires-in-days']),
    out: flags.out,
  };
}

function parseVerify(args: string[]): Verify {
  const flags = readFlags(args, { key: texts, manifest: text, artifact: text });
  const keys = needed('--key', flags.key);
  return { command: 'verify', keys, manifest: needed('--manifest', flags.manifest), artifact: flags.artifact };
}

function readFlags<Options extends ParseArgsOptionsConfig>(args: string[], options: Options) {
  try {
    return parseArgs({ args, options, strict: true }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function needed<Value>(flag: string, given: Value | undefined): Value {
  if (given === undefined) throw new UsageError(`${flag} is needed`);
  return given;
}

function whole(flag: string, given: string): number {
  const number = /^\d+$/.test(given) ? Number(given) : Number.NaN;
  if (!Number.isSafeInteger(number)) throw new UsageError(`${flag} is a whole number below 2^53, not "${given}"`);
  return number;
}

function expiryOf(expires: string | undefined, days: string | undefined): string {
  if (expires !== undefined && days !== undefined)
    throw new UsageError('--expires and --expires-in-days exclude each other');
  if (expires !== undefined) return expires;
  const count = whole('--expires-in-days', needed('--expires or --expires-in-days', days));
  if (count < 1 || count > 36_525) throw new UsageError('--expires-in-days is 1 to 36525');
  return new Date(Math.floor((Date.now() + count * dayMs) / 1_000) * 1_000).toISOString();
}

export const usage = `longhaul-sign: keys and manifests for releases, offline.

  longhaul-sign keygen --out FILE [--algorithm ES256|EdDSA] [--passphrase-file FILE] [--public-out FILE]
      Makes a release key: the private half in FILE (mode 600), the public half in FILE.pub. Prints its id, which
      POST /v1/release-keys answers as well. Files that are there are never overwritten.

  longhaul-sign sign --key FILE --artifact FILE --product NAME --version TEXT --counter N
                     --hardware TEXT [--hardware TEXT ...] (--expires TIME | --expires-in-days N)
                     [--allowed-from VERSION ...] [--downgrade] [--name TEXT] [--passphrase-file FILE] [--out FILE]
      Signs what the artifact is good for. Prints the manifest, or writes it to FILE: what POST /v1/releases takes.
      --counter          decides alone what may replace what: never less than that of a release before
      --downgrade        says that a lower counter is meant
      --allowed-from     only from these versions; from any when none is named
      --name             of the file on the device (the artifact's own)
      --expires          such as 2027-01-01T00:00:00Z

  longhaul-sign verify --key FILE.pub [--key FILE.pub ...] --manifest FILE [--artifact FILE]
      Checks a manifest by public keys, and the artifact by the manifest. Prints what it says.

It ends with 0; with 1 when something is refused; with 2 when a flag is wrong.`;
