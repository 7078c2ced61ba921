// Losses: values worked out by hand, each option, gradients, and misuse.
import { beforeEach, describe, expect, test } from 'vitest';
import { manualSeed, ones, randn, tensor, zeros } from '../../lib/core/index.js';
import { crossEntropy, mse } from '../../lib/nn/index.js';
import { gradError, leaf } from './gradcheck.js';

beforeEach(() => manualSeed(5));

describe('crossEntropy', () => {
  // Probabilities 1/4, 3/4 in both rows.
  const logits = tensor(
    [
      [0, Math.log(3)],
      [0, Math.log(3)],
    ],
    { dtype: 'float64' },
  );
  const [low, high] = [Math.log(4), Math.log(4 / 3)];

  test('reductions', () => {
    const labels = tensor([0n, 1n]);
    expect(crossEntropy(logits, labels).itemSync()).toBeCloseTo((low + high) / 2, 12);
    expect(crossEntropy(logits, labels, { reduction: 'sum' }).itemSync()).toBeCloseTo(low + high, 12);
    const none = crossEntropy(logits, labels, { reduction: 'none' }).toArray() as number[];
    expect(none[0]).toBeCloseTo(low, 12);
    expect(none[1]).toBeCloseTo(high, 12);
  });

  test('ignored positions count in no reduction', () => {
    const labels = tensor([-100n, 1n]);
    expect(crossEntropy(logits, labels).itemSync()).toBeCloseTo(high, 12);
    expect(crossEntropy(logits, labels, { reduction: 'none' }).get(0).itemSync()).toBe(0);
    expect(crossEntropy(logits, tensor([0n, 1n]), { ignoreIndex: 1 }).itemSync()).toBeCloseTo(low, 12);
    expect(crossEntropy(logits, tensor([-100n, -100n])).itemSync()).toBeNaN();
    expect(crossEntropy(logits, tensor([-100n, -100n]), { reduction: 'sum' }).itemSync()).toBe(0);
  });

  test('label smoothing', () => {
    const loss = crossEntropy(logits, tensor([0n, 0n]), { labelSmoothing: 0.2 }).itemSync();
    expect(loss).toBeCloseTo(0.9 * low + 0.1 * high, 12);
  });

  test('leading dimensions stay, and half precision is computed in float32', () => {
    const three = randn([2, 3, 5], { dtype: 'bfloat16' });
    const labels = zeros([2, 3], { dtype: 'int64' });
    const loss = crossEntropy(three, labels, { reduction: 'none' });
    expect(loss.shape).toEqual([2, 3]);
    expect(loss.dtype).toBe('float32');
    expect(loss.toArray()).toEqual(
      crossEntropy(three.to({ dtype: 'float32' }), labels, { reduction: 'none' }).toArray(),
    );
  });

  test('gradients', () => {
    const x = leaf(2, 3, 4);
    const labels = tensor([
      [0n, 3n, -100n],
      [1n, -100n, 2n],
    ]);
    for (const reduction of ['mean', 'sum', 'none'] as const) {
      expect(gradError(() => crossEntropy(x, labels, { reduction, labelSmoothing: 0.1 }), [x])).toBeLessThan(1e-7);
    }
  });

  test('misuse', () => {
    expect(() => crossEntropy(logits, zeros([2]))).toThrow(/int64 labels.*received float64 \[2, 2\] and float32 \[2\]/);
    expect(() => crossEntropy(logits, tensor([0n]))).toThrow(/int64 \[1\]/);
    expect(() => crossEntropy(logits, tensor([0n, 2n]))).toThrow(/out of bounds/);
    const labels = tensor([0n, 1n]);
    expect(() => crossEntropy(logits, labels, { reduction: 'avg' as 'mean' })).toThrow(
      /reduction 'mean', 'sum' or 'none', received "avg"/,
    );
    expect(() => crossEntropy(logits, labels, { ignoreIndex: 0.5 })).toThrow(/ignoreIndex to be an integer/);
    expect(() => crossEntropy(logits, labels, { labelSmoothing: 2 })).toThrow(/labelSmoothing in \[0, 1\]/);
  });
});

describe('mse', () => {
  test('reductions', () => {
    const [x, y] = [tensor([1, 2]), tensor([1, 5])];
    expect(mse(x, y).itemSync()).toBe(4.5);
    expect(mse(x, y, { reduction: 'sum' }).itemSync()).toBe(9);
    expect(mse(x, y, { reduction: 'none' }).toArray()).toEqual([0, 9]);
  });

  test('gradients and misuse', () => {
    const [x, y] = [leaf(3), leaf(3)];
    expect(gradError(() => mse(x, y), [x, y])).toBeLessThan(1e-7);
    expect(() => mse(ones([2]), ones([2, 1]))).toThrow(/\[2\] and \[2, 1\]/);
    expect(() => mse(x, y, { reduction: 'all' as 'mean' })).toThrow(/mse: expected reduction/);
  });
});
