// The pipe to the oracle itself: every dtype goes to Python and comes back as the same bytes; failures carry their
// traceback. It compares no shardloop code.
import { expect, test } from 'vitest';
import { type HostTensor, numbers, python, relativeError, toHost, typedArray } from './python.js';

const bytesOf = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

test('tensors of every dtype go to Python and back unchanged', async () => {
  const sent = new Map<string, HostTensor>([
    ['f32', { dtype: 'float32', shape: [2, 2], data: bytesOf(Float32Array.of(1, 2.5, -3, 0)) }],
    ['f64', { dtype: 'float64', shape: [2], data: bytesOf(Float64Array.of(Math.PI, -1e300)) }],
    ['f16', { dtype: 'float16', shape: [3], data: bytesOf(Uint16Array.of(0x3c00, 0xc000, 0x0001)) }],
    ['bf16', { dtype: 'bfloat16', shape: [2], data: bytesOf(Uint16Array.of(0x3f80, 0xc040)) }],
    ['i64', { dtype: 'int64', shape: [2], data: bytesOf(BigInt64Array.of(1n << 40n, -1n)) }],
    ['i32', { dtype: 'int32', shape: [1], data: bytesOf(Int32Array.of(-70000)) }],
    ['i16', { dtype: 'int16', shape: [1], data: bytesOf(Int16Array.of(-300)) }],
    ['i8', { dtype: 'int8', shape: [1], data: bytesOf(Int8Array.of(-3)) }],
    ['u8', { dtype: 'uint8', shape: [0, 3], data: new Uint8Array(0) }],
    ['bool', { dtype: 'bool', shape: [2], data: Uint8Array.of(1, 0) }],
    ['c64', { dtype: 'complex64', shape: [1], data: bytesOf(Float32Array.of(1, -2)) }],
    ['c128', { dtype: 'complex128', shape: [], data: bytesOf(Float64Array.of(3, 4)) }],
  ]);
  const { value, tensors } = await python<{ args: object; sums: Record<string, string> }>('echo', { a: [1] }, sent);
  expect(value.args).toEqual({ a: [1] });
  expect(value.sums.c128).toBe('(3+4j)');
  expect(value.sums.f16).toContain('(-0.99999994');
  for (const [name, tensor] of sent) {
    expect(tensors.get(name), name).toEqual(tensor);
    expect(relativeError(tensors.get(name)!, tensor)).toBe(0);
    expect(bytesOf(typedArray(tensor)), name).toEqual(tensor.data);
  }
  expect([...numbers(sent.get('f16')!)]).toEqual([1, -2, 2 ** -24]);
  expect([...numbers(sent.get('bf16')!)]).toEqual([1, -3]);
  expect([...numbers(tensors.get('made')!)]).toEqual([1.5, -2, Number.NaN]);
  expect([...numbers(tensors.get('scalar')!)]).toEqual([7]);
});

test('a Python exception rejects with its traceback, and the worker lives on', async () => {
  await expect(python('echo', { fail: true })).rejects.toThrow(/ValueError: asked to fail/);
  await expect(python('absent')).rejects.toThrow(/absent\.py/);
  expect((await python<{ args: object }>('echo', { b: 2 })).value.args).toEqual({ b: 2 });
});

test('toHost reads anything with shape, dtype and dataSync as bits', () => {
  const fake = { shape: [1], dtype: 'bfloat16', dataSync: (o?: { bits?: boolean }) => Uint16Array.of(o?.bits ? 1 : 2) };
  expect(toHost(fake)).toEqual({ dtype: 'bfloat16', shape: [1], data: Uint8Array.of(1, 0) });
});
