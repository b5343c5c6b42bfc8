import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js';
import type Postgres from 'postgres';
import { postgres } from './postgres.ts';

/** A connection pool or a transaction on it: a query cannot tell, and need not. */
export type Db = PostgresJsDatabase;
export type Database = Db & { $client: Postgres.Sql };

export type ConnectOptions = {
  url: string;
  /** Connections at most. */
  max?: number;
  /** False behind a pooler in transaction mode, where named statements do not survive. */
  prepare?: boolean;
  applicationName?: string;
  /** What the server says beside its answers, a commit that did not reach its standby among it. */
  onNotice?: (notice: Postgres.Notice) => void;
};

/** Opens a pool lazily: the first query connects. Close it with `db.$client.end()`. */
export function connect(options: ConnectOptions): Database {
  const { url, max = 10, prepare = true, applicationName = 'longhaul', onNotice = () => {} } = options;
  const sql = postgres(url, {
    max,
    prepare,
    connect_timeout: 10,
    // Seconds. The library would wait for up to 20, and a gateway that is back that late is taken for dead.
    backoff: () => 0.2 + Math.random() / 2,
    connection: { application_name: applicationName },
    onnotice: onNotice,
  });
  return drizzle(sql);
}
