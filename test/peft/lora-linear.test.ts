// A LoRA layer as one op, which adds the detour in place, against the composition of base and detour.
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
import { Conv1D, Embedding, Linear } from '../../lib/nn/index.js';
import { LoraLinear } from '../../lib/peft/index.js';
import { usualError, values } from '../nn/compare.js';

let before: unknown;
beforeEach(() => {
  manualSeed(3);
  before = call('shardloop::use_widened_products', true);
});
afterEach(() => {
  call('shardloop::use_widened_products', before as boolean);
});

interface Shape {
  inner: number;
  out: number;
  rank: number;
  across?: boolean;
  bias?: boolean;
  dropout?: number;
}

/** A layer whose base is frozen and whose detour is not nothing. */
function make({ inner, out, rank, across = false, bias = true, dropout = 0 }: Shape): LoraLinear {
  const base = new (across ? Conv1D : Linear)({ in: inner, out, bias }).requiresGrad(false);
  const layer = new LoraLinear(base as Linear, { rank, alpha: 2.5 * rank, dropout, rsLora: false });
  noGrad(() => ops.normal_(layer.lora_B.weight));
  return layer;
}

const run = (layer: LoraLinear, x: Tensor, isGelu: boolean, fused: boolean): Tensor =>
  isGelu ? layer.forwardGelu(x, { fused }) : layer.forward(x, { fused });

/** The value, and the gradients of x, A and B, in float64. */
function all(layer: LoraLinear, given: Tensor, slopes: Tensor, isGelu: boolean, fused: boolean): Float64Array[] {
  layer.zeroGrad();
  const x = given.detach();
  x.requiresGrad = true;
  const y = run(layer, x, isGelu, fused);
  expect([y.dtype, y.shape]).toEqual([x.dtype, slopes.shape]);
  ops.sum(ops.mul(y, slopes)).backward();
  const [a, b] = [layer.lora_A.weight.grad!, layer.lora_B.weight.grad!];
  expect([a.strides, b.strides]).toEqual([layer.lora_A.weight.strides, layer.lora_B.weight.strides]);
  return [y, x.grad!, a, b].map(values);
}

// In half precision GELU, u A^T, the base's product and what comes out are rounded, half a unit in the last place each; base
// and detour, of one size here, may cancel in part: up to four halves.
const BOUNDS: [DType, number][] = [
  ['float32', 1e-6],
  ['bfloat16', 2 ** -7],
  ['float16', 2 ** -10],
];

describe.each(BOUNDS)('in %s', (dtype, bound) => {
  it.each([
    ['Linear', false, true],
    ['Linear', true, false],
    ['Conv1D', false, false],
    ['Conv1D', true, true],
  ])('it is the composition in float64: %s, behind GELU: %s, widened products: %s', (kind, isGelu, widened) => {
    call('shardloop::use_widened_products', widened);
    for (const [rows, inner, out, rank] of [
      [[1], 3, 9, 2],
      [[2, 33], 65, 7, 3],
      [[70], 130, 33, 8],
    ] as const) {
      for (const bias of [true, false]) {
        scope(() => {
          const layer = make({ inner, out, rank, bias, across: kind === 'Conv1D' }).to({ dtype });
          const [x, slopes] = [randn([...rows, inner]).to({ dtype }), randn([...rows, out]).to({ dtype })];
          const got = all(layer, x, slopes, isGelu, true);
          layer.to({ dtype: 'float64' });
          const wide = (t: Tensor) => t.to({ dtype: 'float64' });
          const expected = all(layer, wide(x), wide(slopes), isGelu, false);
          for (const [i, one] of got.entries()) {
            expect(usualError(one, expected[i]!), `${i} of ${rows}, ${inner}, ${out}`).toBeLessThanOrEqual(bound);
          }
        });
      }
    }
  });
});

describe('a layer that cannot be', () => {
  const given = { rank: 2, alpha: 4, dropout: 0, rsLora: false };
  const base = () => new Linear({ in: 6, out: 5 });

  it.each([
    [{ rank: 0 }, 'rank: expected a positive integer, received 0'],
    [{ rank: -2 }, 'rank: expected a positive integer, received -2'],
    [{ rank: 1.5 }, 'rank: expected a positive integer, received 1.5'],
    [{ rank: undefined }, 'rank: expected a positive integer, received undefined'],
    [{ alpha: Number.NaN }, 'alpha: expected a positive number, received NaN'],
    [{ alpha: Infinity }, 'alpha: expected a positive number, received Infinity'],
    [{ alpha: '16' }, 'alpha: expected a positive number, received "16"'],
    [{ alpha: 1e-60 }, 'alpha: expected one whose scale alpha / rank float32 can hold, not 5e-61, received 1e-60'],
    [{ dropout: 1 }, 'dropout: expected a number in [0, 1), received 1'],
    [{ dropout: -0.1 }, 'dropout: expected a number in [0, 1), received -0.1'],
    [{ dropout: Number.NaN }, 'dropout: expected a number in [0, 1), received NaN'],
    [{ rsLora: 'no' }, 'rsLora: expected true or false, received "no"'],
    [{ droput: 0 }, "unknown option 'droput'; did you mean 'dropout'?"],
  ])('%j is refused', (wrong, message) => {
    const make = () => new LoraLinear(base(), { ...given, ...wrong } as typeof given);
    expect(make).toThrow(
      expect.objectContaining({ code: 'BAD_ARGUMENT', message: expect.stringContaining(`LoraLinear: ${message}`) }),
    );
  });

  it('has options, and a base that is a Linear or Conv1D', () => {
    const on = (layer: unknown, options: unknown) => () => new LoraLinear(layer as Linear, options as typeof given);
    const refused = (message: string) =>
      expect.objectContaining({ code: 'BAD_ARGUMENT', message: expect.stringContaining(message) });
    expect(on(base(), undefined)).toThrow(refused('LoraLinear: expected an options object, received undefined'));
    const expected = 'LoraLinear: the base layer: expected an nn.Linear or nn.Conv1D, received';
    expect(on(null, given)).toThrow(refused(`${expected} null; addLora(model)`));
    expect(on(new Embedding({ count: 3, size: 2 }), given)).toThrow(
      refused(`${expected} an object of class Embedding`),
    );
    const twice = `${expected} an object of class LoraLinear, which has an adapter already`;
    expect(on(new LoraLinear(base(), given), given)).toThrow(refused(twice));
    expect(new LoraLinear(new Conv1D({ in: 6, out: 5 }), given).transposed).toBe(true);
  });
});

it('keeps x and u A^T alone, and makes no second result', () => {
  const use = (fused: boolean) =>
    scope(() => {
      const layer = make({ inner: 256, out: 1024, rank: 4 });
      const x = randn([64, 256], { requiresGrad: true });
      memory.resetPeak('cpu');
      const start = memory.allocatorStats('cpu').allocated;
      const y = run(layer, x, true, fused);
      const { allocated, peak } = memory.allocatorStats('cpu');
      return { kept: (allocated - start - y.storageBytes) / x.storageBytes, peak: (peak - start) / y.storageBytes };
    });
  const [one, two] = [use(true), use(false)];
  expect(one.kept).toBeLessThan(0.1);
  expect(two.kept).toBeGreaterThan(0.9); // gelu(x), for A
  expect(one.peak).toBeLessThan(1.5);
  expect(two.peak).toBeGreaterThan(2.5); // base, detour and sum
});

describe('what the op does not compute is composed', () => {
  const shape = { inner: 6, out: 5, rank: 2 };
  const agree = (layer: LoraLinear, x: Tensor) =>
    expect(values(run(layer, x, false, true))).toEqual(values(run(layer, x, false, false)));

  it('float64, another dtype of the detour, evaluation, merged weights', () => {
    const x = randn([3, 6], { requiresGrad: true });
    agree(make(shape).to({ dtype: 'float64' }), x.detach().to({ dtype: 'float64' }));
    const mixed = make(shape).to({ dtype: 'bfloat16' });
    mixed.lora_A.to({ dtype: 'float32' });
    mixed.lora_B.to({ dtype: 'float32' });
    agree(mixed, x.detach().to({ dtype: 'bfloat16' }));
    const merged = make(shape);
    merged.merge();
    agree(merged, x);
  });

  it('dropout in training', () => {
    const layer = make({ ...shape, dropout: 0.5 });
    const x = randn([64, 6]);
    const plain = values(run(layer.eval(), x, false, true));
    expect(usualError(values(run(layer.train(), x, false, true)), plain)).toBeGreaterThan(0.1);
    expect(
      usualError(values(run(layer.train(), x, true, true)), values(run(layer.eval(), x, true, true))),
    ).toBeGreaterThan(0.1);
  });

  it('a base that trains, whose weight gets its gradient', () => {
    const layer = make(shape);
    layer.weight.requiresGrad = true;
    ops.sum(layer.forward(randn([3, 6]))).backward();
    expect(layer.weight.grad!.shape).toEqual([5, 6]);
  });

  it('autocast', () => {
    const y = autocast({ dtype: 'bfloat16' }, () => make(shape).forward(randn([3, 6])));
    expect(y.dtype).toBe('bfloat16');
  });

  it("somebody's own forward, which sees gelu(x)", () => {
    const layer = make(shape);
    const seen: Tensor[] = [];
    layer.forward = (x) => {
      seen.push(x);
      return x;
    };
    const x = randn([3, 6]);
    layer.forwardGelu(x);
    expect(usualError(values(seen[0]!), values(ops.gelu(x, { approximate: 'tanh' })))).toBeLessThan(1e-6);
  });
});

it('gives gradients that can be differentiated, and shapes on meta tensors', () => {
  const layer = make({ inner: 6, out: 5, rank: 2 });
  const [x, slopes] = [randn([4, 6], { requiresGrad: true }), randn([4, 6])];
  for (const isGelu of [false, true]) {
    const twice = (fused: boolean) => {
      const y = run(layer, x, isGelu, fused);
      const [dx, da] = grad([ops.sum(ops.mul(y, y))], [x, layer.lora_A.weight], { createGraph: true });
      const sum = ops.add(ops.sum(ops.mul(dx!, slopes)), ops.sum(ops.mul(da!, da!)));
      return grad([sum], [x, layer.lora_A.weight, layer.lora_B.weight]).map((t) => values(t!));
    };
    const expected = twice(false);
    for (const [i, got] of twice(true).entries()) expect(usualError(got, expected[i]!)).toBeLessThan(1e-5);
  }
  const meta = randn([4, 6], { device: 'meta', requiresGrad: true });
  const onMeta = new LoraLinear(new Linear({ in: 6, out: 5, device: 'meta' }).requiresGrad(false) as Linear, {
    ...{ rank: 2, alpha: 2, dropout: 0, rsLora: false },
  });
  ops.sum(onMeta.forwardGelu(meta)).backward();
  expect([meta.grad!.shape, onMeta.lora_B.weight.grad!.shape]).toEqual([
    [4, 6],
    [5, 2],
  ]);
});
