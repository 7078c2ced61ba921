// The attention kernels of our own against attention composed of products and a softmax in double precision: every
// instruction set, dtype and odd size, and where q, k and v lie together.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { call, type DType, manualSeed, noGrad, ops, randn, scope, type Tensor } from '../../lib/core/index.js';
import { attention, selfAttention } from '../../lib/nn/index.js';

const kernels = call('shardloop::cpu_kernels') as string[];
beforeEach(() => manualSeed(3));
afterEach(() => {
  call('shardloop::use_cpu_kernels', kernels.at(-1)!);
});

const wide = (t: Tensor) => t.to({ dtype: 'float64' });
const values = (t: Tensor) => wide(t).dataSync() as Float64Array;
const off = (a: Tensor, b: Tensor): number => {
  const [x, y] = [values(a), values(b)];
  expect(a.shape).toEqual(b.shape);
  const largest = y.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  return x.reduce((most, v, i) => Math.max(most, Math.abs(v - y[i]!)), 0) / Math.max(1, largest);
};

/** softmax(scale q k^T) v by its definition. */
function composed(q: Tensor, k: Tensor, v: Tensor, causal: boolean, scale: number): Tensor {
  let scores = ops.mul(ops.matmul(q, ops.transpose(k, 2, 3)), scale);
  const T = q.shape[2]!;
  const hidden = ops.triu(ops.ones([T, T], { dtype: 'bool' }), { diagonal: 1 });
  if (causal) scores = ops.masked_fill(scores, hidden, Number.NEGATIVE_INFINITY);
  return ops.matmul(ops.softmax(scores, -1), v);
}

function leaves(shape: number[], dtype: DType): [Tensor, Tensor, Tensor] {
  const make = () => {
    const t = randn(shape).to({ dtype });
    t.requiresGrad = true;
    return t;
  };
  return [make(), make(), make()];
}

/** Output and gradients of a function of q, k and v, for the same gradient of the output. */
function results(inputs: readonly Tensor[], y: Tensor, slope: Tensor): Tensor[] {
  y.backward(slope.to({ dtype: y.dtype }));
  return [y.detach(), ...inputs.map((t) => t.grad!)];
}

// Relative to the largest value. float32: sums of up to 257 products, some 40 roundings. Half precision: computed in float32 and
// rounded once, but the backward reads the rounded output.
const BOUNDS: Partial<Record<DType, number>> = { float32: 4e-6, bfloat16: 2 ** -7, float16: 2 ** -10 };
const SHAPES = [
  [1, 1, 1, 1],
  [2, 3, 5, 7],
  [1, 2, 24, 64],
  [2, 1, 25, 16],
  [1, 1, 130, 80],
  [1, 2, 257, 33],
];

describe.each(kernels)('attention with %s kernels', (kernel) => {
  it.each(Object.entries(BOUNDS))('is the composed one in %s', (dtype, bound) => {
    call('shardloop::use_cpu_kernels', kernel);
    for (const shape of SHAPES) {
      for (const [causal, scale] of [
        [true, undefined],
        [false, 0.3],
      ] as const) {
        scope(() => {
          const inputs = leaves(shape, dtype as DType);
          const twins = inputs.map((t) => {
            const twin = wide(t.detach());
            twin.requiresGrad = true;
            return twin;
          }) as [Tensor, Tensor, Tensor];
          const slope = randn(shape).to({ dtype: dtype as DType });
          const found = results(inputs, attention(...inputs, { causal, scale }), slope);
          const expected = results(twins, composed(...twins, causal, scale ?? shape[3]! ** -0.5), slope);
          for (const [i, t] of found.entries()) {
            expect(t.dtype).toBe(dtype);
            expect(off(t, expected[i]!), `${['y', 'dq', 'dk', 'dv'][i]} of ${shape}`).toBeLessThanOrEqual(bound);
          }
        });
      }
    }
  });
});

describe('selfAttention', () => {
  it('is attention on q, k and v that lie together, bit for bit', () => {
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const qkv = randn([2, 29, 3, 4, 24]).to({ dtype });
      qkv.requiresGrad = true;
      const apart = ops.unbind(ops.permute(qkv.detach(), [2, 0, 3, 1, 4])).map((t) => {
        const leaf = t.clone();
        leaf.requiresGrad = true;
        return leaf;
      }) as [Tensor, Tensor, Tensor];
      const slope = randn([2, 29, 96]).to({ dtype });
      const y = selfAttention(qkv, { causal: true });
      const expected = ops.reshape(ops.transpose(attention(...apart, { causal: true }), 1, 2), [2, 29, 96]);
      expect(values(y)).toEqual(values(expected));
      y.backward(slope);
      expected.backward(slope);
      const together = ops.unbind(ops.permute(qkv.grad!, [2, 0, 3, 1, 4]));
      for (const [i, t] of apart.entries()) expect(values(together[i]!)).toEqual(values(t.grad!));
    }
  });

  it('takes libtorch’s kernels with fused: false, dropout and doubles', () => {
    const qkv = randn([1, 40, 3, 2, 16]);
    const own = selfAttention(qkv, { causal: true, scale: 0.2 });
    const theirs = selfAttention(qkv, { causal: true, scale: 0.2, fused: false });
    expect(off(own, theirs)).toBeLessThan(2e-6);
    expect(values(own)).not.toEqual(values(theirs)); // they round at other places: the option is read
    expect(off(selfAttention(wide(qkv), { causal: true, scale: 0.2 }), own)).toBeLessThan(2e-6);
    const [a, b] = [7, 7].map((seed) => {
      manualSeed(seed);
      return values(selfAttention(qkv, { dropout: 0.5 }));
    });
    expect(a).toEqual(b);
    expect(a).not.toEqual(values(selfAttention(qkv)));
    expect(() => selfAttention(randn([1, 40, 2, 2, 16]))).toThrow('(B, T, 3, H, D), received [1, 40, 2, 2, 16]');
    expect(() => selfAttention(qkv, { dropout: 2 })).toThrow('selfAttention: dropout');
    expect(() => selfAttention(qkv, { scale: -1 })).toThrow('selfAttention: scale');
  });

  it('can be differentiated twice', () => {
    const start = randn([1, 6, 3, 2, 4]);
    const weights = randn([1, 6, 3, 2, 4]);
    const twice = (y: (qkv: Tensor) => Tensor, from: Tensor): Tensor => {
      const qkv = from.clone();
      qkv.requiresGrad = true;
      const out = y(ops.mul(qkv, qkv));
      ops.sum(ops.mul(out, out)).backward(undefined, { createGraph: true });
      const first = qkv.grad!;
      qkv.grad = null;
      ops.sum(ops.mul(first, weights.to({ dtype: first.dtype }))).backward();
      return qkv.grad!;
    };
    const plain = (qkv: Tensor): Tensor => {
      const [q, k, v] = ops.unbind(ops.permute(qkv, [2, 0, 3, 1, 4])) as [Tensor, Tensor, Tensor];
      return composed(q, k, v, true, 0.5);
    };
    const expected = twice(plain, wide(start));
    expect(
      off(
        twice((qkv) => selfAttention(qkv, { causal: true, scale: 0.5 }), start),
        expected,
      ),
    ).toBeLessThan(1e-5);
    const apart = (qkv: Tensor): Tensor => {
      const [q, k, v] = ops.unbind(ops.permute(qkv, [2, 0, 3, 1, 4])) as [Tensor, Tensor, Tensor];
      return attention(q, k, v, { causal: true, scale: 0.5 });
    };
    expect(off(twice(apart, start), expected)).toBeLessThan(1e-5);
  });

  it('has shapes on meta tensors, and takes rows that are not dense', () => {
    const meta = selfAttention(randn([2, 5, 3, 2, 8], { device: 'meta' }), { causal: true });
    expect([meta.device, meta.shape]).toEqual(['meta', [2, 5, 16]]);
    const [q, k, v] = leaves([1, 2, 8, 9], 'float32');
    const turned = (t: Tensor) =>
      ops.transpose(ops.clone(ops.transpose(t, 2, 3), { memory_format: 'contiguous_format' }), 2, 3);
    noGrad(() => {
      expect(values(attention(turned(q), turned(k), turned(v)))).toEqual(values(attention(q, k, v)));
    });
  });
});
