import type { BareWorkerJobs } from './bare/worker.ts';
import { openHelper } from './jobs.ts';
import { interleave, judge, latencies, percentile, rateRow, short, type Row } from './measure.ts';
import type { Rig } from './rig.ts';

const taskQueue = 'bench-bare';

/** From the CSR to a connection under the new certificate; the claim's own connection stands by then. */
export async function enrolments(rig: Rig): Promise<Row[]> {
  const { load, running } = rig;
  const { temporal, claim } = running.stack;
  await using worker = await openHelper<BareWorkerJobs>(import.meta.resolve('./bare/worker.ts'));
  await worker.run('work', { ...temporal, taskQueue });
  await load.run('connectTemporal', temporal);
  const server = rig.server();
  const credentials = { ...claim, certificate: claim.certificate };

  async function enrol(count: number, atATime: number) {
    await load.run('prepareNewcomers', { server, claim: credentials, count });
    return load.run('enrol', { server, template: claim.template, count, atATime });
  }
  const ask = (count: number, atATime: number) => load.run('askWorkflows', { taskQueue, count, atATime });

  const together = await interleave({
    rounds: 4,
    product: async () => (await enrol(48, 8)).perSecond,
    baseline: async () => (await ask(96, 8)).perSecond,
  });

  const product: number[][] = [];
  const baseline: number[][] = [];
  for (let round = 0; round < 4; round++) {
    baseline.push((await ask(30, 1)).latencies);
    product.push((await enrol(30, 1)).latencies);
  }
  return [
    rateRow('enrolments, CSR to activated, 8 at a time', together, { must: 0.6, aim: 0.9 }),
    latencyRow('enrolment, one at a time, p50 / p99', product, baseline),
  ];
}

function latencyRow(what: string, product: number[][], baseline: number[][]): Row {
  const p50s = product.map((figures) => percentile(figures, 0.5));
  const ours = latencies(product.flat());
  const theirs = latencies(baseline.flat());
  const ratios = [ours.p50 / theirs.p50, ours.p99 / theirs.p99];
  return {
    what,
    figure: `${ours.text} (p50 ${short(Math.min(...p50s))}–${short(Math.max(...p50s))})`,
    baseline: theirs.text,
    ratio: ratios.map((ratio) => ratio.toPrecision(2)).join(' / '),
    must: '≤ 2 / ≤ 2',
    aim: '≤ 1.3 / ≤ 1.3',
    verdict: judge(Math.max(...ratios), { must: 2, aim: 1.3 }),
  };
}
