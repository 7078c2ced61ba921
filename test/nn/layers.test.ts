// Linear, Embedding, LayerNorm, RMSNorm, Dropout and activations: values worked out by hand, gradients against finite
// differences, every option, and misuse.
import { beforeEach, describe, expect, test } from 'vitest';
import { manualSeed, noGrad, ones, randn, type Tensor, tensor } from '../../lib/core/index.js';
import {
  Conv1D,
  Dropout,
  Embedding,
  GELU,
  gelu,
  LayerNorm,
  Linear,
  type Module,
  RMSNorm,
  SiLU,
  silu,
} from '../../lib/nn/index.js';
import { gradError, leaf } from './gradcheck.js';

beforeEach(() => manualSeed(7));

function fill(t: Tensor, values: number[]): void {
  noGrad(() => t.copy_(tensor(values, { shape: [...t.shape], dtype: 'float64' })));
}

const close = (t: Tensor, expected: number[], digits = 5): void => {
  const actual = [...(t.dataSync() as Float32Array)];
  expect(actual).toHaveLength(expected.length);
  actual.forEach((x, i) => {
    expect(x).toBeCloseTo(expected[i]!, digits);
  });
};

const checkParameters = (module: Module, f: () => Tensor, ...inputs: Tensor[]): void => {
  expect(gradError(f, [...inputs, ...module.parameters()])).toBeLessThan(1e-7);
};

describe('Linear', () => {
  test('is x W^T + b', () => {
    const layer = new Linear({ in: 2, out: 3 });
    fill(layer.weight, [1, 2, 3, 4, 5, 6]);
    fill(layer.bias!, [0.5, 0, -1]);
    expect(layer.forward(tensor([[1, -1]])).toArray()).toEqual([[-0.5, -1, -2]]);
    expect(layer.forward(ones([2, 4, 2])).shape).toEqual([2, 4, 3]);
  });

  test('bias: false has none; dtype and device are taken', () => {
    const layer = new Linear({ in: 2, out: 1, bias: false, dtype: 'float64', device: 'meta' });
    expect(layer.bias).toBeNull();
    expect(layer.weight.dtype).toBe('float64');
    expect(layer.weight.device).toBe('meta');
    expect(new Linear({ in: 2, out: 1, dtype: 'bfloat16' }).bias!.dtype).toBe('bfloat16');
  });

  test('starts uniform in +-1/sqrt(in)', () => {
    const layer = new Linear({ in: 16, out: 200 });
    const values = [...(layer.weight.dataSync() as Float32Array), ...(layer.bias!.dataSync() as Float32Array)];
    expect(Math.max(...values)).toBeLessThanOrEqual(0.25);
    expect(Math.min(...values)).toBeGreaterThanOrEqual(-0.25);
    const square = values.reduce((sum, x) => sum + x * x, 0) / values.length;
    expect(Math.sqrt(square)).toBeCloseTo(0.25 / Math.sqrt(3), 2);
  });

  test('gradients', () => {
    const layer = new Linear({ in: 3, out: 2, dtype: 'float64' });
    const x = leaf(2, 2, 3);
    checkParameters(layer, () => layer.forward(x), x);
  });

  test('misuse', () => {
    expect(() => new Linear({ in: 0, out: 2 })).toThrow(/Linear: in: expected an integer of at least 1, received 0/);
    expect(() => new Linear({ in: 2, out: 2.5 })).toThrow(/Linear: out/);
    expect(() => new Linear({ in: 2, out: 2 }).forward(ones([3]))).toThrow(
      expect.objectContaining({ code: 'OP_FAILED' }),
    );
  });
});

describe('Conv1D', () => {
  test('is x W + b with W (in, out), and starts as GPT-2 does', () => {
    const layer = new Conv1D({ in: 2, out: 3 });
    fill(layer.weight, [1, 2, 3, 4, 5, 6]);
    fill(layer.bias!, [0.5, 0, -1]);
    expect(layer.forward(tensor([[1, -1]])).toArray()).toEqual([[-2.5, -3, -4]]);
    expect(new Conv1D({ in: 100, out: 100 }).weight.std().itemSync()).toBeCloseTo(0.02, 3);
    expect(new Conv1D({ in: 1, out: 2 }).bias!.toArray()).toEqual([0, 0]);
    expect(new Conv1D({ in: 1, out: 2, bias: false }).bias).toBeNull();
    const shaped = new Conv1D({ in: 1, out: 2, dtype: 'float64', device: 'meta' });
    expect([shaped.weight.dtype, shaped.bias!.device]).toEqual(['float64', 'meta']);
    expect(String(layer)).toBe('Conv1D(in=2, out=3, bias=true)');
  });

  test('gradients and misuse', () => {
    const layer = new Conv1D({ in: 3, out: 2, dtype: 'float64' });
    const x = leaf(2, 3);
    checkParameters(layer, () => layer.forward(x), x);
    expect(() => new Conv1D({ in: 0, out: 1 })).toThrow(/Conv1D: in/);
    expect(() => new Conv1D({ in: 1, out: -1 })).toThrow(/Conv1D: out/);
  });
});

describe('Embedding', () => {
  test('picks rows', () => {
    const layer = new Embedding({ count: 3, size: 2 });
    fill(layer.weight, [1, 2, 3, 4, 5, 6]);
    expect(layer.forward(tensor([[2n, 0n]])).toArray()).toEqual([
      [
        [5, 6],
        [1, 2],
      ],
    ]);
    expect(layer.forward(tensor([1], { dtype: 'int32' })).toArray()).toEqual([[3, 4]]);
  });

  test('starts as N(0, 1), of the dtype asked for', () => {
    const layer = new Embedding({ count: 100, size: 100, dtype: 'float64' });
    expect(layer.weight.dtype).toBe('float64');
    expect(layer.weight.std().itemSync()).toBeCloseTo(1, 1);
    expect(new Embedding({ count: 2, size: 2, device: 'meta' }).weight.device).toBe('meta');
  });

  test('gradients, an id twice', () => {
    const layer = new Embedding({ count: 3, size: 2, dtype: 'float64' });
    checkParameters(layer, () => layer.forward(tensor([0n, 2n, 0n])));
  });

  test('misuse', () => {
    const layer = new Embedding({ count: 3, size: 2 });
    expect(() => layer.forward(ones([2]))).toThrow(/ids as an int64 or int32 tensor, received a float32 tensor/);
    expect(() => layer.forward([1] as unknown as Tensor)).toThrow(/received an array of 1/);
    expect(() => layer.forward(tensor([3n]))).toThrow('expected ids from 0 to 2, received 3');
    expect(() => new Embedding({ count: -1, size: 2 })).toThrow(/Embedding: count/);
    expect(() => new Embedding({ count: 1, size: Number.NaN })).toThrow(/Embedding: size/);
  });
});

describe('LayerNorm and RMSNorm', () => {
  test('LayerNorm by hand', () => {
    const layer = new LayerNorm({ size: 2, eps: 3 });
    fill(layer.weight, [1, 2]);
    fill(layer.bias!, [0, 10]);
    close(layer.forward(tensor([[1, 3]])), [-0.5, 11]); // mean 2, variance 1, root of 1 + 3 = 2
    close(new LayerNorm({ size: 2, bias: false }).forward(tensor([[1, 3]])), [-1, 1], 4);
    expect(new LayerNorm({ size: 2, bias: false }).bias).toBeNull();
    expect(new LayerNorm({ size: 2 }).eps).toBe(1e-5);
    expect(new LayerNorm({ size: 2, dtype: 'float64', device: 'meta' }).bias!.dtype).toBe('float64');
    expect(new LayerNorm({ size: 2, device: 'meta' }).weight.device).toBe('meta');
  });

  test('RMSNorm by hand', () => {
    const layer = new RMSNorm({ size: 2, eps: 4 });
    fill(layer.weight, [1, 2]);
    close(layer.forward(tensor([[2, 8 ** 0.5 * 2]])), [2 / Math.sqrt(22), (4 * 8 ** 0.5) / Math.sqrt(22)]);
    expect(new RMSNorm({ size: 2 }).eps).toBe(1e-6);
    expect(new RMSNorm({ size: 2, dtype: 'float64', device: 'meta' }).weight.dtype).toBe('float64');
    expect(new RMSNorm({ size: 2, device: 'meta' }).weight.device).toBe('meta');
  });

  test('gradients', () => {
    const x = leaf(3, 4);
    const layer = new LayerNorm({ size: 4, dtype: 'float64' });
    checkParameters(layer, () => layer.forward(x), x);
    const rms = new RMSNorm({ size: 4, dtype: 'float64' });
    checkParameters(rms, () => rms.forward(x), x);
  });

  test('misuse', () => {
    expect(() => new LayerNorm({ size: 2, eps: 0 })).toThrow(/LayerNorm: eps: expected a positive number, received 0/);
    expect(() => new RMSNorm({ size: 2, eps: -1 })).toThrow(/RMSNorm: eps/);
    expect(() => new RMSNorm({ size: 0 })).toThrow(/RMSNorm: size/);
  });
});

describe('Dropout', () => {
  test('drops and scales while training, and hands its input through otherwise', () => {
    const layer = new Dropout(0.25);
    const x = ones([10_000]);
    const y = [...(layer.forward(x).dataSync() as Float32Array)];
    const kept = y.filter((value) => value !== 0);
    expect(kept.length / y.length).toBeCloseTo(0.75, 1);
    expect(kept.every((value) => Math.abs(value - 4 / 3) < 1e-6)).toBe(true);
    expect(layer.eval().forward(x)).toBe(x);
    expect(new Dropout(0).forward(x)).toBe(x);
    expect(new Dropout().p).toBe(0.1);
  });

  test('misuse', () => {
    for (const p of [-0.1, 1, Number.NaN, '0.5' as unknown as number]) {
      expect(() => new Dropout(p)).toThrow(/Dropout: p: expected a number in \[0, 1\)/);
    }
  });
});

describe('activations', () => {
  test('GELU, exact and tanh, and SiLU by their formulas', () => {
    const x = tensor([-1, 0.5, 2], { dtype: 'float64' });
    close(gelu(x), [-0.15865525393, 0.34573123063, 1.9544997361], 9); // x Phi(x)
    const byTanh = [-1, 0.5, 2].map((v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))));
    close(gelu(x, { approximate: 'tanh' }), byTanh, 12);
    close(new GELU({ approximate: 'tanh' }).forward(x), byTanh, 12);
    close(new GELU().forward(x), [-0.15865525393, 0.34573123063, 1.9544997361], 9);
    close(
      silu(x),
      [-1, 0.5, 2].map((v) => v / (1 + Math.exp(-v))),
      12,
    );
    close(
      new SiLU().forward(x),
      [-1, 0.5, 2].map((v) => v / (1 + Math.exp(-v))),
      12,
    );
    expect(String(new GELU({ approximate: 'tanh' }))).toBe('GELU(approximate=tanh)');
  });

  test('gradients', () => {
    const x = leaf(6);
    expect(gradError(() => gelu(x), [x])).toBeLessThan(1e-7);
    expect(gradError(() => gelu(x, { approximate: 'tanh' }), [x])).toBeLessThan(1e-7);
    expect(gradError(() => silu(x), [x])).toBeLessThan(1e-7);
  });

  test('misuse', () => {
    expect(() => gelu(randn([1]), { approximate: 'erf' as 'tanh' })).toThrow(/'none' or 'tanh', received "erf"/);
    expect(() => new GELU({ approximate: 1 as unknown as 'tanh' })).toThrow(/received 1/);
  });
});
