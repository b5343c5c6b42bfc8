import { beginningOf, type Format, type Found, type LineFault } from './lines.ts';

const fatal = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Lines of newline-delimited JSON, parsed. Empty lines are passed over. */
export const ndjson: Format<unknown> = (piece, isLast) => {
  const found: Found<unknown>[] = [];
  for (let from = beginningOf(piece); from < piece.length; from = beginningOf(piece, found.at(-1)?.to ?? from)) {
    const at = piece.indexOf('\n', from);
    if (at < 0 && !isLast) return found;
    const to = at < 0 ? piece.length : at + 1;
    found.push({ from, to, ...parse(piece.subarray(from, to)) });
  }
  return found;
};

function parse(line: Buffer): { said: unknown } | { fault: LineFault } {
  try {
    return { said: JSON.parse(fatal.decode(line)) };
  } catch (error) {
    if (error instanceof SyntaxError) return { fault: { code: 'bad-json', detail: 'the line is not JSON' } };
    return { fault: { code: 'bad-encoding', detail: 'the line is not UTF-8' } };
  }
}
