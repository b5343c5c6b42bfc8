/** A place in a file: so many bytes are before it, and the line that begins there has this number, counted from 1. */
export type Place = { offset: number; line: number };

export type LineFault = { code: string; detail: string };

/** What one line says, which may go over several lines of text where a CSV has quotes; or why it says nothing. */
export type Line<Said> = { line: number; end: Place } & ({ said: Said } | { fault: LineFault });

/** What a format finds in a piece of a file: where it begins and ends in the piece, and what it says. */
export type Found<Said> = { from: number; to: number } & ({ said: Said } | { fault: LineFault });

/**
 * Finds the lines of a piece that begins with a line, and leaves the rest at its end to the next piece, unless this is the
 * last. It keeps nothing between two pieces.
 */
export type Format<Said> = (piece: Buffer, isLast: boolean) => Found<Said>[];

/** Room for a certificate of 16 KiB in base64, with fifty attributes beside it. */
export const lineBytesMax = 128 * 1024;

const newline = 0x0a;
const tooLong: LineFault = { code: 'line-too-long', detail: `a line has ${lineBytesMax} bytes at most` };

/**
 * Reads lines out of a file that comes in chunks, from a place where a line begins, and holds no more of it than a chunk
 * and a line. A line that is too long is a fault, and reading goes on behind it.
 */
export function createLineReader<Said>(format: Format<Said>, start: Place) {
  let rest: Buffer = Buffer.alloc(0);
  let place = start;
  /** Of a line that is too long already, and has not ended yet: how many of its bytes were let go. */
  let skipped = 0;

  function advance(piece: Buffer, from: number, to: number): void {
    place = { offset: place.offset + to - from, line: place.line + countNewlines(piece, from, to) };
  }

  function take(piece: Buffer, { from, to, ...found }: Found<Said>, read: number): Line<Said> {
    advance(piece, read, from);
    const { line } = place;
    advance(piece, from, to);
    if (to - from > lineBytesMax) return { line, end: place, fault: tooLong };
    return { line, end: place, ...found };
  }

  /** The end of the line that is too long, when it is in this chunk. */
  function leaveSkipped(chunk: Buffer, isLast: boolean): Line<Said>[] {
    const at = chunk.indexOf(newline);
    const to = at >= 0 ? at + 1 : chunk.length;
    const { line } = place;
    skipped += to;
    rest = chunk.subarray(to);
    if (at < 0 && !isLast) return [];
    place = { offset: place.offset + skipped, line: line + (at < 0 ? 0 : 1) };
    skipped = 0;
    return [{ line, end: place, fault: tooLong }];
  }

  return {
    /** The lines that are whole with this chunk; with the last one, all that are left. */
    read(chunk: Buffer, isLast: boolean): Line<Said>[] {
      const lines = skipped > 0 ? leaveSkipped(chunk, isLast) : [];
      if (skipped > 0) return lines;
      const piece = lines.length > 0 ? rest : Buffer.concat([rest, chunk]);
      let read = 0;
      for (const found of format(piece, isLast)) {
        lines.push(take(piece, found, read));
        read = found.to;
      }
      rest = piece.subarray(read);
      if (rest.length <= lineBytesMax || isLast) return lines;
      const from = beginningOf(rest);
      advance(rest, 0, from);
      return [...lines, ...leaveSkipped(rest.subarray(from), false)];
    },
  };
}

function countNewlines(bytes: Buffer, from: number, to: number): number {
  let count = 0;
  for (let at = bytes.indexOf(newline, from); at >= 0 && at < to; at = bytes.indexOf(newline, at + 1)) count += 1;
  return count;
}

/** Behind empty lines. */
export function beginningOf(piece: Buffer, from = 0): number {
  let at = from;
  while (piece[at] === newline || (piece[at] === 0x0d && piece[at + 1] === newline)) at += 1;
  return at;
}
