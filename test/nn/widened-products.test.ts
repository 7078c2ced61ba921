// Products of half-precision tensors computed in float32 against libtorch's in double precision: values and gradients, both
// layouts of the weight, sizes beyond a block, and frozen weights.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { call, type DType, grad, manualSeed, ops, randn, scope, type Tensor } from '../../lib/core/index.js';
import { affine } from '../../lib/nn/index.js';
import { values } from './compare.js';

let before: unknown;
beforeEach(() => {
  manualSeed(3);
  before = call('shardloop::use_widened_products', true);
});
afterEach(() => {
  call('shardloop::use_widened_products', before as boolean);
});

interface Given {
  x: Tensor;
  weight: Tensor;
  bias: Tensor | null;
  across: boolean;
}

/** The value, and the gradients of all that are given, in float64. */
function all({ x, weight, bias, across }: Given, slopes: Tensor, frozen = false): (Float64Array | null)[] {
  const leaves = [x, weight, bias].map((t, i) => {
    if (t === null) return null;
    const leaf = t.detach();
    leaf.requiresGrad = i === 0 || !frozen;
    return leaf;
  });
  const y = affine(leaves[0]!, leaves[1]!, leaves[2]!, { across, fused: x.dtype !== 'float64' });
  expect(y.dtype).toBe(x.dtype);
  ops.sum(ops.mul(y, slopes)).backward();
  return [values(y), ...leaves.map((leaf) => (leaf?.grad ? values(leaf.grad) : null))];
}

const off = (a: Float64Array, b: Float64Array): number => {
  expect(a.length).toBe(b.length);
  const size = Math.sqrt(b.reduce((sum, v) => sum + v * v, 0) / b.length); // sums of products cancel: of their usual size
  return a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i]!) / Math.max(size, Math.abs(b[i]!))), 0);
};

// Sums in float32 and one rounding of the result, half a unit in the last place; the rest is for the sums.
const BOUNDS: [DType, number][] = [
  ['bfloat16', 1.1 * 2 ** -8],
  ['float16', 1.3 * 2 ** -11],
];

// The last two have more than a block of rows of x, and of the weight.
const SHAPES = [
  [64, 5, 7],
  [65, 33, 130],
  [3000, 400, 64],
  [70, 1030, 4100],
] as const;

describe.each(BOUNDS)('in %s', (dtype, bound) => {
  it.each([true, false])('they are those in float64, with the weight across: %s', (across) => {
    for (const [rows, inner, out] of SHAPES) {
      scope(() => {
        const make = (shape: number[]) => randn(shape).to({ dtype });
        const weight = make(across ? [inner, out] : [out, inner]);
        for (const bias of [null, make([out])]) {
          const given = { x: make([rows, inner]), weight, bias, across };
          const slopes = make([rows, out]);
          const wide = (t: Tensor) => t.to({ dtype: 'float64' });
          const expected = all(
            { x: wide(given.x), weight: wide(weight), bias: bias && wide(bias), across },
            wide(slopes),
          );
          for (const [i, got] of all(given, slopes).entries()) {
            if (i === 3 && bias === null) expect(got).toBeNull();
            else expect(off(got!, expected[i]!), `${i} of ${rows}, ${inner}, ${out}`).toBeLessThanOrEqual(bound);
          }
          const [, dx, ...others] = all(given, slopes, true);
          expect(off(dx!, expected[1]!)).toBeLessThanOrEqual(bound);
          expect(others).toEqual([null, null]);
        }
      });
    }
  });
});

it('gradients keep the layout of the weight, and batches their shape', () => {
  const weight = randn([33, 70]).to({ dtype: 'bfloat16' });
  weight.requiresGrad = true;
  const y = affine(randn([2, 40, 33]).to({ dtype: 'bfloat16' }), weight, null, { across: true });
  expect(y.shape).toEqual([2, 40, 70]);
  ops.sum(y).backward();
  expect(weight.grad!.shape).toEqual([33, 70]);
  expect(weight.grad!.strides).toEqual([70, 1]);
});

it('frozen weights keep no input alive', () => {
  const kept = (frozen: boolean): boolean => {
    const weight = randn([8, 16]).to({ dtype: 'bfloat16' });
    weight.requiresGrad = !frozen;
    const x = randn([64, 16]).to({ dtype: 'bfloat16' });
    x.requiresGrad = true;
    const y = ops.sum(affine(x, weight, null, { across: false }));
    // What is saved for the backward may not be written over meanwhile: libtorch refuses the backward then.
    ops.zero_(x.detach());
    try {
      y.backward();
      return false;
    } catch (error) {
      expect((error as Error).message).toMatch(/modified by an inplace operation/);
      return true;
    }
  };
  expect([kept(false), kept(true)]).toEqual([true, false]);
});

it('a gradient can be differentiated again', () => {
  const weight = randn([6, 5]).to({ dtype: 'bfloat16' });
  const x = randn([64, 5]).to({ dtype: 'bfloat16' });
  x.requiresGrad = true;
  weight.requiresGrad = true;
  const [dx] = grad([ops.sum(affine(x, weight, null, { across: false }))], [x], { createGraph: true });
  expect(dx!.requiresGrad).toBe(true);
});

it('without them, and with fused: false, the product is that of libtorch', () => {
  const x = randn([64, 300]).to({ dtype: 'bfloat16' });
  const weight = randn([50, 300]).to({ dtype: 'bfloat16' });
  const theirs = values(ops.linear(x, weight));
  expect(values(affine(x, weight, null, { across: false, fused: false }))).toEqual(theirs);
  expect(call('shardloop::use_widened_products', false)).toBe(true);
  expect(values(affine(x, weight, null, { across: false }))).toEqual(theirs);
});
