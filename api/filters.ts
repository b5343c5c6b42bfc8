import type { SQL } from 'drizzle-orm';
import type { Fields } from '../db/fields.ts';
import { compileFilter, FilterFault } from '../db/filters.ts';
import { Problem } from './problem.ts';

/** The condition of a list's `filter` over the fields that it may name; a fault of it is answered 400. */
export async function compileQuery(filter: string, known: (filter: string) => Fields | Promise<Fields>): Promise<SQL> {
  try {
    return compileFilter(filter, await known(filter));
  } catch (error) {
    if (!(error instanceof FilterFault)) throw error;
    throw new Problem('malformed-filter', sentence(error), {
      errors: [{ parameter: 'filter', detail: error.message }],
    });
  }
}

/** Work with a filter that stands in a body, at this JSON pointer: a fault of it is answered 422. */
export async function judgingFilter<Result>(pointer: string, work: () => Promise<Result>): Promise<Result> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof FilterFault)) throw error;
    throw new Problem('invalid', sentence(error), { errors: [{ pointer, detail: error.message }] });
  }
}

const sentence = ({ message }: FilterFault) => `The filter is not understood: ${message}.`;
