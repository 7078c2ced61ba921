// Records out of Parquet, row group by row group, with the usual compressions; a record's line is its row, from 1.
import {
  type AsyncBuffer,
  asyncBufferFromFile,
  parquetMetadataAsync,
  parquetReadObjects,
  parquetSchema,
} from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { ShardloopError } from '../core/errors.js';
import { checkFile } from './data-file.js';
import type { RawRecord } from './read-json.js';

/** The columns that records are made of; others are not read. */
const COLUMNS = ['messages', 'prompt', 'response', 'instruction', 'input', 'output', 'text'];

/** The rows of a Parquet file as objects. 64-bit integers come as BigInt, strings as text. */
export async function* readParquet(file: string): AsyncGenerator<RawRecord> {
  if ((await checkFile(file)) === 0) return;
  let row = 0;
  try {
    const buffer: AsyncBuffer = await asyncBufferFromFile(file);
    const metadata = await parquetMetadataAsync(buffer);
    const top = parquetSchema(metadata).children.map((child) => child.element.name);
    const columns = COLUMNS.filter((name) => top.includes(name));
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const options = { file: buffer, metadata, compressors, rowStart, rowEnd };
      const rows = await parquetReadObjects(columns.length > 0 ? { ...options, columns } : options);
      for (const value of rows) {
        row += 1;
        yield { value, source: { file, line: row } };
      }
      rowStart = rowEnd;
    }
  } catch (error) {
    if (error instanceof ShardloopError) throw error;
    const message = `${file}:${row + 1}: expected a Parquet file: ${(error as Error).message}`;
    throw new ShardloopError('BAD_RECORD', message, { cause: error });
  }
}
