/** What the product did and what the baseline did, round by round. */
export type Pairs = { product: number[]; baseline: number[] };

/**
 * Measures product and baseline in turns, so that whatever else the machine does meets both alike; who goes first
 * changes with every round. The first round warms up and is not counted.
 */
export async function interleave({
  rounds,
  product,
  baseline,
}: {
  rounds: number;
  product: () => Promise<number>;
  baseline: () => Promise<number>;
}): Promise<Pairs> {
  const pairs: Pairs = { product: [], baseline: [] };
  for (let round = 0; round <= rounds; round++) {
    const order = round % 2 === 0 ? (['product', 'baseline'] as const) : (['baseline', 'product'] as const);
    for (const side of order) {
      const figure = await (side === 'product' ? product : baseline)();
      if (round > 0) pairs[side].push(figure);
    }
  }
  return pairs;
}

export const median = (figures: number[]): number => percentile(figures, 0.5);

/** The figure at or below which that share of them lies; between two it is taken in proportion. */
export function percentile(figures: number[], share: number): number {
  const sorted = figures.toSorted((a, b) => a - b);
  const place = (sorted.length - 1) * share;
  const below = sorted[Math.floor(place)] ?? Number.NaN;
  const above = sorted[Math.ceil(place)] ?? below;
  return below + (above - below) * (place % 1);
}

/** The median of the rounds' own ratios. */
export function ratioOf({ product, baseline }: Pairs): number {
  return median(product.map((figure, round) => figure / (baseline[round] ?? Number.NaN)));
}

/** One line of the table: what was measured, against what, and whether that is enough. */
export type Row = {
  what: string;
  figure: string;
  baseline: string;
  ratio: string;
  must: string;
  aim: string;
  /** `shown`: nothing is asked of it. */
  verdict: 'aim' | 'must' | 'missed' | 'shown';
};

/** A rate per second, as a share of the baseline's: the more the better. */
export function rateRow(what: string, pairs: Pairs, asked?: { must: number; aim: number }): Row {
  const ratio = ratioOf(pairs);
  return {
    what,
    figure: `${spread(pairs.product)} /s`,
    baseline: `${spread(pairs.baseline)} /s`,
    ratio: ratio.toPrecision(2),
    must: asked ? `≥ ${asked.must}` : '–',
    aim: asked ? `≥ ${asked.aim}` : '–',
    verdict: !asked ? 'shown' : ratio >= asked.aim ? 'aim' : ratio >= asked.must ? 'must' : 'missed',
  };
}

/** Median and range. */
export function spread(figures: number[], show: (figure: number) => string = short): string {
  return `${show(median(figures))} (${show(Math.min(...figures))}–${show(Math.max(...figures))})`;
}

export const short = (figure: number): string => (figure >= 100 ? figure.toFixed(0) : figure.toPrecision(3));

/** p50 and p99 of latencies in milliseconds. */
export function latencies(figures: number[]): { p50: number; p99: number; text: string } {
  const p50 = percentile(figures, 0.5);
  const p99 = percentile(figures, 0.99);
  return { p50, p99, text: `${short(p50)} / ${short(p99)} ms` };
}

/** The lower the better. */
export const judge = (figure: number, { must, aim }: { must: number; aim: number }): Row['verdict'] =>
  figure <= aim ? 'aim' : figure <= must ? 'must' : 'missed';
