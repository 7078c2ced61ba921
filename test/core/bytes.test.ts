// The bytes of tensors in memory for files: where it begins, and that the bytes are those of the elements.
import { describe, expect, it } from 'vitest';
import { native } from '../../lib/core/binding.js';
import { alignedBytes, call, empty, ops, readBytes, ShardloopError, tensor, zeros } from '../../lib/core/index.js';

describe('alignedBytes', () => {
  it.each([
    [0, 4096],
    [1, 64],
    [5_000_000, 4096],
    [3, 1 << 21],
  ])('gives %i bytes at a multiple of %i', (length, alignment) => {
    const bytes = alignedBytes(length, alignment);
    expect(bytes.byteLength).toBe(length);
    const behind = new Uint8Array(bytes.buffer, bytes.byteOffset);
    expect(native().arrayPages(behind, alignment)).toBe(0);
    bytes.fill(7);
  });

  it('refuses what is no alignment', () => {
    for (const alignment of [0, 3, -4096]) expect(() => alignedBytes(1, alignment)).toThrow(Error);
    expect(() => native().arrayPages([] as unknown as Uint8Array, 64)).toThrow(/Expected a Uint8Array/);
    expect(() => native().arrayPages(new Int8Array(1) as unknown as Uint8Array, 64)).toThrow(/Expected a Uint8Array/);
  });
});

describe('readBytes', () => {
  it('copies elements in row-major order, and no more', () => {
    const base = tensor([1, -2, 3.5, 4, 5, 6], { shape: [2, 3] });
    for (const dtype of ['float64', 'float32', 'bfloat16', 'float16', 'int64', 'int8'] as const) {
      const t = ops.t(ops._to_copy(base, { dtype }));
      const { buffer, byteOffset, byteLength } = t.dataSync({ bits: true });
      const into = new Uint8Array(byteLength + 2).fill(9);
      readBytes(t, into);
      expect([...into]).toEqual([...new Uint8Array(buffer, byteOffset, byteLength), 9, 9]);
    }
    const conjugate = ops.conj(ops.complex(base, base));
    const into = new Uint8Array(48);
    readBytes(conjugate, into);
    expect([...new Float32Array(into.buffer, 0, 4)]).toEqual([1, -1, -2, 2]);
    readBytes(empty([0]), new Uint8Array(0));
  });

  it('refuses too little room, other arrays, and tensors without memory', () => {
    const t = zeros([3]);
    expect(() => readBytes(t, new Uint8Array(11))).toThrow(/Expected room for 12 bytes, received 11/);
    expect(() => readBytes(t, new Float32Array(3) as unknown as Uint8Array)).toThrow(/Expected a Uint8Array/);
    expect(() => readBytes(zeros([3], { device: 'meta' }), new Uint8Array(12))).toThrow(ShardloopError);
    call('shardloop::resize_storage_', t, 0);
    expect(() => readBytes(t, new Uint8Array(12))).toThrow(/was released/);
  });
});
