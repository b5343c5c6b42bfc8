import { parse } from '@rsql/parser';
import { and, or, type SQL } from 'drizzle-orm';
import { FieldFault, type Field, type Fields, type Operator } from '../db/fields.ts';
import { Problem } from './problem.ts';

export const filterLengthMax = 2_000;
const depthMax = 8;
const comparisonsMax = 32;
const valuesMax = 100;
const attributeName = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$/;

type Node = ReturnType<typeof parse>;

/** The condition that an RSQL filter stands for. Fields are known ones only, and values only ever become parameters. */
export function compileFilter(filter: string, fields: Fields): SQL {
  checkNesting(filter);
  const compared = { count: 0 };
  return compile(read(filter), fields, compared);
}

/** Before the parser sees it: what it may recurse into and how much there is of it. */
function checkNesting(filter: string): void {
  if (filter.length > filterLengthMax) throw fault(`it has at most ${filterLengthMax} characters`);
  // oxlint-disable-next-line no-control-regex -- NUL is what Postgres does not take
  if (/[\u0000-\u001f]/.test(filter) || !filter.isWellFormed()) throw fault('it holds a control character');
  let depth = 0;
  for (const character of filter) {
    if (character === '(') depth += 1;
    if (character === ')') depth -= 1;
    if (depth > depthMax) throw fault(`parentheses are nested at most ${depthMax} deep`);
  }
}

function read(filter: string): Node {
  try {
    return parse(filter);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    throw fault('it is not RSQL, such as state==ACTIVE;name==pump-*');
  }
}

function compile(node: Node, fields: Fields, compared: { count: number }): SQL {
  if (node.type === 'LOGIC') {
    const sides = [node.left, node.right].map((side) => compile(side, fields, compared));
    const both = node.operator === ';' || node.operator === 'and' ? and(...sides) : or(...sides);
    // `and` and `or` of two conditions are a condition.
    return both as SQL;
  }
  compared.count += 1;
  if (compared.count > comparisonsMax) throw fault(`it has at most ${comparisonsMax} comparisons`);
  const { selector } = node.left;
  const field = findField(fields, selector);
  const operator = canonical(node.operator);
  if (!operator || !field.operators.includes(operator)) {
    throw fault(`${selector} is compared with ${field.operators.join(' ')}`);
  }
  const values = [node.right.value].flat();
  if (values.length > valuesMax) throw fault(`a list has at most ${valuesMax} values`);
  return condition(field, selector, operator, values);
}

function findField(fields: Fields, selector: string): Field {
  const own = Object.hasOwn(fields, selector) ? fields[selector] : undefined;
  if (own && typeof own !== 'function') return own;
  const dot = selector.indexOf('.');
  const rest = selector.slice(dot + 1);
  const family = dot > 0 ? `${selector.slice(0, dot)}.*` : '';
  const make = Object.hasOwn(fields, family) ? fields[family] : undefined;
  if (typeof make === 'function' && attributeName.test(rest)) return make(rest);
  throw fault(`it may name ${Object.keys(fields).join(', ')}`);
}

function condition(field: Field, selector: string, operator: Operator, values: string[]): SQL {
  try {
    return field.condition(operator, values);
  } catch (error) {
    if (error instanceof FieldFault) throw fault(`${selector}: ${error.message}`);
    throw error;
  }
}

const symbols: Record<string, Operator> = { '<': '=lt=', '<=': '=le=', '>': '=gt=', '>=': '=ge=' };
const operators: string[] = ['==', '!=', '=gt=', '=ge=', '=lt=', '=le=', '=in=', '=out='] satisfies Operator[];

function canonical(operator: string): Operator | undefined {
  // A member of `operators` is an Operator.
  return symbols[operator] ?? (operators.includes(operator) ? (operator as Operator) : undefined);
}

const fault = (detail: string) =>
  new Problem('malformed-filter', `The filter is not understood: ${detail}.`, {
    errors: [{ parameter: 'filter', detail }],
  });
