// The global gradient norm and clipping by it.
import { describe, expect, test } from 'vitest';
import { ones, type Tensor, tensor } from '../../lib/core/index.js';
import { stats } from '../../lib/core/memory.js';
import { clipCoefficient, clipGradNorm, gradNorm } from '../../lib/optim/index.js';
import { param, setGrad } from './run.js';

function make(): Tensor[] {
  const params = [param([0, 0]), param([0], [1, 1]), param([5])];
  setGrad(params[0]!, [3, 0]);
  setGrad(params[1]!, [-4]);
  return params; // the third has no gradient
}

const grads = (params: Tensor[]): number[] =>
  params.flatMap((p) => (p.grad === null ? [] : Array.from(p.grad.dataSync() as Float64Array)));

describe('gradNorm', () => {
  test('takes all gradients as one vector, in any order of norm', () => {
    expect(gradNorm(make())).toBe(5);
    expect(gradNorm(make(), { normType: 1 })).toBe(7);
    expect(gradNorm(make(), { normType: Number.POSITIVE_INFINITY })).toBe(4);
    const [p, q] = [param([0, 0]), param([0])];
    setGrad(p, [3, -4]);
    setGrad(q, [12]);
    const norms = [1, 2, 3, Number.POSITIVE_INFINITY].map((normType) => gradNorm([p, q], { normType }));
    [19, 13, Math.cbrt(27 + 64 + 1728), 12].forEach((norm, i) => {
      expect(norms[i]).toBeCloseTo(norm, 12);
    });
    expect(gradNorm([param([1])])).toBe(0);
    expect(gradNorm(new Set(make()))).toBe(5);
  });

  test('sums half precision in float32', () => {
    const p = ones([4096], { dtype: 'bfloat16', requiresGrad: true });
    p.grad = ones([4096], { dtype: 'bfloat16' });
    const q = ones([1], { requiresGrad: true });
    q.grad = tensor([0.1]);
    expect(gradNorm([p, q])).toBeCloseTo(Math.sqrt(4096.01), 5);
  });
});

describe('clipGradNorm', () => {
  test('scales to the limit and returns the norm from before', () => {
    const params = make();
    expect(clipGradNorm(params, 1)).toBe(5);
    const expected = [3, 0, -4].map((x) => x / (5 + 1e-6));
    grads(params).forEach((x, i) => {
      expect(x).toBeCloseTo(expected[i]!, 12);
    });
  });

  test('leaves smaller gradients alone', () => {
    const params = make();
    expect(clipGradNorm(params, 6)).toBe(5);
    expect(clipGradNorm(params, Number.POSITIVE_INFINITY)).toBe(5);
    expect(grads(params)).toEqual([3, 0, -4]);
    expect(clipGradNorm(params, 1, { normType: 1 })).toBe(7);
  });

  test('non-finite gradients are returned untouched, or an error', () => {
    const params = make();
    setGrad(params[2]!, [Number.NaN]);
    expect(clipGradNorm(params, 1)).toBeNaN();
    expect(grads(params).slice(0, 3)).toEqual([3, 0, -4]);
    expect(() => clipGradNorm(params, 1, { nonFinite: 'throw' })).toThrow(
      expect.objectContaining({ code: 'NON_FINITE' }),
    );
    setGrad(params[2]!, [Number.POSITIVE_INFINITY]);
    expect(clipGradNorm(params, 1, { nonFinite: 'return' })).toBe(Number.POSITIVE_INFINITY);
  });

  test('frees what it makes', () => {
    const params = make();
    const before = stats().handles;
    clipGradNorm(params, 1);
    gradNorm(params);
    expect(stats().handles).toBe(before);
  });

  test('misuse', () => {
    expect(() => clipGradNorm(make(), 0)).toThrow(/positive maxNorm, received 0/);
    expect(() => clipGradNorm(make(), Number.NaN)).toThrow(/received NaN/);
    expect(() => clipGradNorm([1] as unknown as Tensor[], 1)).toThrow(/clipGradNorm: expected tensors/);
    expect(() => gradNorm(make(), { normType: 0 })).toThrow(/positive normType/);
    expect(() => clipGradNorm(make(), 1, { nonFinite: 'skip' as 'throw' })).toThrow(
      /'return' or 'throw', received "skip"/,
    );
  });
});

test('clipCoefficient', () => {
  expect(clipCoefficient(0.5, 1)).toBe(1);
  expect(clipCoefficient(4, 1)).toBeCloseTo(0.25, 6);
  expect(() => clipCoefficient(1, -1)).toThrow(/maxNorm/);
});
