// The fused cross-entropy against the composed one in double precision: every kernel, dtype and odd size.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  call,
  type DType,
  manualSeed,
  memory,
  noGrad,
  ops,
  randn,
  scope,
  type Tensor,
  tensor,
} from '../../lib/core/index.js';
import { crossEntropy } from '../../lib/nn/index.js';

const kernels = call('shardloop::cpu_kernels') as string[];
beforeEach(() => manualSeed(3));
afterEach(() => {
  call('shardloop::use_cpu_kernels', kernels.at(-1)!);
});

/** Loss rows and gradient, in float64. */
function of(logits: Tensor, labels: Tensor, options: object, weights: Tensor): [Float64Array, Float64Array] {
  const x = logits.detach();
  x.requiresGrad = true;
  const rows = crossEntropy(x, labels, { ...options, reduction: 'none' });
  ops.sum(ops.mul(rows, weights.to({ dtype: rows.dtype }))).backward();
  const wide = (t: Tensor) => t.to({ dtype: 'float64' }).dataSync() as Float64Array;
  return [wide(rows), wide(x.grad!)];
}

/** The largest error, relative where values are above 1. */
const off = (a: Float64Array, b: Float64Array): number =>
  a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!) / Math.max(1, Math.abs(b[i]!))), 0);

// Of the loss: in float a sum of up to 50,257 exponentials, each within 1e-7, blocks of 1,024 added up in double. Of the
// gradient: one rounding to the logits' dtype, relative; for float32 with the rounding of logsumexp (some 20, so 1e-6) on top.
const BOUNDS: Partial<Record<DType, [number, number]>> = {
  float64: [1e-13, 1e-13],
  float32: [1e-6, 2e-6],
  bfloat16: [1e-6, 2 ** -8],
  float16: [1e-6, 2 ** -11],
};

describe.each(kernels)('cross-entropy with %s kernels', (kernel) => {
  it.each(Object.entries(BOUNDS))('is the composed one in %s', (dtype, [loss, gradient]) => {
    call('shardloop::use_cpu_kernels', kernel);
    for (const [rows, classes] of [
      [1, 1],
      [3, 2],
      [4, 15],
      [5, 1023],
      [4, 1025],
      [3, 50257],
    ] as const) {
      for (const options of [{}, { labelSmoothing: 0.1 }, { ignoreIndex: 0 }]) {
        scope(() => {
          const logits = ops.mul(randn([rows, classes]), 5).to({ dtype: dtype as DType });
          const labels = tensor(BigInt64Array.from({ length: rows }, (_, i) => BigInt((i * 7919) % classes)));
          const weights = randn([rows]);
          const [a, da] = of(logits, labels, options, weights);
          const [b, db] = of(logits.to({ dtype: 'float64' }), labels, { ...options, fused: false }, weights);
          expect(off(a, b), `loss of ${rows} x ${classes}`).toBeLessThanOrEqual(loss);
          expect(off(da, db), `gradient of ${rows} x ${classes}`).toBeLessThanOrEqual(gradient);
        });
      }
    }
  });

  it('takes logits of any size, and those that are masked out', () => {
    call('shardloop::use_cpu_kernels', kernel);
    const inf = Number.POSITIVE_INFINITY;
    const far = Array.from({ length: 2000 }, (_, i) => (i === 1500 ? 3e4 : i % 3 === 0 ? -inf : -3e4));
    const [[loss], gradient] = of(tensor([far]), tensor([1500n]), {}, tensor([1]));
    expect(loss).toBe(0);
    expect(gradient.every((g) => g === 0)).toBe(true);
    const [[other], slope] = of(tensor([far]), tensor([1n]), {}, tensor([1]));
    expect(other).toBe(6e4);
    expect([slope[1500], slope[1], slope[0]]).toEqual([1, -1, 0]);
    for (const odd of [Number.NaN, inf]) {
      expect(crossEntropy(tensor([[0, odd, 1]]), tensor([0n])).itemSync()).toBeNaN();
    }
    expect(crossEntropy(tensor([[-inf, -inf]]), tensor([0n])).itemSync()).toBeNaN();
  });
});

describe('the fused cross-entropy', () => {
  it('takes a fraction of the memory, forward and backward', () => {
    const peak = (fused: boolean): number =>
      scope(() => {
        const logits = randn([64, 8192]).to({ dtype: 'bfloat16' });
        logits.requiresGrad = true;
        const labels = tensor(new BigInt64Array(64));
        const before = memory.allocatorStats('cpu').allocated;
        memory.resetPeak('cpu');
        crossEntropy(logits, labels, { fused }).backward();
        return (memory.allocatorStats('cpu').peak - before) / logits.storageBytes;
      });
    // In sizes of the logits: the gradient alone, against copies in float32 (2 each) of logits, log-softmax and gradient.
    expect(peak(true)).toBeLessThan(1.1);
    expect(peak(false)).toBeGreaterThan(5);
  });

  it('can be differentiated twice', () => {
    const start = randn([4, 6], { dtype: 'float64' });
    const weights = randn([4, 6], { dtype: 'float64' });
    const labels = tensor([1n, -100n, 5n, 0n]);
    const twice = (fused: boolean): Float64Array => {
      const x = start.clone();
      x.requiresGrad = true;
      crossEntropy(ops.mul(x, x), labels, { fused, labelSmoothing: 0.1 }).backward(undefined, { createGraph: true });
      const first = x.grad!;
      x.grad = null;
      ops.sum(ops.mul(first, weights)).backward();
      return x.grad!.dataSync() as Float64Array;
    };
    expect(off(twice(true), twice(false))).toBeLessThan(1e-14);
  });

  it('names a label that is out of bounds, and works without gradient, on views and on meta tensors', () => {
    const logits = randn([2, 5]);
    for (const bad of [5n, -1n]) {
      expect(() => crossEntropy(logits, tensor([0n, bad]))).toThrow(
        `label ${bad} in row 1 is out of bounds: expected 0 to 4, or -100`,
      );
    }
    const labels = tensor([1n, 4n]);
    const whole = crossEntropy(logits, labels).itemSync();
    expect(noGrad(() => crossEntropy(ops.t(ops.clone(ops.t(logits))), labels).itemSync())).toBe(whole);
    const meta = crossEntropy(randn([2, 5], { device: 'meta' }), ops.empty([2], { dtype: 'int64', device: 'meta' }));
    expect([meta.device, meta.shape]).toEqual(['meta', []]);
  });
});
