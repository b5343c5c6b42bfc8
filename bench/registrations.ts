import { interleave, rateRow, type Row } from './measure.ts';
import type { Rig } from './rig.ts';

const count = 50_000;

/** A file through the API until its last device is registered, with audit and report, against COPY of the same rows. */
export async function registrations({ load, running }: Rig): Promise<Row[]> {
  const { api, postgres } = running.stack;
  const pairs = await interleave({
    rounds: 4,
    product: () => load.run('registerFile', { url: api.url, token: api.token, count }),
    baseline: () => load.run('copyRows', { databaseUrl: postgres.url, count }),
  });
  return [rateRow('bulk registration, lines, 50,000 in a file', pairs, { must: 0.1, aim: 0.4 })];
}
