// GELU and the affine map behind it as one, which keeps GELU's input alone, against the composition of both.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  autocast,
  call,
  type DType,
  grad,
  manualSeed,
  memory,
  noGrad,
  ops,
  randn,
  scope,
  type Tensor,
} from '../../lib/core/index.js';
import { geluAffine } from '../../lib/nn/index.js';
import { usualError, values } from './compare.js';

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

/** The value and the gradients of all that are given, in float64. */
function all({ x, weight, bias, across }: Given, slopes: Tensor, fused: boolean): Float64Array[] {
  const leaves = [x, weight, bias].map((t) => {
    const leaf = t?.detach() ?? null;
    if (leaf) leaf.requiresGrad = true;
    return leaf;
  });
  const y = geluAffine(leaves[0]!, leaves[1]!, leaves[2]!, { across, fused });
  expect([y.dtype, y.shape]).toEqual([x.dtype, slopes.shape]);
  ops.sum(ops.mul(y, slopes)).backward();
  if (fused) expect(leaves[1]!.grad!.strides).toEqual(weight.strides);
  return [y, ...leaves.flatMap((leaf) => (leaf ? [leaf.grad!] : []))].map(values);
}

// Half precision: gelu(x), its slope, and what comes out are rounded, half a unit in the last place each.
const BOUNDS: [DType, number][] = [
  ['float32', 1e-6],
  ['bfloat16', 2 ** -8],
  ['float16', 2 ** -11],
];

describe.each(BOUNDS)('in %s', (dtype, bound) => {
  it.each([
    [true, true],
    [true, false],
    [false, true],
    [false, false],
  ])('it is the composition in float64, with the weight across: %s, widened products: %s', (across, widened) => {
    call('shardloop::use_widened_products', widened);
    for (const [rows, inner, out] of [
      [[1], 1, 1],
      [[2, 33], 65, 7],
      [[70], 130, 33],
    ] as const) {
      for (const hasBias of [true, false]) {
        scope(() => {
          const make = (shape: number[]) => randn(shape).to({ dtype });
          const weight = make(across ? [inner, out] : [out, inner]);
          const given = { x: make([...rows, inner]), weight, bias: hasBias ? make([out]) : null, across };
          const slopes = make([...rows, out]);
          const wide = (t: Tensor) => t.to({ dtype: 'float64' });
          const exact = { x: wide(given.x), weight: wide(weight), bias: given.bias && wide(given.bias), across };
          const expected = all(exact, wide(slopes), false);
          for (const [i, got] of all(given, slopes, true).entries()) {
            expect(usualError(got, expected[i]!), `${i} of ${rows}, ${inner}, ${out}`).toBeLessThanOrEqual(bound);
          }
        });
      }
    }
  });
});

const trained = (...shape: number[]) => randn(shape, { requiresGrad: true });

it('keeps what goes into GELU, and not what comes out', () => {
  const kept = (fused: boolean): number =>
    scope(() => {
      const [x, weight] = [trained(64, 1024), trained(1024, 8)];
      const start = memory.allocatorStats('cpu').allocated;
      const y = geluAffine(x, weight, null, { across: true, fused });
      return (memory.allocatorStats('cpu').allocated - start - y.storageBytes) / x.storageBytes;
    });
  expect(kept(true)).toBeLessThan(0.1);
  expect(kept(false)).toBeGreaterThan(0.9);
});

it('gives what the composition gives without gradients, for frozen weights, under autocast, and in float64', () => {
  const options = { across: false };
  const [x, weight] = [trained(4, 6), trained(5, 6)];
  const composed = (a: Tensor, w: Tensor) => values(geluAffine(a, w, null, { ...options, fused: false }));
  const own = (a: Tensor, w: Tensor) => values(geluAffine(a, w, null, options));
  expect(
    usualError(
      noGrad(() => own(x, weight)),
      composed(x, weight),
    ),
  ).toBeLessThan(1e-6);
  const frozen = weight.detach();
  const y = geluAffine(x, frozen, null, options);
  expect(usualError(values(y), composed(x, weight))).toBeLessThan(1e-6);
  ops.sum(y).backward();
  expect(x.grad!.shape).toEqual([4, 6]);
  const low = autocast({ dtype: 'bfloat16' }, () => geluAffine(x, weight, null, options));
  expect(low.dtype).toBe('bfloat16');
  const wide = [x, weight].map((t) => t.detach().to({ dtype: 'float64' })) as [Tensor, Tensor];
  for (const t of wide) t.requiresGrad = true;
  expect(own(...wide)).toEqual(composed(...wide));
});

it('gives gradients that can be differentiated, and shapes on meta tensors', () => {
  const [x, weight] = [trained(4, 6), trained(5, 6)];
  const slopes = randn([4, 6]);
  const twice = (fused: boolean) => {
    const y = geluAffine(x, weight, null, { across: false, fused });
    const [dx] = grad([ops.sum(ops.mul(y, y))], [x], { createGraph: true });
    return grad([ops.sum(ops.mul(dx!, slopes))], [x, weight]).map((t) => values(t!));
  };
  const expected = twice(false);
  for (const [i, got] of twice(true).entries()) expect(usualError(got, expected[i]!)).toBeLessThan(1e-5);
  const meta = randn([4, 6], { device: 'meta', requiresGrad: true });
  const w = randn([6, 5], { device: 'meta', requiresGrad: true });
  ops.sum(geluAffine(meta, w, null, { across: true })).backward();
  expect([meta.grad!.shape, w.grad!.shape]).toEqual([
    [4, 6],
    [6, 5],
  ]);
});
