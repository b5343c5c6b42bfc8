import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { inject } from 'vitest';

const modules = [
  '/usr/lib/softhsm/libsofthsm2.so',
  '/usr/local/lib/softhsm/libsofthsm2.so',
  '/opt/homebrew/lib/softhsm/libsofthsm2.so',
];

/** A token of SoftHSM, Debian's softhsm2, in a folder of its own. One for a process: the library reads its settings once. */
export function makeToken() {
  const module = modules.find((file) => existsSync(file));
  if (!module) throw new Error('SoftHSM is missing: install the package softhsm2');
  const folder = join(inject('folder'), `softhsm-${randomBytes(4).toString('hex')}`);
  const tokens = join(folder, 'tokens');
  mkdirSync(tokens, { recursive: true });
  const settings = join(folder, 'softhsm2.conf');
  writeFileSync(settings, `directories.tokendir = ${tokens}\nobjectstore.backend = file\nlog.level = ERROR\n`);
  process.env['SOFTHSM2_CONF'] = settings;
  const token = `longhaul-${randomBytes(4).toString('hex')}`;
  const pin = randomBytes(6).toString('hex');
  execFileSync('softhsm2-util', ['--init-token', '--free', '--label', token, '--pin', pin, '--so-pin', pin]);
  return {
    module,
    token,
    pin,
    /** Everything that it has on disk. */
    readAll: () =>
      Buffer.concat(
        readdirSync(tokens, { recursive: true, withFileTypes: true })
          .filter((entry) => entry.isFile())
          .map((entry) => readFileSync(join(entry.parentPath, entry.name))),
      ),
  };
}
