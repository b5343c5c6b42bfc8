import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const entry = fileURLToPath(new URL('./make-bundle.ts', import.meta.url));
const bytesMax = 64 * 1024 * 1024;

/**
 * The workflows as one bundle, for workers and for replays. It is made by a process of its own: webpack leaves more than
 * 100 MiB behind in the one that it ran in, and a worker lives for months.
 */
export async function bundleWorkflows(): Promise<{ code: string }> {
  const { stdout: code } = await promisify(execFile)(process.execPath, [entry], { maxBuffer: bytesMax });
  return { code };
}
