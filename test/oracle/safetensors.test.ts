// safetensors files between here and Python's library, both ways, every dtype that both have; the sums of checkpoints.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { type DType, ops, type Tensor, tensor } from '../../lib/core/index.js';
import { readSafetensors, saveCheckpoint, writeSafetensors } from '../../lib/io/index.js';
import { type HostTensor, python, toHost } from './python.js';

const root = mkdtempSync(join(tmpdir(), 'shardloop-safetensors-'));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const DTYPES: DType[] = [
  'float64',
  'float32',
  'float16',
  'bfloat16',
  'int64',
  'int32',
  'int16',
  'int8',
  'uint8',
  'bool',
];

function samples(): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  const base = tensor([0, 1, -2.5, 3.25, 100, -7, 0.5, 12, 1], { shape: [3, 3] });
  for (const dtype of DTYPES) {
    const source = dtype === 'uint8' || dtype === 'bool' ? ops.abs(base) : base;
    const full = ops._to_copy(source, { dtype });
    tensors.set(`${dtype}.matrix`, full);
    tensors.set(`${dtype}.transposed`, ops.t(full));
    tensors.set(`${dtype}.scalar`, full.get(1, 1));
    tensors.set(`${dtype}.empty`, full.get(0).narrow(0, 0, 0));
    tensors.set(`${dtype}.odd`, full.get(2));
  }
  tensors.set('complex64', ops.complex(base, ops.t(base)));
  return tensors;
}

function expectSame(a: HostTensor, b: HostTensor): void {
  expect({ dtype: a.dtype, shape: a.shape }).toEqual({ dtype: b.dtype, shape: b.shape });
  expect(Buffer.compare(a.data, b.data)).toBe(0);
}

it('written here reads there, to the bit', async () => {
  const path = join(root, 'ours.safetensors');
  const tensors = samples();
  await writeSafetensors(path, tensors, { format: 'pt', note: 'größer ☃' });
  const { value, tensors: theirs } = await python('safetensors_files', { do: 'read', path });
  expect(value).toEqual({ format: 'pt', note: 'größer ☃' });
  expect([...theirs.keys()].sort()).toEqual([...tensors.keys()].sort());
  for (const [name, t] of tensors) expectSame(theirs.get(name)!, toHost(t));
});

it('written there reads here, to the bit', async () => {
  const path = join(root, 'theirs.safetensors');
  const host = new Map([...samples()].map(([name, t]) => [name, toHost(t)]));
  await python('safetensors_files', { do: 'write', path, metadata: { a: 'b' } }, host);
  const file = await readSafetensors(path);
  expect(file.metadata).toEqual({ a: 'b' });
  expect([...file.names].sort()).toEqual([...host.keys()].sort());
  for (const [name, t] of host) expectSame(toHost(file.tensor(name)), t);
});

it('the sums of a checkpoint are those of zlib', async () => {
  const large = ops.randint(0, 256, [(5 << 20) + 3], { dtype: 'uint8' });
  const tensors = { model: samples(), large: new Map([['t', large]]) };
  const path = await saveCheckpoint(root, 1, { tensors, state: { note: '☃' } });
  const { files } = JSON.parse(readFileSync(join(path, 'manifest.json'), 'utf8'));
  const names = Object.keys(files);
  expect(names).toContain('part-00000.safetensors');
  const { value } = await python('safetensors_files', { do: 'crc32', paths: names.map((name) => join(path, name)) });
  expect(names.map((name) => files[name].crc32)).toEqual(value);
});
