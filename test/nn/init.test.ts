// Initialisation: each function's distribution, and GPT-2's rules over a whole model.
import { beforeEach, expect, test } from 'vitest';
import { empty, manualSeed, type Tensor } from '../../lib/core/index.js';
import { Embedding, init, LayerNorm, Linear, Module } from '../../lib/nn/index.js';

beforeEach(() => manualSeed(11));

const std = (t: Tensor): number => t.std().itemSync() as number;

test('normal, uniform, constant, zeros, ones fill in place, parameters too', () => {
  const layer = new Linear({ in: 100, out: 100 });
  expect(init.normal(layer.weight, { mean: 3, std: 0.5 })).toBe(layer.weight);
  expect(layer.weight.mean().itemSync()).toBeCloseTo(3, 1);
  expect(std(layer.weight)).toBeCloseTo(0.5, 2);
  init.normal(layer.weight);
  expect(std(layer.weight)).toBeCloseTo(1, 1);
  init.uniform(layer.weight, 2, 4);
  expect(layer.weight.min().itemSync()).toBeGreaterThanOrEqual(2);
  expect(layer.weight.max().itemSync()).toBeLessThanOrEqual(4);
  expect(layer.weight.mean().itemSync()).toBeCloseTo(3, 1);
  expect(
    init
      .uniform(empty([1000]))
      .max()
      .itemSync(),
  ).toBeLessThanOrEqual(1);
  expect(init.constant(empty([2]), 7).toArray()).toEqual([7, 7]);
  expect(init.zeros(empty([1])).toArray()).toEqual([0]);
  expect(init.ones(empty([1])).toArray()).toEqual([1]);
  expect(layer.weight.isLeaf).toBe(true);
  expect(layer.weight.requiresGrad).toBe(true);
});

class Net extends Module {
  table = new Embedding({ count: 100, size: 64 });
  norm = new LayerNorm({ size: 64 });
  c_fc = new Linear({ in: 64, out: 128 });
  c_proj = new Linear({ in: 128, out: 64 });
  forward(): void {}
}

test('gpt2: matrices N(0, 0.02), residual projections smaller by sqrt(2 layers), biases 0, scales 1', () => {
  const net = new Net();
  init.constant(net.norm.weight, 5);
  init.constant(net.norm.bias!, 5);
  init.gpt2(net, { layers: 8 });
  expect(std(net.table.weight)).toBeCloseTo(0.02, 3);
  expect(std(net.c_fc.weight)).toBeCloseTo(0.02, 3);
  expect(std(net.c_proj.weight)).toBeCloseTo(0.005, 3);
  for (const bias of [net.norm.bias!, net.c_fc.bias!, net.c_proj.bias!]) expect(bias.abs().sum().itemSync()).toBe(0);
  expect(net.norm.weight.sub(1).abs().sum().itemSync()).toBe(0);
});

test('gpt2: std and residual are taken, layers is checked', () => {
  const net = new Net();
  init.gpt2(net, { layers: 2, std: 0.1, residual: (name) => name === 'c_fc.weight' });
  expect(std(net.table.weight)).toBeCloseTo(0.1, 2);
  expect(std(net.c_fc.weight)).toBeCloseTo(0.05, 2);
  expect(std(net.c_proj.weight)).toBeCloseTo(0.1, 2);
  expect(() => init.gpt2(net, { layers: 0 })).toThrow(/layers to be an integer of at least 1, received 0/);
});

test('the same seed gives the same numbers', () => {
  const draw = (): unknown => {
    manualSeed(3);
    return init.normal(empty([5])).toArray();
  };
  expect(draw()).toEqual(draw());
});
