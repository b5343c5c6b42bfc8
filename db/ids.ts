import { randomUUIDv7 } from 'node:crypto';

/**
 * UUIDs v7 of which each is greater than the one before: Node's own are in no order within a millisecond. The step is
 * random, so that no other process comes upon the same.
 */
export function createIds(): () => string {
  let last: string = randomUUIDv7();
  return () => {
    const fresh = randomUUIDv7();
    last = fresh > last ? fresh : successorOf(last);
    return last;
  };
}

/** Counts in the last group, which has 48 bits; should they run over, the next millisecond is waited for. */
function successorOf(id: string): string {
  const count = Number.parseInt(id.slice(24), 16) + 1 + Math.floor(Math.random() * 0xffff);
  if (count <= 0xffffffffffff) return id.slice(0, 24) + count.toString(16).padStart(12, '0');
  let next = id;
  while (next <= id) next = randomUUIDv7();
  return next;
}
