import { sql } from 'drizzle-orm';
import type { Db } from './client.ts';
import { schemaVersion } from './migrate.ts';

/** Resolves when the schema is one that this release can live with. */
export async function probeSchema(db: Db): Promise<void> {
  const [row] = await db.execute<{ version: number }>(sql`select max(version)::int as version from migrations`);
  if (!row || row.version < schemaVersion) throw new Error('the schema is older than this release can live with');
}
