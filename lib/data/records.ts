// Reads the records of data files: JSON, JSONL, CSV, Parquet and plain text, gzipped or not. Every bad record is a
// BAD_RECORD error that names file and line. Each format has a file of its own; what a record is stands in record-shape.ts.
import { statSync } from 'node:fs';
import { basename } from 'node:path';
import { ShardloopError } from '../core/errors.js';
import { forCommand } from '../core/option-names.js';
import { checkOptions } from '../core/options.js';
import { readLines } from './data-file.js';
import { type RawRecord, readJsonArray, readJsonLines } from './read-json.js';
import { badRecord, type DataRecord, parseRecord, type RecordShape, type TextRecord } from './record-shape.js';

/** The formats of data files. */
export type DataFormat = 'json' | 'jsonl' | 'csv' | 'parquet' | 'text';

/** How to read a data file. */
export interface ReadOptions {
  /** By default the file name's ending decides: .json, .jsonl or .ndjson, .csv, .parquet, .txt or .md (each also .gz). */
  format?: DataFormat;
  /** Plain text: one record a paragraph (blank lines between), a line, or the whole file. Default `paragraph`. */
  textBy?: 'paragraph' | 'line' | 'document';
  /** The longest line, row or paragraph in bytes. Default 64 MiB. */
  maxRecordBytes?: number;
}

const ENDINGS: Record<string, DataFormat> = {
  json: 'json',
  jsonl: 'jsonl',
  ndjson: 'jsonl',
  csv: 'csv',
  parquet: 'parquet',
  txt: 'text',
  md: 'text',
};

/** The format that a file's name announces. Throws BAD_RECORD when it announces none. */
export function formatOf(file: string): DataFormat {
  const name = basename(file).toLowerCase().replace(/\.gz$/, '');
  const ending = name.split('.').at(-1)!;
  const format = Object.hasOwn(ENDINGS, ending) ? ENDINGS[ending] : undefined;
  if (format) return format;
  const known = Object.keys(ENDINGS).map((each) => `.${each}`);
  const received = name.includes('.') ? `.${ending}` : 'a name without an ending';
  const formats = [...new Set(Object.values(ENDINGS))];
  const option = forCommand(
    `--format ${formats.join('|')}`,
    `the option format: one of ${formats.map((each) => `'${each}'`).join(', ')}`,
  );
  throw new ShardloopError(
    'BAD_RECORD',
    `${file}: expected a name ending in ${known.join(', ')} (each also with .gz), received ${received}; ` +
      `convert or rename the file, or say what it holds with ${option}`,
  );
}

const OPTIONS = ['format', 'textBy', 'maxRecordBytes'];

/**
 * The records of one file, in its order. Throws BAD_RECORD at the first one that is wrong, when records are of different
 * shapes, and when there are none.
 */
export async function* readRecords(file: string, options: ReadOptions = {}): AsyncGenerator<DataRecord> {
  checkOptions('readRecords', options, OPTIONS);
  if (statSync(file, { throwIfNoEntry: false })?.isDirectory())
    throw new ShardloopError('BAD_RECORD', `${file}: expected a file, got a directory; name the files in it`);
  const format = options.format ?? formatOf(file);
  const maxBytes = options.maxRecordBytes ?? 64 * 2 ** 20;
  let first: { shape: RecordShape; line: number } | null = null;
  if (format === 'text') {
    let any = false;
    for await (const record of readTextRecords(file, options.textBy ?? 'paragraph', maxBytes)) {
      any = true;
      yield record;
    }
    if (!any) throw badRecord({ file, line: 1 }, 'expected some text, got an empty file');
    return;
  }
  for await (const { value, source } of await rawRecords(file, format, maxBytes)) {
    const { record, shape } = parseRecord(value, source);
    first ??= { shape, line: source.line };
    if (shape !== first.shape) {
      throw badRecord(
        source,
        `expected ${first.shape} as in line ${first.line}, got ${shape}. Use a file for each shape`,
      );
    }
    yield record;
  }
  if (first === null) throw badRecord({ file, line: 1 }, 'expected at least one record, got none');
}

/** All records of one or several files. Throws like {@link readRecords}, before anything is trained on them. */
export async function loadRecords(files: string | readonly string[], options: ReadOptions = {}): Promise<DataRecord[]> {
  checkOptions('loadRecords', options, OPTIONS);
  const records: DataRecord[] = [];
  for (const file of typeof files === 'string' ? [files] : files) {
    for await (const record of readRecords(file, options)) records.push(record);
  }
  return records;
}

async function rawRecords(
  file: string,
  format: Exclude<DataFormat, 'text'>,
  maxBytes: number,
): Promise<AsyncGenerator<RawRecord>> {
  if (format === 'json') return readJsonArray(file);
  if (format === 'jsonl') return readJsonLines(file, maxBytes);
  // Their parsers are loaded when a file needs them.
  if (format === 'csv') return (await import('./read-csv.js')).readCsv(file, maxBytes);
  return (await import('./read-parquet.js')).readParquet(file);
}

async function* readTextRecords(
  file: string,
  by: 'paragraph' | 'line' | 'document',
  maxBytes: number,
): AsyncGenerator<TextRecord> {
  let lines: string[] = [];
  let start = 1;
  let length = 0;
  const take = (): TextRecord[] => {
    const text = lines.join('\n').replace(/^\n+/, '').trimEnd();
    lines = [];
    length = 0;
    return text.trim() === '' ? [] : [{ kind: 'text', text, source: { file, line: start } }];
  };
  for await (const { text, source } of readLines(file, maxBytes)) {
    const blank = text.trim() === '';
    if (by === 'line' || (by === 'paragraph' && blank)) yield* take();
    if (lines.length === 0) {
      if (blank) continue;
      start = source.line;
    }
    lines.push(text);
    length += text.length + 1;
    if (by !== 'document' && length > maxBytes) {
      throw badRecord({ file, line: start }, `expected a paragraph of at most ${maxBytes} bytes, got a longer one`);
    }
  }
  yield* take();
}
