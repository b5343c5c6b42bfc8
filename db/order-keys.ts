import { and, asc, eq, gt, ne, sql } from 'drizzle-orm';
import { insertAudit, type Actor, type AuditEntry } from './audit.ts';
import type { Database, Db } from './client.ts';
import { instant, text, word, type Fields, type Page } from './fields.ts';
import { orderKeys, orderKeyStates, type OrderKeyState } from './order-schema.ts';

export type OrderKeyRow = typeof orderKeys.$inferSelect;

/** What GET /order-keys may be filtered by; there are few keys. */
export const orderKeyFields: Fields = {
  id: text(orderKeys.id),
  state: word(orderKeys.state, orderKeyStates),
  createdAt: instant(orderKeys.createdAt),
};

/**
 * Makes known which keys orders are signed with: the first signs, the others stand by, and those that are not among them
 * any more are retired. The same again changes nothing.
 */
export async function publishOrderKeys(
  db: Database,
  actor: Actor,
  keys: Pick<OrderKeyRow, 'id' | 'publicKeyPem'>[],
): Promise<void> {
  await db.transaction(async (tx) => {
    const changed = await tx.execute<{ id: string; state: OrderKeyState }>(sql`
      with given as (
        select * from unnest(${sql.param(keys.map(({ id }) => id))}::text[],
          ${sql.param(keys.map(({ publicKeyPem }) => publicKeyPem))}::text[]) with ordinality as g (id, pem, place)
      ), published as (
        insert into order_keys (id, public_key_pem, state)
        select id, pem, case place when 1 then 'SIGNING' else 'STANDBY' end from given order by id
        on conflict (id) do update set state = excluded.state, retired_at = null
        where order_keys.state <> excluded.state
        returning id, state
      ), retired as (
        update order_keys set state = 'RETIRED', retired_at = now()
        where state <> 'RETIRED' and id not in (select id from given)
        returning id, state
      )
      select * from published union all select * from retired order by id`);
    const entries = changed.map(({ id, state }): AuditEntry => {
      const subject = `order-key/${id}`;
      if (state === 'RETIRED') return { action: 'order-key.retired', subject, data: {} };
      return { action: 'order-key.published', subject, data: { state } };
    });
    await insertAudit(tx, actor, ...entries);
  });
}

/** Whether there is one that orders may be signed with. */
export const hasOrderKey = async (db: Db): Promise<boolean> =>
  (await db.$count(orderKeys, ne(orderKeys.state, 'RETIRED'))) > 0;

export async function findOrderKey(db: Db, id: string): Promise<OrderKeyRow | undefined> {
  const [row] = await db.select().from(orderKeys).where(eq(orderKeys.id, id));
  return row;
}

/** By id. */
export async function listOrderKeys(db: Db, { filter, after, limit }: Page<[id: string]>): Promise<OrderKeyRow[]> {
  return db
    .select()
    .from(orderKeys)
    .where(and(filter, after && gt(orderKeys.id, after[0])))
    .orderBy(asc(orderKeys.id))
    .limit(limit);
}
