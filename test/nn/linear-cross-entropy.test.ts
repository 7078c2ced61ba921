// The loss of a head whose scores never stand as a whole, against the composed one in double precision: dtypes, sizes beyond
// a part, rows that do not count, frozen weights, and what it holds of memory.
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
  tensor,
} from '../../lib/core/index.js';
import { linearCrossEntropy } from '../../lib/nn/index.js';
import { usualError, values } from './compare.js';
import { gradError, leaf } from './gradcheck.js';

let before: unknown;
beforeEach(() => {
  manualSeed(3);
  before = call('shardloop::use_widened_products', true);
});
afterEach(() => {
  call('shardloop::use_widened_products', before as boolean);
});

const leafOf = (t: Tensor, trains = true): Tensor => {
  const x = t.detach();
  x.requiresGrad = trains;
  return x;
};
/** Labels that differ; every third is the one that is ignored where `ignored` says so. */
const labelsOf = (rows: number, classes: number, ignored?: bigint) =>
  tensor(BigInt64Array.from({ length: rows }, (_, i) => (i % 3 === 1 && ignored) || BigInt((i * 7919) % classes)));

/** Loss and gradients of hidden and weight, in float64; the loss is multiplied by `slope` first. */
function of(hidden: Tensor, weight: Tensor, labels: Tensor, options: object, slope = 1) {
  const [x, w] = [leafOf(hidden), leafOf(weight)];
  const loss = linearCrossEntropy(x, w, labels, options);
  ops.mul(loss, slope).backward();
  expect([x.grad!.dtype, w.grad!.dtype, loss.shape]).toEqual([hidden.dtype, hidden.dtype, []]);
  return [values(loss), values(x.grad!), values(w.grad!)] as const;
}

/** The largest error, of the usual size of the values. */
const off = (a: Float64Array, b: Float64Array): number => {
  expect(a.length).toBe(b.length);
  const size = Math.sqrt(b.reduce((sum, v) => sum + v * v, 0) / b.length) || 1;
  return a.reduce((most, v, i) => Math.max(most, Math.abs(v - b[i]!) / Math.max(size, Math.abs(b[i]!))), 0);
};

// Of loss and gradients.
const BOUNDS: [DType, number, number][] = [
  ['float64', 1e-12, 1e-12],
  ['float32', 2e-6, 2e-5],
];

// (N, D, V, options): one of each; odd ones; and more rows than scores stand for at a time, in half precision too.
const RULES = [{ divisor: 7 }, { labelSmoothing: 0.1 }, { ignoreIndex: -5 }];
const CASES = [
  ...[[1, 1, 1] as const, [5, 3, 7] as const, [70, 33, 130] as const].flatMap((s) =>
    RULES.map((r) => [...s, r] as const),
  ),
  [300, 9, 50257, { ignoreIndex: -5 }],
  [150, 5, 60013, { labelSmoothing: 0.1 }],
] as const;

describe.each(BOUNDS)('in %s', (dtype, lossBound, bound) => {
  it('it is the composed one in float64', () => {
    for (const [rows, size, classes, options] of CASES) {
      scope(() => {
        const hidden = randn([rows, size]).to({ dtype });
        const weight = randn([classes, size]).to({ dtype });
        const labels = labelsOf(rows, classes, 'ignoreIndex' in options ? -5n : undefined);
        const got = of(hidden, weight, labels, options, 3);
        const wide = [hidden, weight].map((t) => t.to({ dtype: 'float64' })) as [Tensor, Tensor];
        const expected = of(...wide, labels, { ...options, fused: false }, 3);
        const name = `${rows}, ${size}, ${classes} ${JSON.stringify(options)}`;
        expect(off(got[0], expected[0]), `loss of ${name}`).toBeLessThanOrEqual(lossBound);
        expect(off(got[1], expected[1]), `hidden's of ${name}`).toBeLessThanOrEqual(bound);
        expect(off(got[2], expected[2]), `weight's of ${name}`).toBeLessThanOrEqual(bound);
      });
    }
  });
});

// Rounded scores move each probability, so what counts is that parts and sums of parts lose nothing against the composed
// one in the same dtype. The constant is for tensors of a few numbers.
describe.each([
  ['bfloat16', 2 ** -9],
  ['float16', 2 ** -12],
] as const)('in %s', (dtype, unit) => {
  it.each([true, false])('it is as near to float64 as the composed one, with widened products: %s', (widened) => {
    call('shardloop::use_widened_products', widened);
    for (const [rows, size, classes, options] of CASES) {
      scope(() => {
        const hidden = randn([rows, size]).to({ dtype });
        const weight = randn([classes, size]).to({ dtype });
        const labels = labelsOf(rows, classes, 'ignoreIndex' in options ? -5n : undefined);
        const wide = [hidden, weight].map((t) => t.to({ dtype: 'float64' })) as [Tensor, Tensor];
        const exact = of(...wide, labels, { ...options, fused: false });
        const composed = of(hidden, weight, labels, { ...options, fused: false });
        for (const [i, got] of of(hidden, weight, labels, options).entries()) {
          const most = 1.1 * usualError(composed[i]!, exact[i]!) + 0.5 * unit;
          expect(usualError(got, exact[i]!), `${i} of ${rows}, ${size}, ${classes}`).toBeLessThanOrEqual(most);
        }
      });
    }
  });
});

it('central differences agree', () => {
  const [hidden, weight] = [leaf(5, 3), leaf(4, 3)];
  const labels = labelsOf(5, 4, -100n);
  for (const options of [{ labelSmoothing: 0.2 }, { divisor: 3 }]) {
    expect(gradError(() => linearCrossEntropy(hidden, weight, labels, options), [hidden, weight])).toBeLessThan(1e-8);
  }
});

it('rows that do not count are not computed, and without any the mean is NaN and the gradients are 0', () => {
  const hidden = randn([6, 3]);
  const weight = randn([4, 3]);
  const labels = labelsOf(6, 4, -100n);
  const clean = of(hidden, weight, labels, {});
  ops.fill_(ops.select(hidden, 0, 1), Number.NaN);
  const odd = of(hidden, weight, labels, {});
  expect(odd).toEqual(clean);
  expect([...odd[1].slice(3, 6)]).toEqual([0, 0, 0]);
  const none = tensor(new BigInt64Array(6).fill(-100n));
  const [mean, dx, dw] = of(hidden, weight, none, {});
  expect([mean[0], ...new Set(dx), ...new Set(dw)]).toEqual([Number.NaN, 0, 0]);
  expect(of(hidden, weight, none, { divisor: 2 })[0][0]).toBe(0);
});

it('takes batches, frozen weights or hidden states, and gives what no-grad gives', () => {
  const hidden = randn([2, 3, 5]);
  const weight = randn([7, 5]);
  const labels = labelsOf(6, 7).reshape([2, 3]);
  const [x, w] = [leafOf(hidden), leafOf(weight)];
  const loss = linearCrossEntropy(x, weight, labels);
  loss.backward();
  expect(x.grad!.shape).toEqual([2, 3, 5]);
  linearCrossEntropy(hidden, w, labels).backward();
  const both = of(hidden, weight, labels, {});
  expect([values(x.grad!), values(w.grad!)]).toEqual([both[1], both[2]]);
  expect(noGrad(() => linearCrossEntropy(x, w, labels).requiresGrad)).toBe(false);
  expect(noGrad(() => values(linearCrossEntropy(x, w, labels)))).toEqual(values(loss));
});

it('a retained graph gives the same gradients again, and they can be differentiated', () => {
  const [x, w] = [leafOf(randn([5, 3], { dtype: 'float64' })), leafOf(randn([4, 3], { dtype: 'float64' }))];
  const labels = labelsOf(5, 4, -100n);
  const loss = ops.mul(linearCrossEntropy(x, w, labels), 5);
  loss.backward(undefined, { retainGraph: true });
  const [dx, dw] = [values(x.grad!), values(w.grad!)];
  x.grad = null;
  w.grad = null;
  loss.backward();
  expect([values(x.grad!), values(w.grad!)]).toEqual([dx, dw]);
  const weights = randn([5, 3], { dtype: 'float64' });
  const twice = (fused: boolean, options: object): Float64Array[] => {
    const scores = linearCrossEntropy(ops.mul(x, x), ops.mul(w, w), labels, { ...options, fused });
    const [first] = grad([scores], [x], { createGraph: true });
    return grad([ops.sum(ops.mul(first!, weights))], [x, w]).map((t) => values(t!));
  };
  for (const options of [{}, { divisor: 2, labelSmoothing: 0.1 }]) {
    const expected = twice(false, options);
    for (const [i, got] of twice(true, options).entries()) expect(off(got, expected[i]!)).toBeLessThan(1e-12);
  }
});

it('in float16 a gradient survives that only the loss scale lifts above 0', () => {
  const hidden = randn([64, 8]).to({ dtype: 'float16' });
  const weight = ops.mul(randn([5, 8]), 1e-3).to({ dtype: 'float16' });
  const labels = labelsOf(64, 5);
  const rules = { divisor: 2 ** 16 };
  const got = of(hidden, weight, labels, rules, 2 ** 16);
  const expected = of(hidden.to({ dtype: 'float64' }), weight.to({ dtype: 'float64' }), labels, rules, 2 ** 16);
  expect(off(got[1], expected[1])).toBeLessThan(6 * 2 ** -11);
});

it('under autocast the products are in its dtype, and gradients in that of the leaves', () => {
  const [hidden, weight] = [randn([70, 8]), randn([33, 8])];
  const labels = labelsOf(70, 33);
  const [loss, dx, dw] = autocast({ dtype: 'bfloat16' }, () => of(hidden, weight, labels, {}));
  const expected = of(hidden, weight, labels, {});
  expect(off(loss, expected[0])).toBeLessThan(1e-2);
  expect(off(loss, expected[0])).toBeGreaterThan(0);
  expect(off(dx, expected[1])).toBeLessThan(0.05);
  expect(off(dw, expected[2])).toBeLessThan(0.05);
});

it('takes a fraction of the memory of the scores', () => {
  const [rows, size, classes] = [1024, 4, 24001];
  const peak = (fused: boolean, dtype: DType, trains = true): number =>
    scope(() => {
      const hidden = leafOf(randn([rows, size]).to({ dtype }), trains);
      const weight = leafOf(randn([classes, size]).to({ dtype }), trains);
      const labels = labelsOf(rows, classes);
      const start = memory.allocatorStats('cpu').allocated;
      memory.resetPeak('cpu');
      const loss = linearCrossEntropy(hidden, weight, labels, { fused });
      if (trains) loss.backward();
      return (memory.allocatorStats('cpu').peak - start) / (rows * classes * (dtype === 'float32' ? 4 : 2));
    });
  expect(peak(false, 'float32')).toBeGreaterThan(1.9);
  expect(peak(true, 'float32')).toBeLessThan(0.4);
  expect(peak(true, 'float32', false)).toBeLessThan(0.35);
  expect(peak(true, 'bfloat16')).toBeLessThan(1.1); // with blocks in float32
});

it('gives shapes on meta tensors, and counts there what stands at a time', () => {
  const make = (shape: number[]) => leafOf(randn(shape, { device: 'meta' }));
  const [x, w] = [make([1024, 4]), make([24001, 4])];
  const labels = ops.empty([1024], { dtype: 'int64', device: 'meta' });
  const start = memory.allocatorStats('meta').allocated;
  memory.resetPeak('meta');
  const loss = linearCrossEntropy(x, w, labels);
  ops.mul(loss, 2).backward();
  expect([loss.device, loss.shape, x.grad!.shape, w.grad!.shape]).toEqual(['meta', [], [1024, 4], [24001, 4]]);
  const share = (memory.allocatorStats('meta').peak - start) / (1024 * 24001 * 4);
  expect(share).toBeGreaterThan(0.3);
  expect(share).toBeLessThan(0.4);
});

it('refuses what does not fit', () => {
  const [hidden, weight] = [randn([2, 3]), randn([4, 3])];
  const labels = tensor([0n, 1n]);
  for (const bad of [4n, -1n]) {
    expect(() => linearCrossEntropy(hidden, weight, tensor([0n, bad]))).toThrow(
      `label ${bad} in row 1 is out of bounds: expected 0 to 3, or -100`,
    );
  }
  expect(() => linearCrossEntropy(hidden, randn([4, 2]), labels)).toThrow('expected hidden (..., D), weight (V, D)');
  expect(() => linearCrossEntropy(hidden, weight, tensor([0n]))).toThrow('received float32 [2, 3], float32 [4, 3]');
  expect(() => linearCrossEntropy(hidden, weight, labels, { divisor: 0 })).toThrow('divisor to be a number above 0');
  expect(() => linearCrossEntropy(hidden, weight, labels, { labelSmoothing: 2 })).toThrow('labelSmoothing in [0, 1]');
  expect(() => linearCrossEntropy(hidden, weight, labels, { ignoreIndex: 0.5 })).toThrow(
    'ignoreIndex to be an integer',
  );
});

describe("the side of CUDA, of libtorch's ops, on the CPU", () => {
  const sides = (...args: Parameters<typeof call> extends [string, ...infer A] ? A : never) =>
    ['', '_by_ops'].map((name) => call(`shardloop::linear_cross_entropy_sum${name}`, ...args) as (Tensor | null)[]);

  // Beside the usual rounding of each dtype the sums have another order.
  it.each([
    ['float64', 1e-12],
    ['float32', 2e-5],
    ['bfloat16', 2 ** -6],
    ['float16', 2 ** -9],
  ] as const)('gives loss and gradients of the one of kernels in %s', (dtype, bound) => {
    for (const [rows, size, classes] of [
      [5, 3, 7],
      [70, 33, 130],
      [300, 9, 50257],
    ] as const) {
      scope(() => {
        const [x, w] = [randn([rows, size]).to({ dtype }), ops.mul(randn([classes, size]), 0.1).to({ dtype })];
        for (const [smoothing, divisor, wanted] of [
          [0, null, [true, true]],
          [0.1, 7, [true, false]],
          [0.1, null, [false, true]],
          [0, 3, [false, false]],
        ] as const) {
          const [kernels, byOps] = sides(x, w, labelsOf(rows, classes, -100n), -100, smoothing, divisor, 0.5, [
            ...wanted,
          ]);
          for (const [i, t] of kernels!.entries()) {
            expect(byOps![i] === null, `${i} of ${wanted}`).toBe(t === null);
            if (t === null) continue;
            expect([byOps![i]!.dtype, byOps![i]!.shape]).toEqual([t.dtype, t.shape]);
            expect(
              usualError(values(byOps![i]!), values(t)),
              `${i} of ${rows}, ${size}, ${classes}`,
            ).toBeLessThanOrEqual(bound);
          }
        }
      });
    }
  });

  it('names a label that is no class, and gives NaN and zeros where no row counts', () => {
    const [x, w] = [randn([2, 3]), randn([5, 3])];
    for (const bad of [5n, -1n]) {
      const run = () => sides(x, w, tensor([0n, bad]), -100, 0, null, 1, [true, true]);
      expect(run).toThrow(/labels? .*4|0 to 4/);
      const alone = () =>
        call('shardloop::linear_cross_entropy_sum_by_ops', x, w, tensor([0n, bad]), -100, 0, null, 1, [true, true]);
      expect(alone).toThrow(/labels from 0 to 4, or -100/);
    }
    const [, [loss, dx, dw]] = sides(x, w, tensor([-100n, -100n]), -100, 0, null, 1, [true, true]) as [
      unknown,
      Tensor[],
    ];
    expect([values(loss!)[0], ...values(dx!), ...values(dw!)]).toEqual([Number.NaN, ...Array(21).fill(0)]);
  });
});
