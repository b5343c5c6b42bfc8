import { createHmac, timingSafeEqual } from 'node:crypto';

const macBytes = 16;

/** Marks the place in a list. Opaque; bound to the list and its filter; made and taken by every process with the key. */
export type Cursors = {
  seal(list: string, place: string[]): string;
  /** Undefined when it was not sealed for this list. */
  open(list: string, cursor: string): string[] | undefined;
};

/** `list` names the list with its filter. */
export function createCursors(key: Uint8Array): Cursors {
  const mac = (list: string, place: string) =>
    createHmac('sha256', key).update(list).update('\0').update(place).digest().subarray(0, macBytes);
  return {
    seal(list, place) {
      const text = JSON.stringify(place);
      return Buffer.concat([mac(list, text), Buffer.from(text)]).toString('base64url');
    },
    open(list, cursor) {
      const bytes = Buffer.from(cursor, 'base64url');
      const text = bytes.subarray(macBytes).toString();
      if (bytes.length <= macBytes || bytes.toString('base64url') !== cursor) return undefined;
      if (!timingSafeEqual(bytes.subarray(0, macBytes), mac(list, text))) return undefined;
      // Only `seal` knows the key, and it seals arrays of strings.
      return JSON.parse(text) as string[];
    },
  };
}
