import postgres from 'postgres';
import { eventually } from '../support/eventually.ts';

/** Holds the lifecycle worker on this database at a statement: it waits for this lock until it is given back. */
export async function holdWorker(url: string, what: string, { withinMs = 90_000 } = {}) {
  const client = postgres(url, { max: 2, onnotice: () => {} });
  const session = await client.reserve();
  await session.unsafe(`begin; ${what}`);
  return {
    /** Until a statement of the worker waits. */
    reached: () =>
      eventually(
        async () => {
          const [row] = await client<{ waiting: number }[]>`
            select count(*)::int as waiting from pg_stat_activity
            where application_name = 'longhaul lifecycle' and wait_event_type = 'Lock' and datname = current_database()`;
          return (row?.waiting ?? 0) > 0;
        },
        { withinMs },
      ),
    release: () => client.end({ timeout: 0 }),
  };
}
