import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';

/**
 * What an error says about a statement. `conflict`: undone, and worth trying again at once. `unknown`: Postgres is away,
 * or the connection broke before the answer, so that the statement may have been committed. `fault`: undone, and it
 * would fail again.
 */
export type Failure = 'conflict' | 'unknown' | 'fault';

const conflicts = ['40001', '40P01', '55P03'];
const unknowns = [
  // what postgres.js and the operating system say of a connection
  'CONNECTION_CLOSED',
  'CONNECTION_ENDED',
  'CONNECTION_DESTROYED',
  'CONNECT_TIMEOUT',
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOENT',
  // a time limit of the server, and a primary that became a standby
  '57014',
  '25006',
];
/** Connection, authorisation and catalogue at the start of a session, resources, operator, system. */
const unknownClasses = /^(08|28|3D|53|57P|58)/;

export function judgeFailure(error: unknown): Failure {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    const code = 'code' in cause ? String(cause.code) : undefined;
    if (code === undefined) continue;
    if (conflicts.includes(code)) return 'conflict';
    return unknowns.includes(code) || (code.length === 5 && unknownClasses.test(code)) ? 'unknown' : 'fault';
  }
  return 'fault';
}

/**
 * Whether a notice says that a commit which is about to be reported as done has not reached its synchronous standby: the
 * wait was cancelled, so a failover may still lose it. Told by the routine, because the text is translated.
 */
export const doubtsCommit = (notice: { routine?: string }): boolean => notice.routine === 'SyncRepWaitForLSN';

/** Resolves when Postgres answers and takes writes. */
export async function probeWritable(db: Db): Promise<void> {
  const [row] = await db.execute<{ standby: boolean }>(sql`select pg_is_in_recovery() as standby`);
  if (!row || row.standby) throw new Error('the database is a standby');
}
