import { CsvError, parse } from 'csv-parse/sync';
import { beginningOf, lineBytesMax, type Format, type Found } from './lines.ts';

const badQuotes = {
  code: 'bad-quotes',
  detail:
    'a quote is not closed, or stands where none may: a field is in quotes as a whole, and quotes in it are doubled',
};

/**
 * Lines of a CSV (RFC 4180), as text: fields divided by commas, in quotes where need be, lines that end in CRLF or LF. What is
 * not UTF-8 becomes U+FFFD. Where quotes are at fault, one line of text is given up, and reading goes on with the next.
 */
export const csv: Format<string[]> = (piece, isLast) => {
  const found: Found<string[]>[] = [];
  // At the end of a line of text, no quote and no CR waits for what follows it.
  const end = isLast ? piece.length : piece.lastIndexOf('\n') + 1;
  let from = beginningOf(piece);
  while (from < end) {
    const fault = readRows(piece.subarray(from, end), (said, length, start) =>
      found.push({ from: from + start, to: from + length, said }),
    );
    from = beginningOf(piece, found.at(-1)?.to ?? from);
    if (!fault || (fault === 'CSV_QUOTE_NOT_CLOSED' && !isLast)) return found;
    const at = piece.indexOf('\n', from);
    const to = at >= 0 && at < end ? at + 1 : end;
    found.push({ from, to, fault: badQuotes });
    from = beginningOf(piece, to);
  }
  return found;
};

/** Gives each row with its end and its beginning; returns the code of what ended the reading before the end. */
function readRows(text: Buffer, give: (row: string[], end: number, start: number) => void): string | undefined {
  let start = 0;
  try {
    parse(text, {
      record_delimiter: ['\r\n', '\n'],
      relax_column_count: true,
      skip_empty_lines: true,
      max_record_size: lineBytesMax,
      on_record(row: string[], { bytes }) {
        give(row, bytes, start);
        start = beginningOf(text, bytes);
        return null;
      },
    });
    return undefined;
  } catch (error) {
    if (error instanceof CsvError) return error.code;
    throw error;
  }
}
