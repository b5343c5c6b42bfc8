import { and, eq, gt, gte, inArray, lt, lte, ne, not, notInArray, sql, type SQL } from 'drizzle-orm';
import type { PgColumn } from 'drizzle-orm/pg-core';

export type Operator = '==' | '!=' | '=gt=' | '=ge=' | '=lt=' | '=le=' | '=in=' | '=out=';

/** What a list may be filtered by: which comparisons it takes, and the condition that one of them makes. */
export type Field = { operators: Operator[]; condition(operator: Operator, values: string[]): SQL };

/** By name; `prefix.*` stands for any name after the dot. */
export type Fields = Record<string, Field | ((name: string) => Field)>;

/** One page of a list, in the list's order: what comes after the row with these keys. */
export type Page<Key extends unknown[]> = { filter?: SQL | undefined; after?: Key | undefined; limit: number };

/** A value that the field cannot be compared with. */
export class FieldFault extends Error {
  override name = 'FieldFault';
}

const equality: Operator[] = ['==', '!=', '=in=', '=out='];
/** What a negated comparison denies. */
export const negated: Partial<Record<Operator, Operator>> = { '!=': '==', '=out=': '=in=' };
const order: Operator[] = ['==', '!=', '=gt=', '=ge=', '=lt=', '=le='];
const wildcardsMax = 4;

/** False, or null: what is not there is not equal to any value. */
export const isNotTrue = (condition: SQL) => sql`(${condition}) is not true`;

/** Compared as it stands; `*` in a value of `==` or `!=` stands for any characters. `fold` makes it blind to case. */
export function text(column: PgColumn, { fold = false } = {}): Field {
  const expression = fold ? sql`lower(${column})` : sql`${column}`;
  const read = (value: string) => (fold ? value.toLowerCase() : value);
  return {
    operators: equality,
    condition(operator, values) {
      const list = values.map(read);
      const [first = ''] = list;
      const positive = negated[operator];
      const isList = (positive ?? operator) === '=in=';
      const equal = first.includes('*') ? sql`${expression} like ${likePattern(first)}` : eq(expression, first);
      const condition = isList ? inArray(expression, list) : equal;
      return positive ? isNotTrue(condition) : condition;
    },
  };
}

/** One of a few words. */
export function word(column: PgColumn, words: readonly string[]): Field {
  return equals(column, (value) => {
    if (words.includes(value)) return value;
    throw new FieldFault(`it is one of ${words.join(', ')}`);
  });
}

export const uuidField = (column: PgColumn): Field => equals(column, readUuid);

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

function readUuid(value: string): string {
  if (uuidPattern.test(value)) return value;
  throw new FieldFault('it is a UUID');
}

/** A whole number from 0 on. */
export const whole = (column: PgColumn): Field =>
  equals(column, (value) => {
    if (/^\d{1,9}$/.test(value)) return Number(value);
    throw new FieldFault('it is a whole number');
  });

/** SHA-256, in hexadecimal digits. */
export const digest = (column: PgColumn): Field =>
  equals(column, (value) => {
    if (/^[0-9a-f]{64}$/i.test(value)) return Buffer.from(value, 'hex');
    throw new FieldFault('it is a digest of 64 hexadecimal digits');
  });

function equals(column: PgColumn, read: (value: string) => unknown): Field {
  return {
    operators: equality,
    condition(operator, values) {
      const list = values.map(read);
      if (operator === '=in=' || operator === '==') return inArray(column, list);
      return notInArray(column, list);
    },
  };
}

/** True or false, as a condition that the database decides. */
export function flag(condition: SQL): Field {
  return {
    operators: ['=='],
    condition(_, [value]) {
      if (value !== 'true' && value !== 'false') throw new FieldFault('it is true or false');
      return value === 'true' ? condition : not(condition);
    },
  };
}

const instantPattern = /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,3})?)?(Z|[+-]\d{2}:\d{2}))?$/;

/**
 * An instant (RFC 3339, or a day in UTC). With `id`, the UUIDv7 that was made within minutes of it bounds the search
 * as well, so that the primary key and the partitions serve it.
 */
export function instant(column: PgColumn, { id }: { id?: PgColumn } = {}): Field {
  const comparisons = { '==': eq, '!=': ne, '=gt=': gt, '=ge=': gte, '=lt=': lt, '=le=': lte };
  return {
    operators: order,
    condition(operator, [value = '']) {
      const at = new Date(value);
      if (!instantPattern.test(value) || Number.isNaN(at.getTime())) throw new FieldFault('it is an RFC 3339 time');
      if (operator === '=in=' || operator === '=out=') throw new FieldFault('it is compared with one value');
      const condition = comparisons[operator](column, at);
      if (!id || operator === '!=') return condition;
      const later = sql`${id} < uuid_at(${at.toISOString()}::timestamptz + interval '5 minutes')`;
      const earlier = sql`${id} >= uuid_at(${at.toISOString()}::timestamptz - interval '5 minutes')`;
      const bounds =
        operator === '==' ? [later, earlier] : [operator === '=gt=' || operator === '=ge=' ? earlier : later];
      // `and` of at least one condition is a condition.
      return and(condition, ...bounds) as SQL;
    },
  };
}

/** An attribute of a jsonb object, compared as text through its GIN index. What has no such attribute is `!=` any value. */
export function attribute(column: PgColumn, name: string): Field {
  const has = (value: string) => sql`${column} @> ${JSON.stringify({ [name]: value })}::jsonb`;
  return {
    operators: equality,
    condition(operator, values) {
      const found = sql`(${sql.join(values.map(has), sql` or `)})`;
      return negated[operator] ? not(found) : found;
    },
  };
}

/** Every character but `*` stands for itself. Few wildcards only: matching costs text length to their number. */
function likePattern(value: string): string {
  if (value.split('*').length - 1 > wildcardsMax) throw new FieldFault(`it has at most ${wildcardsMax} wildcards`);
  return value.replaceAll(/[\\%_]/g, '\\$&').replaceAll('*', '%');
}
