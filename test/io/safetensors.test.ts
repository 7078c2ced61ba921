// safetensors files and folders: round trips, mapping, damage, and what is left on the disk.
import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DType, memory, ops, scope, type Tensor, tensor, zeros } from '../../lib/core/index.js';
import {
  openSafetensorsFolder,
  readSafetensors,
  writeSafetensors,
  writeSafetensorsFolder,
} from '../../lib/io/index.js';
import { parseIndex } from '../../lib/io/safetensors-folder.js';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'shardloop-st-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const DTYPES: DType[] = [
  ...(['float64', 'float32', 'float16', 'bfloat16', 'float8_e4m3fn', 'float8_e5m2'] as const),
  ...(['int64', 'int32', 'int16', 'int8', 'uint8', 'uint16', 'uint32', 'uint64', 'bool', 'complex64'] as const),
];
const bits = (t: Tensor) => Buffer.from((t.dataSync({ bits: true }) as Uint8Array).buffer).toString('hex');

describe('a file', () => {
  // First, so that no garbage of other tests is collected meanwhile.
  it('leaves no tensor alive but those that were asked for', async () => {
    const path = join(dir, 'x.safetensors');
    const a = tensor([1, 2, 3]);
    const before = memory.stats().handles;
    await writeSafetensors(path, new Map([['a', a]]));
    const file = await readSafetensors(path);
    scope(() => {
      file.tensor('a');
    });
    file.close();
    expect(memory.stats().handles).toBe(before);
  });

  it('gives back every dtype to the bit', async () => {
    const path = join(dir, 'x.safetensors');
    const base = tensor([0, 1, 2.5, 3, 100, 7], { shape: [2, 3] });
    const tensors = new Map(DTYPES.map((dtype) => [dtype as string, ops._to_copy(base, { dtype })]));
    const written = await writeSafetensors(path, tensors, { a: 'b' });
    const file = await readSafetensors(path);
    expect(written.bytes).toBe((await readFile(path)).byteLength);
    expect(file.metadata).toEqual({ a: 'b' });
    for (const [name, t] of tensors) {
      const read = file.tensor(name);
      expect([read.dtype, ...read.shape]).toEqual([t.dtype, ...t.shape]);
      expect(bits(read)).toBe(bits(t));
    }
    file.close();
  });

  it('is written in row-major order whatever the strides, without gradients, and in pieces', async () => {
    const path = join(dir, 'x.safetensors');
    const large = ops.arange(5_000_000, { dtype: 'int32' }); // 20 MB: more than one piece
    const weight = tensor([1, 2, 3, 4, 5, 6], { shape: [2, 3], requiresGrad: true });
    await writeSafetensors(
      path,
      new Map([
        ['t', ops.t(weight)],
        ['large', large],
        ['scalar', tensor(7)],
      ]),
    );
    const file = await readSafetensors(path);
    expect(file.tensor('t').toArray()).toEqual([
      [1, 4],
      [2, 5],
      [3, 6],
    ]);
    expect(ops.equal(file.tensor('large'), large)).toBe(true);
    expect(file.tensor('scalar').shape).toEqual([]);
    file.close();
  });

  it('is mapped copy-on-write: tensors can be changed and outlive the file, the file stays', async () => {
    const path = join(dir, 'x.safetensors');
    await writeSafetensors(path, new Map([['a', tensor([1, 2, 3])]]));
    const before = await readFile(path);
    const file = await readSafetensors(path);
    const a = file.tensor('a');
    file.close();
    a.add_(1);
    await rm(path);
    expect(a.toArray()).toEqual([2, 3, 4]);
    await writeFile(path, before);
    expect((await readSafetensors(path)).tensor('a').toArray()).toEqual([1, 2, 3]);
  });

  it('may hold tensors at odd offsets', async () => {
    const json =
      '{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}';
    const head = Buffer.alloc(8);
    head.writeBigUInt64LE(BigInt(json.length));
    const data = Buffer.from([7, ...new Uint8Array(new Float32Array([1.5, -2]).buffer)]);
    const path = join(dir, 'odd.safetensors');
    await writeFile(path, Buffer.concat([head, Buffer.from(json), data]));
    expect((await readSafetensors(path)).tensor('f').toArray()).toEqual([1.5, -2]);
  });

  it('may be empty of tensors, and tensors of elements', async () => {
    const path = join(dir, 'x.safetensors');
    await writeSafetensors(path, new Map());
    expect((await readSafetensors(path)).names).toEqual([]);
    await writeSafetensors(path, new Map([['e', zeros([0, 3], { dtype: 'bfloat16' })]]));
    expect((await readSafetensors(path)).tensor('e').shape).toEqual([0, 3]);
  });

  it('is refused with its name when it is missing, a folder, cut anywhere, or asked for what it lacks', async () => {
    const path = join(dir, 'x.safetensors');
    await expect(readSafetensors(path)).rejects.toMatchObject({
      code: 'BAD_SAFETENSORS',
      message: expect.stringContaining('ENOENT'),
    });
    await expect(readSafetensors(dir)).rejects.toMatchObject({ code: 'BAD_SAFETENSORS' });
    await writeSafetensors(path, new Map([['a', tensor([1, 2, 3])]]));
    const file = await readSafetensors(path);
    expect(() => file.tensor('b')).toThrow(/expected a tensor "b"; the file holds 1/);
    const whole = (await readFile(path)).byteLength;
    for (const length of [whole - 1, whole - 12, 20, 8, 5, 0]) {
      await truncate(path, length);
      await expect(readSafetensors(path)).rejects.toMatchObject({
        code: 'BAD_SAFETENSORS',
        message: expect.stringContaining('x.safetensors'),
      });
    }
  });

  it('that cannot be written leaves nothing behind', async () => {
    const path = join(dir, 'x.safetensors');
    const wrong = new Map([['c', zeros([2], { dtype: 'complex128' })]]);
    await expect(writeSafetensors(path, wrong)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
    const gone = zeros([2]);
    gone.dispose();
    await expect(writeSafetensors(path, new Map([['a', gone]]))).rejects.toMatchObject({ code: 'TENSOR_DISPOSED' });
    expect(await readdir(dir)).toEqual([]);
  });
});

describe('a folder', () => {
  const weights = () =>
    new Map([
      ['a', zeros([100])],
      ['b', zeros([100])],
      ['c', tensor([1, 2])],
    ]);

  it('holds one file, or several with an index, and none of an earlier save', async () => {
    await writeSafetensorsFolder(dir, weights(), { maxShardBytes: 500 });
    expect((await readdir(dir)).sort()).toEqual([
      ...['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors', 'model.safetensors.index.json'],
    ]);
    const source = await openSafetensorsFolder(dir);
    expect(source.names).toEqual(['a', 'b', 'c']);
    expect(source.tensor('c').toArray()).toEqual([1, 2]);
    expect(source.metadata).toEqual({ format: 'pt' });
    expect(() => source.tensor('d')).toThrow(/"d"/);
    source.close();

    await writeFile(join(dir, 'other-00001-of-00002.safetensors'), '');
    await writeSafetensorsFolder(dir, weights());
    expect((await readdir(dir)).sort()).toEqual(['model.safetensors', 'other-00001-of-00002.safetensors']);
    expect((await openSafetensorsFolder(dir)).has('b')).toBe(true);
  });

  it('writes under another stem and with other metadata', async () => {
    await writeSafetensorsFolder(dir, weights(), { stem: 'x.y', metadata: { k: 'v' } });
    expect((await openSafetensorsFolder(dir, 'x.y')).metadata).toEqual({ k: 'v' });
    await expect(writeSafetensorsFolder(dir, weights(), { maxShardBytes: 0 })).rejects.toThrow(/maxShardBytes/);
  });

  it('is refused when it holds a pickle, an index without its file, or a file without its tensor', async () => {
    await writeFile(join(dir, 'pytorch_model.bin'), '');
    await expect(openSafetensorsFolder(dir)).rejects.toThrow(/pytorch_model.bin is a pickle/);
    await writeFile(join(dir, 'model.safetensors.index.json'), '{"weight_map":{"a":"gone.safetensors"}}');
    await expect(openSafetensorsFolder(dir)).rejects.toThrow(/"gone.safetensors", which is not in the folder/);
    await writeSafetensors(join(dir, 'gone.safetensors'), new Map([['b', zeros([1])]]));
    await expect(openSafetensorsFolder(dir)).rejects.toThrow(/expected a tensor "a"/);
  });

  it.each([
    ['no JSON', '{'],
    ['no map', '{}'],
    ['a list', '{"weight_map":[]}'],
    ['a name twice', '{"weight_map":{"a":"x","a":"y"}}'],
    ['a path outside', '{"weight_map":{"a":"../x.safetensors"}}'],
    ['an absolute path', '{"weight_map":{"a":"/x.safetensors"}}'],
    ['no name', '{"weight_map":{"a":""}}'],
    ['a number', '{"weight_map":{"a":1}}'],
  ])('refuses an index with %s', (_, text) => {
    expect(() => parseIndex(text, 'i.json')).toThrow(/i.json: not a sound safetensors index/);
  });
});
