#!/usr/bin/env node
/*
 * Starts longhaul-authority on the Node that the project brings, whatever Node the machine has: plain JavaScript for old ones.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const node = fileURLToPath(new URL('../node_modules/.bin/node', import.meta.url));
const program = fileURLToPath(new URL('longhaul-authority.ts', import.meta.url));

if (existsSync(node)) {
  const { status } = spawnSync(node, [program, ...process.argv.slice(2)], { stdio: 'inherit' });
  process.exitCode = status ?? 1;
} else {
  process.stderr.write('longhaul-authority: the packages are not installed: run `npm install` in the project first\n');
  process.exitCode = 1;
}
