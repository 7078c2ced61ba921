// A data file as bytes, UTF-8 text or lines, whatever the size: gunzips by the magic number, drops a byte order mark, and
// names the file and line where something is wrong. What the text means stands in the readers of each format.
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createGunzip } from 'node:zlib';
import { ShardloopError } from '../core/errors.js';
import { badRecord, type RecordSource } from './record-shape.js';

const NEWLINE = 0x0a;

/** The bytes of a file in chunks, unpacked when it is gzipped. Throws BAD_RECORD when it cannot be read. */
export async function* readBytes(file: string): AsyncGenerator<Buffer> {
  await checkFile(file);
  const input = createReadStream(file);
  let first: Buffer | null = null;
  try {
    const chunks = input[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
    const start = await chunks.next();
    if (start.done) return;
    first = start.value;
    if (first[0] !== 0x1f || first[1] !== 0x8b) {
      yield first;
      for (let next = await chunks.next(); !next.done; next = await chunks.next()) yield next.value;
      return;
    }
  } catch (error) {
    throw unreadable(file, error);
  } finally {
    input.destroy();
  }
  yield* gunzip(file);
}

async function* gunzip(file: string): AsyncGenerator<Buffer> {
  const input = createReadStream(file);
  const unpacked = createGunzip();
  input.once('error', (error) => unpacked.destroy(error));
  input.pipe(unpacked);
  try {
    for await (const chunk of unpacked) yield chunk as Buffer;
  } catch (error) {
    throw unreadable(file, error);
  } finally {
    input.destroy();
    unpacked.destroy();
  }
}

function unreadable(file: string, error: unknown): ShardloopError {
  if (error instanceof ShardloopError) return error;
  return new ShardloopError('BAD_RECORD', `${file}: cannot be read: ${(error as Error).message}`, { cause: error });
}

/** Throws BAD_RECORD unless there is such a file and it holds something; returns its size in bytes. */
export async function checkFile(file: string): Promise<number> {
  const found = await stat(file).catch((error: NodeJS.ErrnoException) => {
    throw unreadable(file, error.code === 'ENOENT' ? new Error('there is no such file') : error);
  });
  if (!found.isFile()) throw new ShardloopError('BAD_RECORD', `${file}: expected a file, got a directory or a device`);
  return found.size;
}

/** A line's text without its line end, and its number from 1. */
export interface Line {
  readonly text: string;
  readonly source: RecordSource;
}

/**
 * The lines of a UTF-8 file (LF or CRLF), without a byte order mark. Throws BAD_RECORD with the line's number where the
 * bytes are not UTF-8, and where a line is longer than `maxBytes`.
 */
export async function* readLines(file: string, maxBytes: number): AsyncGenerator<Line> {
  let line = 0;
  for await (const bytes of splitLines(file, maxBytes)) {
    line += 1;
    const text = decodeUtf8(bytes, { file, line });
    yield { text: line === 1 && text.startsWith('\ufeff') ? text.slice(1) : text, source: { file, line } };
  }
}

async function* splitLines(file: string, maxBytes: number): AsyncGenerator<Buffer> {
  let parts: Buffer[] = [];
  let length = 0;
  let line = 1;
  for await (const chunk of readBytes(file)) {
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      check(length + end - start);
      parts.push(chunk.subarray(start, end));
      yield withoutReturn(parts);
      parts = [];
      length = 0;
      line += 1;
      start = end + 1;
    }
    if (start < chunk.length) parts.push(chunk.subarray(start));
    length += chunk.length - start;
    check(length);
  }
  if (length > 0) yield withoutReturn(parts);

  function check(bytes: number): void {
    if (bytes <= maxBytes) return;
    const advice = 'Is it one record a line? A larger limit is the option maxRecordBytes';
    throw badRecord({ file, line }, `expected a line of at most ${maxBytes} bytes, got a longer one. ${advice}`);
  }
}

function withoutReturn(parts: readonly Buffer[]): Buffer {
  const bytes = parts.length === 1 ? parts[0]! : Buffer.concat(parts);
  return bytes.at(-1) === 0x0d ? bytes.subarray(0, -1) : bytes;
}

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decodeUtf8(bytes: Buffer, source: RecordSource): string {
  try {
    return strict.decode(bytes);
  } catch (error) {
    throw badRecord(source, `expected UTF-8 text, got ${wrongBytes(bytes)}. Save the file as UTF-8`, error);
  }
}

/** The whole text of a UTF-8 file without its byte order mark; line ends as they are. Throws like {@link readLines}. */
export async function readText(file: string): Promise<string> {
  const chunks: Buffer[] = [];
  let total = 0;
  for await (const chunk of readBytes(file)) {
    chunks.push(chunk);
    total += chunk.length;
    if (total > 512 * 2 ** 20) {
      throw new ShardloopError(
        'BAD_RECORD',
        `${file}: expected at most 512 MiB to read at once; use JSONL, read by lines`,
      );
    }
  }
  const bytes = Buffer.concat(chunks);
  try {
    const text = strict.decode(bytes);
    return text.startsWith('\ufeff') ? text.slice(1) : text;
  } catch (error) {
    const at = firstWrongByte(bytes);
    let line = 1;
    for (let i = bytes.indexOf(NEWLINE); i !== -1 && i < at; i = bytes.indexOf(NEWLINE, i + 1)) line += 1;
    const message = `expected UTF-8 text, got ${wrongBytes(bytes.subarray(at))}. Save the file as UTF-8`;
    throw badRecord({ file, line }, message, error);
  }
}

/** Where the UTF-8 of these bytes breaks: the longest prefix that decodes, by bisection. */
function firstWrongByte(bytes: Buffer): number {
  let good = 0;
  let bad = bytes.length;
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    try {
      new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, middle), { stream: true });
      good = middle;
    } catch {
      bad = middle;
    }
  }
  return Math.max(0, bad - 1);
}

function wrongBytes(bytes: Buffer): string {
  const at = firstWrongByte(bytes);
  return `the byte 0x${bytes[at]!.toString(16).padStart(2, '0')}`;
}
