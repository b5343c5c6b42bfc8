import type { Context } from 'hono';
import type { Db } from '../db/client.ts';
import type { Fields, Page } from '../db/fields.ts';
import type { Api } from './app.ts';
import { createCursors } from './cursors.ts';
import { compileQuery } from './filters.ts';
import { Problem } from './problem.ts';

export type ListQuery = { filter?: string | undefined; limit: number; cursor?: string | undefined };

export type List<Row, Key extends string[]> = {
  /** What it may be filtered by, which may depend on rows that the filter names. */
  fields: Fields | ((db: Db, filter: string) => Promise<Fields>);
  find(db: Db, page: Page<Key>): Promise<Row[]>;
  /** Where the row stands in the list's order. */
  place(row: Row): Key;
};

/** The rows of one page; the `Link` header leads to the next while there is one. */
export type FindPage = <Row, Key extends string[]>(
  c: Context<Api>,
  query: ListQuery,
  list: List<Row, Key>,
) => Promise<Row[]>;

export function createLists({ cursorKey }: { cursorKey: Uint8Array }): FindPage {
  const cursors = createCursors(cursorKey);
  return async (c, { filter, limit, cursor }, list) => {
    const name = `${c.req.path}?${filter ?? ''}`;
    const place = cursor === undefined ? undefined : cursors.open(name, cursor);
    if (cursor !== undefined && !place) {
      throw new Problem('foreign-cursor', 'A cursor is taken from the Link header, and used with the same filter.');
    }
    const { db } = c.var;
    const { fields } = list;
    const known = (text: string) => (typeof fields === 'function' ? fields(db, text) : fields);
    const rows = await list.find(db, {
      filter: filter === undefined ? undefined : await compileQuery(filter, known),
      // The cursor was sealed for this very list, out of what its `place` gave.
      after: place as Parameters<typeof list.find>[1]['after'],
      limit: limit + 1,
    });
    const page = rows.slice(0, limit);
    const last = page.at(-1);
    if (rows.length > limit && last !== undefined) {
      const next = new URLSearchParams({ limit: String(limit), cursor: cursors.seal(name, list.place(last)) });
      if (filter !== undefined) next.set('filter', filter);
      c.header('Link', `<${c.req.path}?${next.toString()}>; rel="next"`);
    }
    return page;
  };
}
