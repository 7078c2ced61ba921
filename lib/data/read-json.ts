// Records out of JSON: a file that is one array, or one value a line (JSONL). Every record knows its line.
import { readLines, readText } from './data-file.js';
import { arrayElements, JsonSyntaxError, skipValue, textAt } from './json-scan.js';
import { badRecord, type RecordSource } from './record-shape.js';

/** A parsed value and where it stands. */
export interface RawRecord {
  readonly value: unknown;
  readonly source: RecordSource;
}

/** The elements of a JSON file that is an array. */
export async function* readJsonArray(file: string): AsyncGenerator<RawRecord> {
  const text = await readText(file);
  let at = 0;
  let line = 1;
  const lineOf = (offset: number): number => {
    for (let i = text.indexOf('\n', at); i !== -1 && i < offset; i = text.indexOf('\n', i + 1)) line += 1;
    at = offset;
    return line;
  };
  if (text.trim() === '') return;
  try {
    for (const [start, end] of arrayElements(text)) {
      const source = { file, line: lineOf(start) };
      yield { value: JSON.parse(text.slice(start, end)), source };
    }
  } catch (error) {
    if (!(error instanceof JsonSyntaxError)) throw error;
    const hint = text.trimStart().startsWith('{') ? '. If it has one record a line, say so: format jsonl' : '';
    const source = { file, line: lineOf(error.offset) };
    throw badRecord(source, `expected ${error.expected}, got ${textAt(text, error.offset)}${hint}`, error);
  }
}

/** The values of a JSONL file, one a line; blank lines are passed over. */
export async function* readJsonLines(file: string, maxBytes: number): AsyncGenerator<RawRecord> {
  for await (const { text, source } of readLines(file, maxBytes)) {
    if (text.trim() === '') continue;
    yield { value: parseLine(text, source), source };
  }
}

/** One JSON value that is the whole text. Throws BAD_RECORD with the column. */
export function parseLine(text: string, source: RecordSource): unknown {
  const start = text.length - text.trimStart().length;
  try {
    const end = skipValue(text, start);
    const rest = text.slice(end).search(/\S/);
    if (rest !== -1) throw new JsonSyntaxError(end + rest, 'the end of the line after the value');
    return JSON.parse(text.slice(start, end));
  } catch (error) {
    if (!(error instanceof JsonSyntaxError))
      throw badRecord(source, `expected JSON: ${(error as Error).message}`, error);
    const column = `column ${error.offset + 1}`;
    throw badRecord(source, `expected ${error.expected}, got ${textAt(text, error.offset)} at ${column}`, error);
  }
}
