/** The keys of orders as queries see them; see `schema.ts`. */
import { pgTable, text } from 'drizzle-orm/pg-core';
import { at } from './columns.ts';

export const orderKeyStates = ['SIGNING', 'STANDBY', 'RETIRED'] as const;
export type OrderKeyState = (typeof orderKeyStates)[number];

export const orderKeys = pgTable('order_keys', {
  id: text('id').primaryKey(),
  publicKeyPem: text('public_key_pem').notNull(),
  state: text('state').$type<OrderKeyState>().notNull(),
  createdAt: at('created_at').notNull().defaultNow(),
  retiredAt: at('retired_at'),
});
