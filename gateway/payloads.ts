const depthMax = 16;

export type Parsed =
  | { value: unknown }
  | { fault: { code: 'InvalidJson' | 'InvalidCbor' | 'InvalidRequest'; detail: string } };

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * Reads a JSON payload as devices in the field send it: no bytes at all mean `{}`, and NULs after the end are taken for
 * the terminator of a C string. Of duplicate keys the last one counts. Must be an object, at most 16 levels deep.
 */
export function parsePayload(payload: Uint8Array, bytesMax: number): Parsed {
  if (payload.length > bytesMax) return fault('InvalidRequest', `the payload is larger than ${bytesMax} bytes`);
  let end = payload.length;
  while (end > 0 && payload[end - 1] === 0) end -= 1;
  if (end === 0) return { value: {} };
  let value: unknown;
  try {
    value = JSON.parse(utf8.decode(payload.subarray(0, end)));
  } catch (error) {
    const isEncoding = error instanceof TypeError;
    return fault('InvalidJson', isEncoding ? 'the payload is not UTF-8' : 'the payload is not JSON');
  }
  if (!isRecord(value)) return fault('InvalidRequest', 'the payload is not a JSON object');
  if (isDeeper(value, depthMax))
    return fault('InvalidRequest', `the payload is nested more than ${depthMax} levels deep`);
  return { value };
}

const fault = (code: 'InvalidJson' | 'InvalidRequest', detail: string): Parsed => ({ fault: { code, detail } });

function isDeeper(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((inner) => isDeeper(inner, levels - 1));
}

/** A UUID as we write it: in lower case. */
export const isUuid = (text: string): boolean => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(text);

export const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

// oxlint-disable-next-line no-control-regex -- control characters are what is looked for
const controls = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/g;

/**
 * A text that every column can hold: scalars become their text, control characters and halves of surrogate pairs their
 * replacement, and what is too long is cut. Undefined when it is no scalar.
 */
export function scrubText(value: unknown, lengthMax: number): string | undefined {
  if (typeof value !== 'string' && typeof value !== 'number' && typeof value !== 'boolean') return undefined;
  return String(value).replaceAll(controls, '\ufffd').slice(0, lengthMax).toWellFormed();
}
