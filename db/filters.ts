import { parse } from '@rsql/parser';
import { and, or, type SQL } from 'drizzle-orm';
import { FieldFault, type Field, type Fields, type Operator } from './fields.ts';

export const filterLengthMax = 2_000;
const depthMax = 8;
const comparisonsMax = 32;
const valuesMax = 100;
const familyMember = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/;

type Node = ReturnType<typeof parse>;

/** Why a filter is not taken, as the end of a sentence that begins with it. */
export class FilterFault extends Error {
  override name = 'FilterFault';
}

/**
 * The condition that an RSQL filter stands for. Fields are known ones only, and values only ever become parameters. What
 * is not understood, or is too much of it, throws a `FilterFault`.
 */
export function compileFilter(filter: string, fields: Fields): SQL {
  return compile(read(filter), fields);
}

/** Every value that the filter compares this field with. Throws a `FilterFault` like the compilation. */
export function listValues(filter: string, selector: string): string[] {
  return comparisonsOf(read(filter)).flatMap(({ left, right }) => (left.selector === selector ? right.value : []));
}

function read(filter: string): Node {
  checkNesting(filter);
  const node = parseText(filter);
  const comparisons = comparisonsOf(node);
  if (comparisons.length > comparisonsMax) throw new FilterFault(`it has at most ${comparisonsMax} comparisons`);
  if (comparisons.some(({ right }) => Array.isArray(right.value) && right.value.length > valuesMax)) {
    throw new FilterFault(`a list has at most ${valuesMax} values`);
  }
  return node;
}

/** Before the parser sees it: what it may recurse into and how much there is of it. */
function checkNesting(filter: string): void {
  if (filter.length > filterLengthMax) throw new FilterFault(`it has at most ${filterLengthMax} characters`);
  // oxlint-disable-next-line no-control-regex -- NUL is what Postgres does not take
  if (/[\u0000-\u001f]/.test(filter) || !filter.isWellFormed()) throw new FilterFault('it holds a control character');
  let depth = 0;
  for (const character of filter) {
    if (character === '(') depth += 1;
    if (character === ')') depth -= 1;
    if (depth > depthMax) throw new FilterFault(`parentheses are nested at most ${depthMax} deep`);
  }
}

function parseText(filter: string): Node {
  try {
    return parse(filter);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    throw new FilterFault('it is not RSQL, such as state==ACTIVE;name==pump-*');
  }
}

type Comparison = Extract<Node, { type: 'COMPARISON' }>;

const comparisonsOf = (node: Node): Comparison[] =>
  node.type === 'LOGIC' ? [...comparisonsOf(node.left), ...comparisonsOf(node.right)] : [node];

function compile(node: Node, fields: Fields): SQL {
  if (node.type === 'LOGIC') {
    const sides = [node.left, node.right].map((side) => compile(side, fields));
    const both = node.operator === ';' || node.operator === 'and' ? and(...sides) : or(...sides);
    // `and` and `or` of two conditions are a condition.
    return both as SQL;
  }
  const { selector } = node.left;
  const field = findField(fields, selector);
  const operator = canonical(node.operator);
  if (!operator || !field.operators.includes(operator)) {
    throw new FilterFault(`${selector} is compared with ${field.operators.join(' ')}`);
  }
  return condition(field, selector, operator, [node.right.value].flat());
}

function findField(fields: Fields, selector: string): Field {
  const own = Object.hasOwn(fields, selector) ? fields[selector] : undefined;
  if (own && typeof own !== 'function') return own;
  const dot = selector.indexOf('.');
  const rest = selector.slice(dot + 1);
  const family = dot > 0 ? `${selector.slice(0, dot)}.*` : '';
  const make = Object.hasOwn(fields, family) ? fields[family] : undefined;
  if (typeof make === 'function' && familyMember.test(rest)) return make(rest);
  throw new FilterFault(`it may name ${Object.keys(fields).join(', ')}`);
}

function condition(field: Field, selector: string, operator: Operator, values: string[]): SQL {
  try {
    return field.condition(operator, values);
  } catch (error) {
    if (error instanceof FieldFault) throw new FilterFault(`${selector}: ${error.message}`);
    throw error;
  }
}

const symbols: Record<string, Operator> = { '<': '=lt=', '<=': '=le=', '>': '=gt=', '>=': '=ge=' };
const operators: string[] = ['==', '!=', '=gt=', '=ge=', '=lt=', '=le=', '=in=', '=out='] satisfies Operator[];

function canonical(operator: string): Operator | undefined {
  // A member of `operators` is an Operator.
  return symbols[operator] ?? (operators.includes(operator) ? (operator as Operator) : undefined);
}
