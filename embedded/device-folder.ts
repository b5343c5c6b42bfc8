import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeKeyPair } from '../pki/keys.ts';
import { openSuccessor, type Successor } from './device-successor.ts';

/** What a device knows of itself. Without a name it has still to enrol. */
export type DeviceState = {
  name?: string;
  /** The template's map of strings, taken as it came. */
  configuration?: unknown;
  /** Held between the certificate and the registration, so that a restart goes on where it was. */
  ownershipToken?: string;
  /** True since the first connection with its own certificate. */
  activated?: boolean;
  /** How many times its certificate was replaced; the files of key and certificate have this number. */
  generation?: number;
  /** Of the certificate that it lives by. */
  certificateId?: string;
  /** Of the one that is to replace it, once that is on the disk. */
  successorId?: string;
};

/** The roots that a device trusts, by the fleet's order. */
export type TrustBundle = { version: number; certificatesPem: string };

export type DeviceFolder = {
  /** The key that it lives by. */
  privateKey(): string;
  certificate(): string | undefined;
  keepCertificate(pem: string): void;
  /** What is to replace both. */
  successor: Successor;
  /** In place of what it left the factory with; undefined while that is good. */
  trustBundle(): TrustBundle | undefined;
  keepTrustBundle(bundle: TrustBundle): void;
  state(): DeviceState;
  keepState(state: DeviceState): void;
  /** Back to what it was when it left the factory, except for its key. */
  forgetIdentity(): void;
  readJournal(): string[];
  appendJournal(line: string): void;
  replaceJournal(lines: string[]): void;
};

const secret = { mode: 0o600 };

/**
 * The disk of one device: mode 700, its files 600. Keys are made here and never leave. Files are replaced whole, so that a
 * device killed at any moment finds the old content or the new.
 */
export function openDeviceFolder(folder: string): DeviceFolder {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const file = (name: string) => join(folder, name);
  const read = (name: string) => (existsSync(file(name)) ? readFileSync(file(name), 'utf8') : undefined);
  const replace = (name: string, content: string) => {
    writeFileSync(file(`${name}.new`), content, { ...secret, flush: true });
    renameSync(file(`${name}.new`), file(name));
    return content;
  };
  const remove = (name: string) => rmSync(file(name), { force: true });

  // Only `keepState` below writes this file.
  let state: DeviceState = JSON.parse(read('device.json') ?? '{}');
  const keepState = (next: DeviceState) => {
    replace('device.json', `${JSON.stringify(next, null, 2)}\n`);
    state = next;
  };
  const keyOf = (generation = 0) => {
    const name = keyFile(generation);
    return read(name) ?? replace(name, makeKeyPair().privateKeyPem);
  };
  keyOf(state.generation);

  return {
    privateKey: () => keyOf(state.generation),
    certificate: () => read(certificateFile(state.generation)),
    keepCertificate: (pem) => void replace(certificateFile(state.generation), pem),
    successor: openSuccessor({ state: () => state, keepState, keyOf, read, replace, remove }),
    trustBundle() {
      const text = read('trust-bundle.json');
      // Only `keepTrustBundle` writes it, whole or not at all.
      return text === undefined ? undefined : (JSON.parse(text) as TrustBundle);
    },
    keepTrustBundle: (bundle) => void replace('trust-bundle.json', `${JSON.stringify(bundle, null, 2)}\n`),
    state: () => state,
    keepState,
    forgetIdentity() {
      remove(certificateFile(state.generation));
      keepState({ generation: state.generation ?? 0 });
    },
    readJournal: () => (read('journal.ndjson') ?? '').split('\n').filter(Boolean),
    appendJournal: (line) => appendFileSync(file('journal.ndjson'), `${line}\n`, secret),
    replaceJournal: (lines) => void replace('journal.ndjson', lines.map((line) => `${line}\n`).join('')),
  };
}

export const keyFile = (generation = 0) => (generation === 0 ? 'private-key.pem' : `private-key-${generation}.pem`);
export const certificateFile = (generation = 0) =>
  generation === 0 ? 'certificate.pem' : `certificate-${generation}.pem`;
