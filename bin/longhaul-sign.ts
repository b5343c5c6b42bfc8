import { keygen, sign, verify } from './release-commands.ts';
import { parseSignOptions, usage, UsageError } from './sign-options.ts';

/**
 * For whoever signs releases, offline: makes a key, signs a manifest, looks at one. The private key stays where it is
 * made. Ends with 0; with 1 when something is refused; with 2 when it was called in a way that it does not know.
 */
try {
  const asked = parseSignOptions(process.argv.slice(2));
  if (asked === undefined) process.stdout.write(`${usage}\n`);
  else if (asked.command === 'keygen') process.stdout.write(await keygen(asked));
  else if (asked.command === 'sign') process.stdout.write(await sign(asked));
  else process.stdout.write(await verify(asked));
} catch (error) {
  process.stderr.write(`longhaul-sign: ${error instanceof Error ? error.message : String(error)}\n`);
  if (error instanceof UsageError) process.stderr.write('longhaul-sign --help says how it is called\n');
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
