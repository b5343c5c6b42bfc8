import { judge, latencies, median, percentile, short, type Row } from './measure.ts';
import type { Rig } from './rig.ts';

const rounds = 4;
const count = 40;

/** From the operator's request to the device's result in its row, nothing else going on. */
export async function commands(rig: Rig): Promise<Row[]> {
  const { load, bare, running } = rig;
  const [device] = await rig.devices(1);
  if (!device) throw new Error('there is no device');
  const { token, url } = running.stack.api;
  const { url: databaseUrl } = running.stack.postgres;
  const port = Number(new URL(url).port);
  await load.run('listenForCommands', { server: rig.server(), device });
  await load.run('listenToBroker', { server: rig.server(await bare.run('startBroker', rig.tls)), device });

  const product: number[][] = [];
  const baseline: number[][] = [];
  await load.run('sendCommands', { port, token, count: 10 });
  for (let round = 0; round < rounds; round++) {
    baseline.push(await load.run('commitAndEcho', { databaseUrl, count }));
    product.push(await load.run('sendCommands', { port, token, count }));
  }
  const p50s = product.map((figures) => percentile(figures, 0.5));
  const whole = latencies(product.flat());
  const bareOnes = latencies(baseline.flat());
  return [
    {
      what: 'command, API accept → terminal, idle, p50 / p99',
      figure: `${whole.text} (p50 ${short(Math.min(...p50s))}–${short(Math.max(...p50s))})`,
      baseline: bareOnes.text,
      ratio: `${(median(p50s) / bareOnes.p50).toPrecision(2)} / ${(whole.p99 / bareOnes.p99).toPrecision(2)}`,
      must: 'p99 ≤ 250 ms',
      aim: 'p99 ≤ 60 ms',
      verdict: judge(whole.p99, { must: 250, aim: 60 }),
    },
  ];
}
