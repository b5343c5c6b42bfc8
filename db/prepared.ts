import type { SQL } from 'drizzle-orm';
import { PgDialect } from 'drizzle-orm/pg-core';
import type { Db } from './client.ts';

const dialect = new PgDialect();

/**
 * Runs a statement that Postgres plans once per connection and then keeps (unless the pool has `prepare: false`). Plain
 * `db.execute` is planned anew each time and takes a second round trip to learn its parameters' types. Only for texts
 * that never change: each one stays in every connection.
 */
export async function executePrepared<Row>(db: Db, statement: SQL): Promise<Row[]> {
  const query = db._.session.prepareQuery(dialect.sqlToQuery(statement), undefined, 'kept', false);
  // postgres.js answers with an array of row objects; that they have the columns of `Row` is the caller's to know.
  return (await query.execute()) as Row[];
}
