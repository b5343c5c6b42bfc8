import { hash } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import { createIssuing, createRoot } from '../pki/authority.ts';
import { readIssuing } from '../pki/authority-certificates.ts';
import { judgeCsr } from '../pki/csr-policy.ts';
import { readCsr, unwrapPem } from '../pki/csr.ts';
import { UsageError } from './sign-options.ts';

/**
 * For whoever holds the root's key, offline: makes a root, certifies the request of an issuing authority. Ends with 0; with 1
 * when something is refused; with 2 when it was called in a way that it does not know.
 */
const usage = `longhaul-authority: roots and the certificates of issuing authorities, offline.

  longhaul-authority root --name TEXT --key-out FILE --out FILE [--years N]
      Makes a root (P-384, 20 years): its key in one FILE (mode 600), its certificate, which POST /v1/authorities takes, in
      the other. Files that are there are never overwritten.

  longhaul-authority certify --root FILE --key FILE --request FILE [--years N] [--out FILE]
      Certifies the request of a pending authority (GET /v1/authorities: csrPem) for 10 years, and never beyond the root's
      end. Prints the certificate, which PUT /v1/authorities/{id}/certificate takes, or writes it to FILE.

It ends with 0; with 1 when something is refused; with 2 when a flag is wrong.`;

const yearMs = 365 * 24 * 60 * 60 * 1000;
const flags = Object.fromEntries(
  ['name', 'root', 'key', 'request', 'out', 'key-out', 'years'].map((name) => [name, { type: 'string' as const }]),
);

async function makeRoot(given: Flags): Promise<string> {
  const [name, out, keyOut] = [needed(given, 'name'), needed(given, 'out'), needed(given, 'key-out')];
  const root = await createRoot({ name, ...lifetimeOf(given) });
  await writeNew(keyOut, root.privateKeyPem, 0o600);
  await writeNew(out, root.certificatePem, 0o644).catch(async (error: unknown) => {
    await rm(keyOut);
    throw error;
  });
  return `root ${root.subject} until ${root.notAfter.toISOString()}\nkey:         ${keyOut}\ncertificate: ${out}\n`;
}

async function certify(given: Flags): Promise<string> {
  const read = (flag: string) => readFile(needed(given, flag), 'utf8');
  const request = await read('request');
  const judged = await judgeCsr(request, {});
  if ('refused' in judged) throw new Error(`the request is refused: ${judged.refused.detail}`);
  const { publicKey: spki, keyAlgorithm } = judged.accepted;
  if (keyAlgorithm !== 'P-256') throw new Error('the key of an issuing authority is on P-256');
  const root = { certificatePem: await read('root'), privateKeyPem: await read('key') };
  const issuing = await createIssuing({ root, spki, name: commonNameOf(request), ...lifetimeOf(given) });
  // What the API would refuse is not handed out.
  readIssuing(issuing.certificatePem, { spkiSha256: hash('sha256', spki, 'buffer'), roots: [root] });
  if (given['out'] === undefined) return issuing.certificatePem;
  await writeNew(given['out'], issuing.certificatePem, 0o644);
  return '';
}

type Flags = Record<string, string | undefined>;

const lifetimeOf = ({ years }: Flags) => {
  if (years === undefined) return {};
  if (!/^[1-9]\d?$/.test(years)) throw new UsageError('--years is 1 to 99');
  return { lifetimeMs: Number(years) * yearMs };
};

/** The first value of the first name: our requests have no other. */
function commonNameOf(request: string): string {
  const name = readCsr(unwrapPem(request)).subject.children[0]?.children[0]?.children[1];
  if (!name) throw new Error('the request names nobody');
  return Buffer.from(name.contents).toString('utf8');
}

function needed(given: Flags, name: string): string {
  const value = given[name];
  if (value === undefined) throw new UsageError(`--${name} is needed`);
  return value;
}

const writeNew = (file: string, text: string, mode: number) => writeFile(file, text, { mode, flag: 'wx' });

function readFlags(args: string[]): Flags {
  try {
    return parseArgs({ args, options: flags, strict: true }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

async function run([command, ...rest]: string[]): Promise<string> {
  if (command === undefined || [command, ...rest].some((each) => each === '--help')) return `${usage}\n`;
  if (command === 'root') return makeRoot(readFlags(rest));
  if (command === 'certify') return certify(readFlags(rest));
  throw new UsageError(`there is no command "${command}": root and certify are known`);
}

try {
  process.stdout.write(await run(process.argv.slice(2)));
} catch (error) {
  process.stderr.write(`longhaul-authority: ${error instanceof Error ? error.message : String(error)}\n`);
  if (error instanceof UsageError) process.stderr.write('longhaul-authority --help says how it is called\n');
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
