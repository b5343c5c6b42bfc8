import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** The real openssl with a folder of its own, gone when it is disposed of. */
export function openOpenssl() {
  const folder = mkdtempSync(join(tmpdir(), 'longhaul-pki-'));
  const config = join(folder, 'openssl.cnf');
  writeFileSync(config, '[req]\ndistinguished_name = dn\nstring_mask = utf8only\n[dn]\n');

  const write = (name: string, contents: string | Uint8Array): string => {
    const file = join(folder, name);
    writeFileSync(file, contents);
    return file;
  };

  return {
    run,
    write,
    /** A private key in PEM: `makeKey('EC', 'ec_paramgen_curve:P-256')`. */
    makeKey: (algorithm: string, ...options: string[]): string =>
      run('genpkey', '-algorithm', algorithm, ...options.flatMap((option) => ['-pkeyopt', option])),
    /** A certification request in PEM, signed by `key`. */
    makeCsr: (key: string, subject: string, ...options: string[]): string =>
      run('req', '-new', '-config', config, '-key', write('key.pem', key), '-subj', subject, '-utf8', ...options),
    describe: (certificate: string): string =>
      run('x509', '-noout', '-text', '-in', write('described.pem', certificate)),
    /** Whether openssl holds a request in DER for one, with a good signature of its own. */
    acceptsCsr: (der: Uint8Array): boolean =>
      spawnSync('openssl', ['req', '-verify', '-noout', '-inform', 'DER', '-in', write('csr.der', der)]).status === 0,
    /** What `openssl verify` says, strictly, about a leaf under its authorities. */
    verify: (chain: { root: string; issuing: string; leaf: string }, ...options: string[]): string => {
      const authorities = ['-CAfile', write('root.pem', chain.root), '-untrusted', write('issuing.pem', chain.issuing)];
      const leaf = write('leaf.pem', chain.leaf);
      const { stdout, stderr } = spawnSync('openssl', ['verify', '-x509_strict', ...authorities, ...options, leaf]);
      return stdout.toString() + stderr.toString();
    },
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }),
  };
}

export const derOf = (pem: string): Buffer => Buffer.from(pem.replaceAll(/-----.*-----|\s/g, ''), 'base64');

const run = (...args: string[]): string =>
  execFileSync('openssl', args, { stdio: 'pipe', maxBuffer: 256 * 1024 ** 2 }).toString();
