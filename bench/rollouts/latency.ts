import { setTimeout as pause } from 'node:timers/promises';
import { judge, latencies, short, type Row } from '../measure.ts';
import { begin, inFlightMax, order, stopAll } from './conduct.ts';
import type { RolloutRig } from './rig.ts';

const rounds = 3;
const wavesMax = 50;
/** The first wave has all its devices in flight by then. */
const soakSeconds = 10;
const mentionEveryMs = 100;

/** From the report to the decision that follows from it, committed, while many are in flight and say how far they are. */
export async function decisions(rig: RolloutRig): Promise<Row[]> {
  const held = rig.size(inFlightMax);
  const samples = Math.max(5, rig.size(100));
  await rig.gather(held + Math.max(samples, wavesMax));
  const gates: number[] = [];
  const limits: number[] = [];
  for (let round = 0; round < rounds; round++) {
    gates.push(...(await passGates(rig, held)));
    limits.push(...(await breakLimits(rig, held, samples)));
  }
  return [
    latencyRow(`report satisfies a gate → decision committed, ${held} in flight, p50 / p99`, gates),
    latencyRow(`report breaks a limit → decision committed, ${held} in flight, p50 / p99`, limits),
  ];
}

function latencyRow(what: string, figures: number[]): Row {
  const { p99, text } = latencies(figures);
  return {
    what,
    figure: `${text} (worst of ${figures.length}: ${short(Math.max(...figures))})`,
    baseline: '–',
    ratio: '–',
    must: 'p99 ≤ 250 ms',
    aim: 'p99 ≤ 60 ms',
    verdict: judge(p99, { must: 250, aim: 60 }),
  };
}

/** A first wave that stays in flight, and then waves of one device each, whose report opens the next. */
async function passGates(rig: RolloutRig, held: number): Promise<number[]> {
  await rig.load.run('behave', { crowd: 'devices', behaviour: { reports: 1, held, spreadMs: 400 } });
  const small = Array.from({ length: wavesMax - 2 }, () => ({ count: 1, gate: { succeededPercent: 100 } }));
  const waves = [{ count: held, gate: { succeededPercent: 0, soakSeconds } }, ...small, {}];
  const begun = await begin(rig, { waves, pace: { inFlightMax: held + 1 } });
  await using _ = keepMentioning(rig);
  await rig.decisions.next(begun.id, 'wave-passed', small.length);
  const { ending } = await rig.load.run('observe', { crowd: 'devices' });
  await stopAll(rig, begun);
  // The first wave passed by its time.
  const [, ...passed] = rig.decisions.of(begun.id).filter(({ kind }) => kind === 'wave-passed');
  return passed.slice(0, small.length).map(({ atMs }, index) => atMs - (ending[index] ?? Number.NaN));
}

/** One failure pauses it, an operator lets it go on, and so again. */
async function breakLimits(rig: RolloutRig, held: number, samples: number): Promise<number[]> {
  await rig.load.run('behave', { crowd: 'devices', behaviour: { reports: 1, held: Infinity } });
  const limits = [{ kind: 'FAILED', count: 1, then: 'pause' }];
  const begun = await begin(rig, { limits, pace: { inFlightMax: held } });
  const figures: number[] = [];
  await untilTold(rig, held);
  await using _ = keepMentioning(rig);
  while (figures.length < samples) {
    await pause(100 + Math.random() * 100);
    const saidAtMs = await rig.load.run('endOne', { crowd: 'devices', status: 'FAILED' });
    const { atMs } = await rig.decisions.next(begun.id, 'paused', figures.length);
    figures.push(atMs - (saidAtMs ?? Number.NaN));
    await order(rig, begun, 'resume');
  }
  await stopAll(rig, begun);
  return figures;
}

async function untilTold({ load }: RolloutRig, count: number): Promise<void> {
  for (;;) {
    const { told } = await load.run('observe', { crowd: 'devices' });
    if (told.length >= count) return;
    await pause(100);
  }
}

/** A hundred of those in flight say each second how far they are, as far as there are so many. */
function keepMentioning({ load }: RolloutRig): AsyncDisposable {
  let last: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    last = load.run('mention', { crowd: 'devices', count: 10 });
  }, mentionEveryMs);
  return {
    [Symbol.asyncDispose]() {
      clearInterval(timer);
      return last;
    },
  };
}
