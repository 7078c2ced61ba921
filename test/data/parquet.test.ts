// Parquet files written by pyarrow (test/fixtures/data/make_parquet.py): compressions, row groups, nesting, int64.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { loadRecords } from '../../lib/data/records.js';
import { temporaryFolder } from '../temporary.js';

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/data/${name}.parquet`, import.meta.url));
const read = (name: string) => loadRecords(fixture(name));
const refused = (line: number, message: RegExp) => ({
  code: 'BAD_RECORD',
  message: expect.stringMatching(new RegExp(`\\.parquet:${line}: .*${message.source}`)),
});

it('reads prompt and response (snappy)', async () => {
  expect(await read('dialogues')).toMatchObject([
    { messages: [{ content: 'a' }, { content: '1' }], source: { line: 1 } },
    { messages: [{ content: 'b' }, { content: '2' }], source: { line: 2 } },
    { messages: [{ content: '你' }, { content: '😀' }], source: { line: 3 } },
  ]);
});

it('reads messages with 64-bit weights over row groups (zstd)', async () => {
  const records = await read('messages');
  expect(records).toMatchObject([
    {
      messages: [
        { role: 'user', content: '你好' },
        { role: 'assistant', content: 'Hi', weight: 1 },
      ],
    },
    { messages: [{ content: 'a', weight: 0 }, { content: 'b' }] },
    { messages: [{ content: 'c' }], source: { line: 3 } },
  ]);
});

it('reads Alpaca with a null input (brotli)', async () => {
  expect(await read('alpaca')).toMatchObject([
    { messages: [{ content: 'i\nx' }, { content: 'o' }] },
    { messages: [{ content: 'j' }, { content: 'p' }] },
  ]);
});

it('names an int64 where a string belongs, by row (gzip)', async () => {
  await expect(read('numbers')).rejects.toMatchObject(refused(1, /"response" to be a string, got 1n/));
});

it('refuses a file of which every column is damaged, leaving no rejection behind', async () => {
  const bytes = readFileSync(fixture('messages'));
  const footer = bytes.length - 8 - bytes.readUInt32LE(bytes.length - 8);
  bytes.fill(0xee, 4, footer);
  const path = join(temporaryFolder('parquet'), 'damaged.parquet');
  writeFileSync(path, bytes);
  await expect(loadRecords(path)).rejects.toMatchObject(refused(1, /expected a Parquet file/));
});

it('refuses unknown columns, no rows, and what is not Parquet', async () => {
  await expect(read('unknown')).rejects.toMatchObject(refused(1, /got an object with "id", "title"/));
  await expect(read('empty')).rejects.toMatchObject(refused(1, /at least one record/));
  const dir = temporaryFolder('parquet');
  for (const [name, bytes] of Object.entries({
    none: Buffer.alloc(0),
    text: Buffer.from('prompt,response'),
    cut: readFileSync(fixture('dialogues')).subarray(0, -9),
  })) {
    writeFileSync(join(dir, `${name}.parquet`), bytes);
    await expect(loadRecords(join(dir, `${name}.parquet`))).rejects.toMatchObject({ code: 'BAD_RECORD' });
  }
});
