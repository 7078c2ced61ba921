// Files written in whole pages: what does not fill one, memory that a disk refuses, what fails; and large parts of
// checkpoints, which take several buffers.
import { randomBytes } from 'node:crypto';
import { type FileHandle, mkdtemp, open, readFile, rm, statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { alignedBytes, ops, type Tensor, tensor } from '../../lib/core/index.js';
import { planPart, type TensorPart, writePart, writePartInBackground } from '../../lib/io/index.js';
import { PAGE, PageWriter } from '../../lib/io/page-writer.js';

let dir: string;
let path: string;
let file: FileHandle;
let writer: PageWriter;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'shardloop-pages-'));
  path = join(dir, 'file');
  file = await open(path, 'wx');
  writer = await PageWriter.open(file, path);
});
afterEach(async () => {
  await writer.close();
  await file.close();
  await rm(dir, { recursive: true });
});

/** Random bytes in memory that begins `off` behind a page. */
function content(length: number, off = 0): Uint8Array {
  const bytes = alignedBytes(length + off, PAGE).subarray(off);
  bytes.set(randomBytes(length));
  return bytes;
}
const write = async (bytes: Uint8Array, at: number, isSync: boolean) =>
  isSync ? writer.writeSync(bytes, at) : await writer.write(bytes, at);

describe.each([
  ['by the thread itself', true],
  ['beside it', false],
])('a file of pages, written %s', (_, isSync) => {
  it('holds every byte, the last page need not be full', async () => {
    const bytes = content(5 * PAGE + 17);
    await write(bytes.subarray(0, 3 * PAGE), 0, isSync);
    await write(bytes.subarray(3 * PAGE), 3 * PAGE, isSync);
    await write(bytes.subarray(0, 0), 5 * PAGE, isSync);
    expect(Buffer.compare(await readFile(path), bytes)).toBe(0);
  });

  it('holds them too when the disk does not take the memory', async () => {
    const bytes = content(4 * PAGE + 1, 1);
    await write(bytes.subarray(0, PAGE), 0, isSync);
    expect(writer.isDirect).toBe(false);
    await write(bytes.subarray(PAGE), PAGE, isSync);
    expect(Buffer.compare(await readFile(path), bytes)).toBe(0);
  });

  it('says what went wrong', async () => {
    await writer.close();
    await file.close();
    file = await open(path, 'r');
    writer = await PageWriter.open(file, '/dev/full');
    await expect(async () => write(content(10), 0, isSync)).rejects.toMatchObject({ code: 'EBADF' });
  });
});

it.runIf(process.platform === 'linux')('ext4 and XFS are written past the cache, others through it', async () => {
  expect(writer.isDirect).toBe([0xef53, 0x58465342].includes((await statfs(dir)).type));
  const other = await PageWriter.open(file, '/proc/self/stat');
  expect(other.isDirect).toBe(false);
});

it('a part of many buffers is the same in both ways, and its sum is that of the file', async () => {
  const random = (length: number): Tensor => tensor(randomBytes(length), { dtype: 'uint8' });
  const tensors: [string, Tensor][] = [
    ['odd', random((3 << 20) + 1)],
    ['wide', ops.view(random(8 * 40_001), 'float64')],
    ['half', ops.t(ops.view(ops.view(random(2 * 1000 * 1001), 'bfloat16'), [1000, 1001]))],
    ['long', random((33 << 20) + 5)], // longer than a piece of the copy
    ['none', random(0)],
  ];
  const parts = tensors.map(([name, t]): [string, TensorPart] => [name, { tensor: t, shape: t.shape, start: 0 }]);
  const plan = planPart(0, { model: new Map(parts) });
  const one = await writePart(dir, plan);
  const two = await writePartInBackground(dir, { ...plan, file: 'two' }).written;
  const slow = await writePartInBackground(dir, { ...plan, file: 'slow' }, { throttleMb: 200 }).written;
  const bytes = await readFile(join(dir, one.file));
  expect([one.bytes, one.crc32]).toEqual([bytes.byteLength, crc32(bytes)]);
  for (const { file, ...said } of [two, slow]) {
    expect(said).toMatchObject({ bytes: one.bytes, crc32: one.crc32 });
    expect(Buffer.compare(await readFile(join(dir, file)), bytes)).toBe(0);
  }
  const end = bytes.subarray(-Number((33 << 20) + 5 + (3 << 20) + 1)); // narrow ones last, by name
  expect(Buffer.compare(end.subarray(0, (33 << 20) + 5), tensors[3]![1].dataSync() as Uint8Array)).toBe(0);
  expect(Buffer.compare(end.subarray((33 << 20) + 5), tensors[0]![1].dataSync() as Uint8Array)).toBe(0);
});
