/** Column types that several tables share. */
import { bigint, customType, timestamp } from 'drizzle-orm/pg-core';

export const bytea = customType<{ data: Uint8Array; driverData: Uint8Array }>({ dataType: () => 'bytea' });
export const xid8 = customType<{ data: string; driverData: string }>({ dataType: () => 'xid8' });
export const at = (name: string) => timestamp(name, { withTimezone: true, precision: 3, mode: 'date' });
export const counter = (name: string) => bigint(name, { mode: 'number' });
export const identity = () => counter('id').primaryKey().generatedAlwaysAsIdentity();
