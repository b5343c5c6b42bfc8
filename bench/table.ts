import { readFile, writeFile } from 'node:fs/promises';
import { cpus, loadavg, totalmem } from 'node:os';
import type { Row } from './measure.ts';

const heads = ['what', 'figure: median (range)', 'baseline, same run', 'ratio', 'must', 'aim', 'verdict'];
const verdicts: Record<Row['verdict'], string> = {
  aim: 'met, and the aim',
  must: 'met',
  missed: '**missed**',
  shown: '–',
};
const page = new URL('../docs/performance.md', import.meta.url);
const marked = /(<!-- table -->\n)[^]*(<!-- \/table -->)/;

/** In Markdown, with columns in line, so that it reads on a terminal too. */
export function tableOf(rows: Row[]): string {
  const lines = rows.map((row) => [
    row.what,
    row.figure,
    row.baseline,
    row.ratio,
    row.must,
    row.aim,
    verdicts[row.verdict],
  ]);
  const widths = heads.map((head, column) =>
    Math.max(...[head, ...lines.map((line) => line[column] ?? '')].map((text) => text.length)),
  );
  const show = (cells: string[]) => `| ${cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`;
  return [show(heads), show(widths.map((width) => '-'.repeat(width))), ...lines.map(show)].join('\n');
}

/** Where and when: figures mean nothing without it. */
export function describeMachine(postgresVersion: string, now = new Date()): string {
  const [cpu] = cpus();
  const gib = (totalmem() / 2 ** 30).toFixed(0);
  const software = `Node ${process.versions.node}, PostgreSQL ${postgresVersion}`;
  const load = loadavg()
    .map((figure) => figure.toFixed(1))
    .join(', ');
  return `${now.toISOString().slice(0, 10)}; ${cpus().length} CPUs (${cpu?.model.trim()}), ${gib} GiB; ${software}; load averages at the end ${load}`;
}

/** Replaces the table of docs/performance.md; what stands around it is written by people. */
export async function writeTable(table: string, machine: string): Promise<void> {
  const text = await readFile(page, 'utf8');
  await writeFile(
    page,
    text.replace(marked, (_, open: string, close: string) => `${open}\n${machine}\n\n${table}\n\n${close}`),
  );
}
