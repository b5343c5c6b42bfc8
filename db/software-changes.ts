/** What a device says that it runs, by product. `revision` is the version of its shadow; 0 is none yet. */
export type Software = { revision: number; products: Map<string, { version: string; reportedAt: Date }> };

export type SoftwareReport = {
  deviceId: string;
  /** Product → version, or null for what is gone. */
  changes: Map<string, string | null>;
  /** Whether everything is gone that is not among the changes. */
  whole: boolean;
  /** The revision that the device takes for the current one. */
  expected?: number | undefined;
  /** Made by the process, so that a repeated statement repeats it. */
  eventId: string;
};

export type SoftwareVerdict = { recorded: Software } | 'conflict' | 'too-many';

export const productsMax = 50;

type Change = { was: string | null; is: string | null };
export type Judged = {
  verdicts: Map<SoftwareReport, SoftwareVerdict>;
  /** What each device that differs had, and has now. */
  changed: Map<string, { was: Software; is: Software }>;
  events: { id: string; deviceId: string; changes: Record<string, Change> }[];
};

const nothing: Software = { revision: 0, products: new Map() };

/**
 * What becomes of each report, in the order given, over what the devices are known to run. A report that says what is known
 * changes nothing.
 */
export function judgeSoftware(reports: SoftwareReport[], known: Map<string, Software>, now: Date): Judged {
  const judged: Judged = { verdicts: new Map(), changed: new Map(), events: [] };
  for (const report of reports) {
    const { deviceId, expected } = report;
    const first = known.get(deviceId) ?? nothing;
    const was = judged.changed.get(deviceId)?.is ?? first;
    const products = mergeReport(was.products, report, now);
    const changes = differences(was.products, products);
    const differs = was.revision === 0 || changes.length > 0;
    // A repeated request names the revision before the one that it has made.
    const isCurrent =
      expected === undefined || expected === was.revision || (!differs && expected === was.revision - 1);
    if (!isCurrent) judged.verdicts.set(report, 'conflict');
    else if (products.size > productsMax) judged.verdicts.set(report, 'too-many');
    else {
      const is = differs ? { revision: was.revision + 1, products } : was;
      judged.verdicts.set(report, { recorded: is });
      if (differs) judged.changed.set(deviceId, { was: first, is });
      if (changes.length > 0)
        judged.events.push({ id: report.eventId, deviceId, changes: Object.fromEntries(changes) });
    }
  }
  return judged;
}

/** A version that is the same keeps the time at which it was first reported. */
function mergeReport(known: Software['products'], { changes, whole }: SoftwareReport, now: Date): Software['products'] {
  const products = new Map(whole ? [] : known);
  for (const [product, version] of changes) {
    const before = known.get(product);
    if (version === null) products.delete(product);
    else products.set(product, before?.version === version ? before : { version, reportedAt: now });
  }
  return products;
}

function differences(was: Software['products'], is: Software['products']): [product: string, Change][] {
  const versionOf = (products: Software['products'], product: string) => products.get(product)?.version ?? null;
  return [...new Set([...was.keys(), ...is.keys()])]
    .map((product): [string, Change] => [product, { was: versionOf(was, product), is: versionOf(is, product) }])
    .filter(([, change]) => change.was !== change.is);
}
