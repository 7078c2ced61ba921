// The GELU kernels of our own against libtorch's in double precision: every instruction set, dtype and odd size.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { call, type DType, manualSeed, ops, randn, scope, type Tensor, tensor } from '../../lib/core/index.js';
import { gelu } from '../../lib/nn/index.js';
import { values } from './compare.js';

const kernels = call('shardloop::cpu_kernels') as string[];
beforeEach(() => manualSeed(3));
afterEach(() => {
  call('shardloop::use_cpu_kernels', kernels.at(-1)!);
});

/** Value and slope, in float64. */
function both(x: Tensor, fused: boolean): [Float64Array, Float64Array] {
  const leaf = x.detach();
  leaf.requiresGrad = true;
  const y = gelu(leaf, { approximate: 'tanh', fused });
  expect(y.dtype).toBe(x.dtype);
  ops.sum(y).backward();
  return [values(y), values(leaf.grad!)];
}

const off = (a: Float64Array, b: Float64Array): number =>
  a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i]!) / Math.max(1, Math.abs(b[i]!))), 0);

// float32: a dozen roundings, each 6e-8 of at most 1.2. Half precision: computed in float32 and rounded once.
const BOUNDS: Partial<Record<DType, number>> = { float32: 5e-7, bfloat16: 2 ** -8, float16: 2 ** -11 };

describe.each(kernels)('gelu with %s kernels', (kernel) => {
  it.each(Object.entries(BOUNDS))('is the one in float64, in %s', (dtype, bound) => {
    call('shardloop::use_cpu_kernels', kernel);
    for (const shape of [[1], [7], [3, 1023], [1025], [40, 1000]]) {
      scope(() => {
        const x = ops.mul(randn(shape), 4).to({ dtype: dtype as DType });
        const [y, dy] = both(x, true);
        const [expected, slope] = both(x.to({ dtype: 'float64' }), false);
        expect(off(y, expected), `values of ${shape}`).toBeLessThanOrEqual(bound);
        expect(off(dy, slope), `slopes of ${shape}`).toBeLessThanOrEqual(bound);
      });
    }
  });

  it('holds far out, and passes NaN on', () => {
    call('shardloop::use_cpu_kernels', kernel);
    const [y, dy] = both(tensor([-1e20, -60, -0, 60, 1e20, Number.NaN]), true);
    expect([...y]).toEqual([-0, -0, -0, 60, Math.fround(1e20), Number.NaN]);
    expect([...dy]).toEqual([0, 0, 0.5, 1, 1, Number.NaN]);
  });
});

describe('the fused gelu', () => {
  it('is what is taken, unless it is not wanted or does not fit', () => {
    const x = ops.mul(randn([4096]), 3);
    const own = values(gelu(x, { approximate: 'tanh' }));
    const theirs = values(ops.gelu(x, { approximate: 'tanh' }));
    expect(off(own, theirs)).toBeLessThan(5e-7);
    expect(own).not.toEqual(theirs); // they round at other places
    expect(values(gelu(x, { approximate: 'tanh', fused: false }))).toEqual(theirs);
    expect(values(gelu(x))).toEqual(values(ops.gelu(x)));
    const wide = x.to({ dtype: 'float64' });
    expect(values(gelu(wide, { approximate: 'tanh' }))).toEqual(values(ops.gelu(wide, { approximate: 'tanh' })));
    expect(gelu(randn([3, 2], { device: 'meta' }), { approximate: 'tanh' }).shape).toEqual([3, 2]);
    const turned = ops.t(ops.reshape(x, [64, 64]));
    expect(values(gelu(turned, { approximate: 'tanh' }))).toEqual(
      values(ops.t(ops.reshape(gelu(x, { approximate: 'tanh' }), [64, 64]))),
    );
  });

  it('can be differentiated twice', () => {
    const twice = (fused: boolean): Float64Array => {
      const x = ops.linspace(-3, 3, 41);
      x.requiresGrad = true;
      const y = gelu(x, { approximate: 'tanh', fused });
      ops.sum(ops.mul(y, y)).backward(undefined, { createGraph: true });
      const first = x.grad!;
      x.grad = null;
      ops.sum(ops.mul(first, first)).backward();
      return values(x.grad!);
    };
    expect(off(twice(true), twice(false))).toBeLessThan(1e-5);
  });
});
