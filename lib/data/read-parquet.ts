// Records out of Parquet, row group by row group, with the usual compressions; a record's line is its row, from 1.
import {
  type AsyncBuffer,
  asyncBufferFromFile,
  type FileMetaData,
  parquetMetadataAsync,
  parquetRead,
  parquetReadObjects,
  parquetSchema,
} from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { ShardloopError } from '../core/errors.js';
import { checkFile } from './data-file.js';
import type { RawRecord } from './read-json.js';

type ReadOptions = Parameters<typeof parquetRead>[0] & { metadata: FileMetaData };
type RowGroup = FileMetaData['row_groups'][number];

/** The columns that records are made of; others are not read. */
const COLUMNS = ['messages', 'prompt', 'response', 'instruction', 'input', 'output', 'text'];

/** The rows of a Parquet file as objects. 64-bit integers come as BigInt, strings as text. */
export async function* readParquet(file: string): AsyncGenerator<RawRecord> {
  if ((await checkFile(file)) === 0) return;
  let row = 0;
  try {
    const buffer: AsyncBuffer = await asyncBufferFromFile(file);
    const metadata = await parquetMetadataAsync(buffer);
    const top = parquetSchema(metadata).children;
    const known = top.map((child) => child.element.name).filter((name) => COLUMNS.includes(name));
    const columns = known.length > 0 ? known : undefined; // with none of them, all, so that the error can name them
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const options = { file: buffer, metadata, compressors, columns, rowStart, rowEnd };
      await decodeAlone(options, group);
      const rows = await parquetReadObjects(options);
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

/**
 * Decodes every column chunk of a row group by itself and throws what is wrong with it. hyparquet starts all chunks at once
 * and, where two are damaged, leaves one rejection without a handler, which would end the process.
 */
async function decodeAlone(options: ReadOptions, group: RowGroup): Promise<void> {
  const { metadata, columns } = options;
  for (const chunk of group.columns) {
    const name = chunk.meta_data?.path_in_schema[0];
    if (columns && name !== undefined && !columns.includes(name)) continue;
    const alone = { ...metadata, row_groups: [{ ...group, columns: [chunk] }] };
    await parquetRead({ ...options, metadata: alone, rowStart: 0, rowEnd: Number(group.num_rows) });
  }
}
