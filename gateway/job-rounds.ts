import type { Database, Db } from '../db/client.ts';
import { findExecutions, listPendingExecutions, type Execution } from '../db/executions.ts';
import {
  recordExecutionReports,
  type ExecutionReport,
  type ExecutionVerdict,
  type RecordOptions,
} from '../db/execution-reports.ts';
import type { JobDocuments } from './job-documents.ts';

/** What a device asks of its jobs; `withDocument` when the answer carries the document of the first. */
export type JobAsk = { deviceId: string; name: string; withDocument: boolean } & (
  | { kind: 'pending' }
  | { kind: 'next' }
  | { kind: 'describe'; jobId: string; attempt: number | null }
  | { kind: 'report'; report: ExecutionReport }
);

export type JobAnswer = {
  /** Of a report. */
  verdict: ExecutionVerdict | undefined;
  /** All that are pending where those were asked for; otherwise the one that is meant, if there is one. */
  executions: Execution[];
  /** Of the first, as this device is given it. */
  document: string | undefined;
  /** What the device has to do has changed, and it is to be told. */
  noticed: boolean;
};

export type JobRoundsDeps = RecordOptions & { db: Database; documents: JobDocuments };

type Waiting = { ask: JobAsk; place: number };
type Found = Omit<JobAnswer, 'document'>;

const pendingMax = 100;

/**
 * Answers everything that devices asked, in as few statements as there are requests of one device among it: what one device
 * asks is done in its order, and the first of every device at once. In one transaction if it takes more than a round.
 */
export async function answerJobs({ db, documents, ...options }: JobRoundsDeps, asks: JobAsk[]): Promise<JobAnswer[]> {
  const isOneRound = new Set(asks.map(({ deviceId }) => deviceId)).size === asks.length;
  const found = isOneRound
    ? await inRounds(db, asks, options)
    : await db.transaction((tx) => inRounds(tx, asks, options));
  const wanted = found.flatMap(({ executions: [first] }, place) =>
    first && asks[place]?.withDocument ? [first.jobId] : [],
  );
  const documentFor = await documents.load(wanted);
  return found.map((answer, place) => {
    const [first] = answer.executions;
    const { name, withDocument } = asks[place] ?? { name: '', withDocument: false };
    return { ...answer, document: first && withDocument ? documentFor(first, name) : undefined };
  });
}

async function inRounds(db: Db, asks: JobAsk[], options: RecordOptions): Promise<Found[]> {
  const found: Found[] = [];
  let waiting: Waiting[] = asks.map((ask, place) => ({ ask, place }));
  while (waiting.length > 0) {
    const round = new Map<string, Waiting>();
    const later = waiting.filter((item) => {
      const isFirst = !round.has(item.ask.deviceId);
      if (isFirst) round.set(item.ask.deviceId, item);
      return !isFirst;
    });
    const missed = await answerRound(db, [...round.values()], options, found);
    waiting = [...missed, ...later];
  }
  return found;
}

/** Each of another device. Returns those whose execution ended that very moment: a statement that begins later sees it. */
async function answerRound(db: Db, round: Waiting[], options: RecordOptions, found: Found[]): Promise<Waiting[]> {
  const missed: Waiting[] = [];
  const reports = round.flatMap(({ ask, place }) => (ask.kind === 'report' ? [{ ask, place }] : []));
  if (reports.length > 0) {
    const judged = await recordExecutionReports(
      db,
      reports.map(({ ask }) => ask.report),
      options,
    );
    for (const [index, item] of reports.entries()) {
      const { verdict, execution, noticed = false } = judged[index] ?? {};
      if (verdict === 'missed') missed.push(item);
      else found[item.place] = { verdict, executions: execution ? [execution] : [], noticed };
    }
  }
  const lists = round.filter(({ ask: { kind } }) => kind === 'pending' || kind === 'next');
  if (lists.length > 0) {
    const pending = await listPendingExecutions(
      db,
      lists.map(({ ask }) => ask.deviceId),
      { perDevice: pendingMax },
    );
    for (const { ask, place } of lists) {
      const all = pending.get(ask.deviceId) ?? [];
      found[place] = { verdict: undefined, executions: ask.kind === 'next' ? all.slice(0, 1) : all, noticed: false };
    }
  }
  const named = round.flatMap(({ ask, place }) => (ask.kind === 'describe' ? [{ ask, place }] : []));
  if (named.length > 0) {
    const executions = await findExecutions(
      db,
      named.map(({ ask }) => ask),
    );
    for (const [index, { place }] of named.entries()) {
      const execution = executions[index];
      found[place] = { verdict: undefined, executions: execution ? [execution] : [], noticed: false };
    }
  }
  return missed;
}
