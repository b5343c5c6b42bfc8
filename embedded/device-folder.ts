import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { makeKeyPair } from '../pki/keys.ts';

/** What a device knows of itself. Without a name it has still to enrol. */
export type DeviceState = {
  name?: string;
  /** The template's map of strings, taken as it came. */
  configuration?: unknown;
  /** Held between the certificate and the registration, so that a restart goes on where it was. */
  ownershipToken?: string;
  /** True since the first connection with its own certificate. */
  activated?: boolean;
};

export type DeviceFolder = {
  privateKey: string;
  certificate(): string | undefined;
  keepCertificate(pem: string): void;
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
 * The disk of one device: mode 700, its files 600. The key is made the first time and never leaves. Files are replaced
 * whole, so that a device killed at any moment finds the old content or the new.
 */
export function openDeviceFolder(folder: string): DeviceFolder {
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const file = (name: string) => join(folder, name);
  const read = (name: string) => (existsSync(file(name)) ? readFileSync(file(name), 'utf8') : undefined);
  const replace = (name: string, content: string) => {
    writeFileSync(file(`${name}.new`), content, secret);
    renameSync(file(`${name}.new`), file(name));
    return content;
  };

  // Only `keepState` below writes this file.
  let state: DeviceState = JSON.parse(read('device.json') ?? '{}');
  const keepState = (next: DeviceState) => {
    replace('device.json', `${JSON.stringify(next, null, 2)}\n`);
    state = next;
  };

  return {
    privateKey: read('private-key.pem') ?? replace('private-key.pem', makeKeyPair().privateKeyPem),
    certificate: () => read('certificate.pem'),
    keepCertificate: (pem) => void replace('certificate.pem', pem),
    state: () => state,
    keepState,
    forgetIdentity() {
      keepState({});
      rmSync(file('certificate.pem'), { force: true });
    },
    readJournal: () => (read('journal.ndjson') ?? '').split('\n').filter(Boolean),
    appendJournal: (line) => appendFileSync(file('journal.ndjson'), `${line}\n`, secret),
    replaceJournal: (lines) => void replace('journal.ndjson', lines.map((line) => `${line}\n`).join('')),
  };
}
