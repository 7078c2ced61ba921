// The kernels that generation uses, against their references: the affine map of few rows and attention to a cache, for
// every instruction set, both dtypes, odd sizes, and several threads.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  autocast,
  call,
  type DType,
  getNumThreads,
  manualSeed,
  noGrad,
  ops,
  randn,
  scope,
  setNumThreads,
  type Tensor,
  zeros,
} from '../../lib/core/index.js';
import { affine, FEW_ROWS } from '../../lib/nn/affine.js';
import { Conv1D, cachedAttention, Linear } from '../../lib/nn/index.js';

const kernels = call('shardloop::cpu_kernels') as string[];
const threads = getNumThreads();
beforeEach(() => manualSeed(3));
afterEach(() => {
  call('shardloop::use_cpu_kernels', kernels.at(-1)!);
  setNumThreads(threads);
});

const wide = (t: Tensor): Tensor => t.to({ dtype: 'float64' });
const values = (t: Tensor) => wide(t).dataSync() as Float64Array;
const off = (a: Tensor, b: Tensor): number => {
  expect(a.shape).toEqual(b.shape);
  const theirs = values(b);
  return values(a).reduce(
    (most, v, i) => Math.max(most, Math.abs(v - theirs[i]!) / Math.max(1, Math.abs(theirs[i]!))),
    0,
  );
};
// Sums in float32, and in bfloat16 one rounding of the result.
const BOUNDS: [DType, number][] = [
  ['float32', 2e-5],
  ['bfloat16', 2 ** -8],
];

describe.each(kernels)('with %s kernels', (kernel) => {
  it.each(BOUNDS)('the affine map is the one in float64, in %s', (dtype, bound) => {
    call('shardloop::use_cpu_kernels', kernel);
    for (const count of [1, 2]) {
      setNumThreads(count);
      for (const [rows, inner, out] of [
        [1, 1, 1],
        [1, 37, 70],
        [2, 64, 128],
        [3, 33, 1100],
        [5, 100, 515],
        [7, 9, 3],
        [9, 70, 40],
        [16, 129, 257],
        [25, 65, 33],
        [37, 40, 130],
      ] as const) {
        for (const across of [true, false]) {
          scope(() => {
            const x = randn([rows, inner]).to({ dtype });
            const weight = randn(across ? [inner, out] : [out, inner]).to({ dtype });
            for (const bias of [randn([out]).to({ dtype }), null]) {
              const own = call('shardloop::affine', x, weight, bias, across) as Tensor;
              expect(own.dtype).toBe(dtype);
              const theirs = affine(wide(x), wide(weight), bias && wide(bias), { across, fused: false });
              expect(off(own, theirs), `${rows} ${inner} ${out} ${across}`).toBeLessThan(bound);
            }
          });
        }
      }
    }
  });

  it.each(BOUNDS)('NaN and infinity reach their row alone, in %s', (dtype) => {
    call('shardloop::use_cpu_kernels', kernel);
    for (const across of [true, false]) {
      scope(() => {
        const x = zeros([16, 40]).to({ dtype });
        x.select(0, 3).fill_(Number.NaN);
        x.select(0, 5).fill_(Number.POSITIVE_INFINITY);
        const weight = ops.ones(across ? [40, 70] : [70, 40]).to({ dtype });
        const own = values(call('shardloop::affine', x, weight, null, across) as Tensor);
        for (const [i, value] of own.entries()) {
          const row = Math.floor(i / 70);
          expect(value, `row ${row}`).toBe(row === 3 ? Number.NaN : row === 5 ? Number.POSITIVE_INFINITY : 0);
        }
      });
    }
  });

  it.each(BOUNDS)('attention to a cache is the composed one, in %s', (dtype, bound) => {
    call('shardloop::use_cpu_kernels', kernel);
    for (const count of [1, 2]) {
      setNumThreads(count);
      for (const [B, T, H, D, past, L] of [
        [1, 1, 1, 1, 0, 1],
        [2, 1, 3, 64, 40, 50],
        [2, 3, 2, 16, 0, 5],
        [1, 5, 2, 37, 20, 25],
        [3, 2, 2, 100, 15, 40],
      ] as const) {
        for (const masked of [false, true]) {
          scope(() => {
            const qkv = randn([B, T, 3, H, D]).to({ dtype });
            const [keys, values] = [0, 1].map(() => randn([B, H, L, D]).to({ dtype })) as [Tensor, Tensor];
            const mask = masked ? ops.gt(randn([B, 1, T, past + T]), 0) : null;
            if (mask !== null) mask.select(3, past + T - 1).fill_(1);
            const [their_keys, their_values] = [wide(keys), wide(values)];
            const own = noGrad(() => cachedAttention(qkv, keys, values, past, { mask, scale: 0.3 }));
            const theirs = cachedAttention(wide(qkv), their_keys, their_values, past, {
              mask,
              scale: 0.3,
              fused: false,
            });
            expect(own.dtype).toBe(dtype);
            expect(off(own, theirs), `${B} ${T} ${H} ${D} ${past} ${masked}`).toBeLessThan(bound);
            expect(off(keys, their_keys)).toBe(0);
            expect(off(values, their_values)).toBe(0);
          });
        }
      }
    }
  });
});

describe('the affine map', () => {
  const same = (a: Tensor, b: Tensor) => ops.equal(a, b);
  const own = (x: Tensor, layer: Linear | Conv1D) =>
    call('shardloop::affine', x, layer.weight, layer.bias, layer instanceof Conv1D) as Tensor;

  it.each([
    ['Linear', Linear],
    ['Conv1D', Conv1D],
  ])('of a %s takes the kernel for few rows without gradients', (_, Layer) => {
    call('shardloop::use_cpu_kernels', 'plain'); // the most unlike libtorch's
    const layer = new Layer({ in: 300, out: 500 });
    layer.bias!.detach().normal_();
    const few = randn([2, 8, 300]);
    const reference = (x: Tensor) =>
      affine(x, layer.weight, layer.bias, { across: layer instanceof Conv1D, fused: false });
    noGrad(() => {
      expect(same(layer.forward(few), own(few, layer))).toBe(true);
      expect(same(own(few, layer), reference(few))).toBe(false); // they round at other places
      const many = randn([FEW_ROWS + 1, 300]);
      expect(same(layer.forward(many), reference(many))).toBe(true);
      expect(autocast({}, () => layer.forward(few)).dtype).toBe('bfloat16');
    });
    const recorded = layer.forward(few);
    expect(recorded.requiresGrad).toBe(true);
    expect(same(recorded, reference(few))).toBe(true);
  });

  it('goes to libtorch for other dtypes and devices', () => {
    noGrad(() => {
      expect(new Linear({ in: 3, out: 2, dtype: 'float64' }).forward(randn([1, 3], { dtype: 'float64' })).dtype).toBe(
        'float64',
      );
      expect(new Linear({ in: 3, out: 2, device: 'meta' }).forward(randn([1, 3], { device: 'meta' })).shape).toEqual([
        1, 2,
      ]);
    });
  });
});

describe('attention to a cache', () => {
  const qkv = randn([1, 2, 3, 2, 8]);
  const cache = () => zeros([1, 2, 4, 8]);

  it('takes the kernel where it applies, and hidden queries are zeros', () => {
    // Many numbers, so that never all of them round alike.
    const many = randn([4, 2, 3, 8, 64]);
    const empty = () => zeros([4, 8, 4, 64]);
    const mask = zeros([4, 1, 2, 2], { dtype: 'bool' });
    const own = noGrad(() => cachedAttention(many, empty(), empty(), 0, { mask }));
    expect(values(own).every((v) => v === 0)).toBe(true);
    const [k, v] = [empty(), empty()];
    const before = values(noGrad(() => cachedAttention(many, k, v, 1)));
    expect(values(call('shardloop::cached_attention', many, k, v, 1, null, 64 ** -0.5) as Tensor)).toEqual(before);
    const composed = noGrad(() => cachedAttention(many, k, v, 1, { fused: false }));
    expect(values(composed)).not.toEqual(before); // they round at other places
    manualSeed(1);
    const dropped = noGrad(() => cachedAttention(many, k, v, 1, { dropout: 0.9 }));
    expect(off(dropped, composed)).toBeGreaterThan(0.01);
  });

  it('refuses what does not fit', () => {
    expect(() => cachedAttention(randn([1, 2, 2, 2, 8]), cache(), cache(), 0)).toThrow(
      '(B, T, 3, H, D), received [1, 2, 2, 2, 8]',
    );
    expect(() => cachedAttention(qkv, cache(), cache(), 0, { dropout: 2 })).toThrow('cachedAttention: dropout');
    expect(() => cachedAttention(qkv, cache(), cache(), 0, { scale: -1 })).toThrow('cachedAttention: scale');
  });
});
