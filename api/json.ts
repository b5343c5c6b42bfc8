/** Why a text is not taken as JSON. The reason names the rule and never quotes the text. */
export class JsonFault extends Error {
  override name = 'JsonFault';
}

const depthMax = 32;
const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * Reads I-JSON (RFC 7493): UTF-8, no name twice in one object, no number that a double would change, no half of a
 * surrogate pair. So what is stored is what was sent, whoever reads it next. Nested at most 32 deep; no `__proto__`.
 */
export function parseJson(bytes: Uint8Array): unknown {
  const text = decodeUtf8(bytes);
  const value = parse(text);
  scan(text);
  return value;
}

function decodeUtf8(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new JsonFault('the text is not UTF-8');
  }
}

function parse(text: string): unknown {
  try {
    // V8 parses without recursion: depth costs memory only, and the size is bounded by the caller.
    return JSON.parse(text);
  } catch {
    throw new JsonFault('the text is not JSON (RFC 8259)');
  }
}

const token = /"(?:[^"\\]|\\.)*"|[{}[\]:,]|[-0-9][-+.0-9eE]*/g;

/** Looks through a text that is known to be JSON for what its parser lets pass. */
function scan(text: string): void {
  const open: (Set<string> | undefined)[] = [];
  let lastString = '';
  for (const [part] of text.matchAll(token)) {
    if (part === '{' || part === '[') {
      open.push(part === '{' ? new Set() : undefined);
      if (open.length > depthMax) throw new JsonFault(`values are nested more than ${depthMax} deep`);
    } else if (part === '}' || part === ']') open.pop();
    else if (part.startsWith('"')) lastString = readString(part);
    else if (part === ':') checkName(open.at(-1), lastString);
    else if (part !== ',') checkNumber(part);
  }
}

function readString(part: string): string {
  if (!part.includes('\\')) return part.slice(1, -1);
  // The part is a whole string of a text that JSON.parse has taken.
  const value = JSON.parse(part) as string;
  if (!value.isWellFormed()) throw new JsonFault('a string holds half of a surrogate pair');
  return value;
}

function checkName(names: Set<string> | undefined, name: string): void {
  if (name === '__proto__') throw new JsonFault('the name __proto__ is not taken');
  if (names?.has(name)) throw new JsonFault('an object has the same name twice');
  names?.add(name);
}

function checkNumber(part: string): void {
  const number = Number(part);
  const whole = /^-?\d+$/.test(part);
  if (!Number.isFinite(number) || (whole && !Number.isSafeInteger(number))) {
    throw new JsonFault('a number is beyond what a double holds exactly: send it as a string');
  }
}
