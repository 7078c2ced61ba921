// Records out of CSV with a header line (RFC 4180: quoted fields may hold commas, quotes and line ends).
import { parse } from 'csv-parse';
import { ShardloopError } from '../core/errors.js';
import { readBytes } from './data-file.js';
import { parseLine, type RawRecord } from './read-json.js';
import { badRecord, shapeOf } from './record-shape.js';

/** The rows of a CSV file as objects of strings, each with the line that it begins on; "messages" is read as JSON. */
export async function* readCsv(file: string, maxBytes: number): AsyncGenerator<RawRecord> {
  const starts: number[] = []; // the lines on which the rows begin, in order
  let line = 1; // of the row that the parser took last
  const parser = parse({
    bom: true,
    skip_empty_lines: true,
    max_record_size: maxBytes,
    on_record(record: unknown) {
      line = starts.shift() ?? line;
      return { record, line } as unknown as string[]; // the type of Options knows no other results
    },
  });
  let header: string[] | null = null;
  const feeding = feed(file, parser, starts);
  feeding.catch((error: Error) => parser.destroy(error));
  try {
    for await (const entry of parser) {
      const { record, line: begun } = entry as { record: string[]; line: number };
      const source = { file, line: begun };
      if (header === null) {
        header = checkHeader(record, file);
        continue;
      }
      const value: Record<string, unknown> = Object.fromEntries(header.map((key, i) => [key, record[i]]));
      if (typeof value.messages === 'string') value.messages = parseLine(value.messages, source);
      yield { value, source };
    }
    await feeding;
  } catch (error) {
    if (error instanceof ShardloopError) throw error;
    const { code, message } = error as Error & { code?: string };
    throw badRecord({ file, line: starts.shift() ?? line }, csvProblem(code, message), error);
  } finally {
    parser.destroy();
  }
}

function csvProblem(code: string | undefined, message: string): string {
  if (code === 'CSV_RECORD_INCONSISTENT_FIELDS_LENGTH') {
    const [, fields, got] = /expect (\d+), got (\d+)/.exec(message) ?? [];
    return `expected ${fields ?? 'as many'} fields as in the header, got ${got ?? 'another number'}`;
  }
  if (code === 'CSV_MAX_RECORD_SIZE') return 'expected a shorter row; the limit is the option maxRecordBytes';
  return `expected CSV: ${message}`;
}

function checkHeader(record: string[], file: string): string[] {
  const header = record.map((name) => name.trim());
  const twice = header.find((name, i) => header.indexOf(name) !== i);
  if (twice !== undefined) throw badRecord({ file, line: 1 }, `expected different column names, got "${twice}" twice`);
  if (shapeOf(Object.fromEntries(header.map((name) => [name, '']))) === null) {
    const expected = 'a header with prompt,response or messages or instruction,input,output or text';
    throw badRecord({ file, line: 1 }, `expected ${expected}, got ${header.slice(0, 8).join(',').slice(0, 80)}`);
  }
  return header;
}

/** Feeds the parser, checks that the bytes are UTF-8, and notes the line on which each row begins. */
async function feed(file: string, parser: ReturnType<typeof parse>, starts: number[]): Promise<void> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let line = 1;
  let quoted = false;
  let fresh = true; // at the beginning of a row, nothing of it seen yet
  let returned = false; // the last character was a carriage return
  const note = (text: string): void => {
    for (let i = 0; i < text.length; i++) {
      const character = text.charCodeAt(i);
      const lineFeed = character === 0x0a;
      if (returned || lineFeed) {
        line += 1;
        if (!quoted) fresh = true;
      }
      returned = character === 0x0d && text.charCodeAt(i + 1) !== 0x0a && i + 1 < text.length;
      if (lineFeed || character === 0x0d) continue;
      if (fresh) starts.push(line);
      fresh = false;
      if (character === 0x22) quoted = !quoted;
    }
  };
  for await (const chunk of readBytes(file)) {
    let text: string;
    try {
      text = decoder.decode(chunk, { stream: true });
    } catch (error) {
      throw badRecord(
        { file, line },
        'expected UTF-8 text, got other bytes near this line. Save the file as UTF-8',
        error,
      );
    }
    note(text);
    if (parser.destroyed) return;
    if (!parser.write(text)) await new Promise((resolve) => parser.once('drain', resolve).once('close', resolve));
  }
  try {
    decoder.decode();
  } catch (error) {
    throw badRecord({ file, line }, 'expected UTF-8 text, got half a character at the end', error);
  }
  parser.end();
}
