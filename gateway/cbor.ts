import type { Parsed } from './payloads.ts';

/*
 * CBOR (RFC 8949), as much of it as JSON has: what embedded C and FreeRTOS devices speak. Libraries take more than is good
 * here (tags, a key twice, nesting without end) and less than devices send (strings of indefinite length), so it is read
 * by hand.
 */
const depthMax = 16;
const itemsMax = 1_000;

class Fault extends Error {}

/**
 * Reads a payload: no bytes at all mean an empty map. It must be a map whose keys are text, each once, at most 16 levels
 * deep, and fill the payload; lengths may be indefinite. Tags, byte strings and simple values without a name are refused.
 */
export function readCbor(payload: Uint8Array, bytesMax: number): Parsed {
  if (payload.length > bytesMax) return fault('InvalidRequest', `the payload is larger than ${bytesMax} bytes`);
  if (payload.length === 0) return { value: {} };
  const reader = new Reader(payload);
  try {
    const value = reader.read(0);
    if (reader.position < payload.length) throw new Fault('bytes follow the end of the value');
    if (!(value instanceof Map)) return fault('InvalidRequest', 'the payload is not a CBOR map');
    return { value: toObject(value) };
  } catch (error) {
    if (error instanceof Fault) return fault('InvalidCbor', error.message);
    throw error;
  }
}

const fault = (code: 'InvalidCbor' | 'InvalidRequest', detail: string): Parsed => ({ fault: { code, detail } });

type Value = string | number | boolean | null | undefined | Value[] | Map<string, Value>;

/** Keys become own properties, `__proto__` too. */
const toObject = (map: Map<string, Value>): Record<string, unknown> =>
  Object.fromEntries([...map].map(([key, value]) => [key, toJson(value)]));

function toJson(value: Value): unknown {
  if (value instanceof Map) return toObject(value);
  return Array.isArray(value) ? value.map(toJson) : value;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const majors = { unsigned: 0, negative: 1, bytes: 2, text: 3, array: 4, map: 5, tag: 6 };
const indefinite = 31;
const stop = 0xff;

class Reader {
  position = 0;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #items = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  read(depth: number): Value {
    if (depth > depthMax) throw new Fault(`values are nested more than ${depthMax} levels deep`);
    if ((this.#items += 1) > itemsMax) throw new Fault(`there are more than ${itemsMax} values`);
    const initial = this.#byte();
    const [major, information] = [initial >> 5, initial & 0x1f];
    if (major === majors.text) return this.#text(information);
    if (major === majors.array) return this.#list(information, () => this.read(depth + 1));
    if (major === majors.map) return this.#map(information, depth);
    if (major === majors.unsigned) return this.#argument(information);
    if (major === majors.negative) return -1 - this.#argument(information);
    if (major === majors.bytes) throw new Fault('a byte string is not taken');
    if (major === majors.tag) throw new Fault('a tag is not taken');
    return this.#simple(information);
  }

  #map(information: number, depth: number): Map<string, Value> {
    const map = new Map<string, Value>();
    this.#list(information, () => {
      const key = this.read(depth + 1);
      if (typeof key !== 'string') throw new Fault('a key is not text');
      if (map.has(key)) throw new Fault('a key stands twice');
      map.set(key, this.read(depth + 1));
    });
    return map;
  }

  #list<T>(information: number, next: () => T): T[] {
    const list: T[] = [];
    if (information === indefinite) while (!this.#stops()) list.push(next());
    else for (let left = this.#argument(information); left > 0; left -= 1) list.push(next());
    return list;
  }

  #text(information: number): string {
    if (information !== indefinite) return this.#chunk(information);
    const chunks: string[] = [];
    while (!this.#stops()) {
      if ((this.#items += 1) > itemsMax) throw new Fault(`there are more than ${itemsMax} values`);
      const initial = this.#byte();
      if (initial >> 5 !== majors.text || (initial & 0x1f) === indefinite)
        throw new Fault('a text is in parts of another kind');
      chunks.push(this.#chunk(initial & 0x1f));
    }
    return chunks.join('');
  }

  #chunk(information: number): string {
    const length = this.#argument(information);
    const start = this.#skip(length);
    try {
      return utf8.decode(this.#bytes.subarray(start, start + length));
    } catch {
      throw new Fault('a text is not UTF-8');
    }
  }

  #simple(information: number): Value {
    if (information === 20 || information === 21) return information === 21;
    if (information === 22) return null;
    if (information === 23) return undefined;
    if (information === 25) return this.#view.getFloat16(this.#skip(2));
    if (information === 26) return this.#view.getFloat32(this.#skip(4));
    if (information === 27) return this.#view.getFloat64(this.#skip(8));
    throw new Fault('a value is of no kind that is taken');
  }

  /** RFC 8949 3. Not the shortest form is taken as well; what no number holds exactly is not. */
  #argument(information: number): number {
    if (information < 24) return information;
    if (information === 24) return this.#byte();
    if (information === 25) return this.#view.getUint16(this.#skip(2));
    if (information === 26) return this.#view.getUint32(this.#skip(4));
    if (information !== 27) throw new Fault('a length is in no form that there is');
    const large = this.#view.getBigUint64(this.#skip(8));
    if (large > Number.MAX_SAFE_INTEGER) throw new Fault('a number is too large');
    return Number(large);
  }

  #stops(): boolean {
    if (this.#bytes[this.position] !== stop) return false;
    this.position += 1;
    return true;
  }

  #byte(): number {
    return this.#view.getUint8(this.#skip(1));
  }

  /** Where the bytes begin that are passed over: there are as many, or the payload is cut short. */
  #skip(length: number): number {
    const start = this.position;
    if (length > this.#bytes.length - start) throw new Fault('the payload is cut short');
    this.position += length;
    return start;
  }
}

/** Writes what answers are made of: texts, whole numbers and maps of them, with definite lengths in their shortest form. */
export function writeCbor(value: unknown): Buffer {
  if (typeof value === 'string') {
    const bytes = Buffer.from(value);
    return Buffer.concat([head(majors.text, bytes.length), bytes]);
  }
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return head(majors.unsigned, value);
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new TypeError('no answer is made of this');
  const entries = Object.entries(value).filter(([, part]) => part !== undefined);
  return Buffer.concat([head(majors.map, entries.length), ...entries.flatMap((entry) => entry.map(writeCbor))]);
}

function head(major: number, argument: number): Buffer {
  if (argument < 24) return Buffer.of((major << 5) | argument);
  const bytes = Buffer.alloc(argument < 0x100 ? 2 : argument < 0x10000 ? 3 : 5);
  bytes.writeUInt8((major << 5) | { 2: 24, 3: 25, 5: 26 }[bytes.length as 2 | 3 | 5], 0);
  bytes.writeUIntBE(argument, 1, bytes.length - 1);
  return bytes;
}
