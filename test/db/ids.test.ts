import { expect, test } from 'vitest';
import { createIds } from '../../db/ids.ts';

test('ids come in order, also within a millisecond, are versioned as 7 and never repeat', () => {
  const next = createIds();
  const ids = Array.from({ length: 20_000 }, next);
  expect(ids.every((id) => /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(id))).toBe(
    true,
  );
  expect(ids).toEqual(ids.toSorted());
  expect(new Set(ids).size).toBe(ids.length);
});
