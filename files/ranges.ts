import type { Range } from './store.ts';

/** What a request for content is answered with (RFC 9110 13.2.2, 14.2). */
export type Selection =
  | { answer: 'whole' }
  | { answer: 'ranges'; ranges: [Range, ...Range[]] }
  | { answer: 'unsatisfiable' }
  | { answer: 'unchanged' }
  | { answer: 'changed' };

export type Conditions = Partial<Record<'range' | 'if-range' | 'if-match' | 'if-none-match', string | undefined>>;

/** More of them, or two that overlap, are no way to fetch a file. */
const rangesMax = 8;

/**
 * Selects what of the content to send. The entity tag is strong, and content is never changed: there is no date to
 * compare, so an `If-Range` or a condition by date is never true. Ranges in another unit, or malformed ones, are ignored.
 */
export function select(
  method: 'GET' | 'HEAD',
  { size, etag }: { size: number; etag: string },
  conditions: Conditions,
): Selection {
  const { range, 'if-range': ifRange, 'if-match': ifMatch, 'if-none-match': ifNoneMatch } = conditions;
  if (ifMatch !== undefined && !lists(ifMatch, etag)) return { answer: 'changed' };
  // This one is compared weakly (RFC 9110 13.1.2).
  if (ifNoneMatch !== undefined && lists(ifNoneMatch.replaceAll('W/"', '"'), etag)) return { answer: 'unchanged' };
  // A range of a HEAD is to be ignored (RFC 9110 14.2).
  if (method === 'HEAD' || range === undefined) return { answer: 'whole' };
  if (ifRange !== undefined && ifRange.trim() !== etag) return { answer: 'whole' };
  const asked = parseRanges(range);
  return asked ? satisfy(asked, size) : { answer: 'whole' };
}

const lists = (tags: string, etag: string) => tags.trim() === '*' || tags.split(',').some((tag) => tag.trim() === etag);

/** From a position on, up to one, or a number of bytes at the end. */
type AskedRange = { first: number; last: number } | { suffix: number };

function parseRanges(header: string): AskedRange[] | undefined {
  const [, list] = /^\s*bytes\s*=(.*)$/i.exec(header) ?? [];
  if (list === undefined) return undefined;
  // An empty element of a list stands for nothing (RFC 9110 5.6.1.2).
  const asked = list
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .map(parseRange);
  const good = asked.filter((range) => range !== undefined);
  return good.length > 0 && good.length === asked.length ? good : undefined;
}

function parseRange(text: string): AskedRange | undefined {
  const [, first = '', last = ''] = /^(\d*)-(\d*)$/.exec(text) ?? [];
  if (first === '') return last === '' ? undefined : { suffix: Number(last) };
  if (last !== '' && Number(last) < Number(first)) return undefined;
  return { first: Number(first), last: last === '' ? Number.POSITIVE_INFINITY : Number(last) };
}

function satisfy(asked: AskedRange[], size: number): Selection {
  const ranges = asked.map((range) => cut(range, size)).filter(({ first, last }) => first <= last);
  const [first, ...more] = ranges;
  if (!first || ranges.length > rangesMax || overlap(ranges)) return { answer: 'unsatisfiable' };
  return { answer: 'ranges', ranges: [first, ...more] };
}

/** Within the content; with its last before its first when nothing of it is. */
const cut = (range: AskedRange, size: number): Range =>
  'suffix' in range
    ? { first: Math.max(0, size - range.suffix), last: size - 1 }
    : { first: range.first, last: Math.min(range.last, size - 1) };

function overlap(ranges: Range[]): boolean {
  const sorted = ranges.toSorted((a, b) => a.first - b.first);
  return sorted.some(({ first }, index) => index > 0 && first <= (sorted[index - 1]?.last ?? -1));
}
