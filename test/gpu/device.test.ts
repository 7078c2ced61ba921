// Tensors, autograd, random state and memory on a CUDA device. Run by scripts/device-check.mjs.
import { expect, it } from 'vitest';
import {
  autocast,
  cudaDeviceName,
  customFunction,
  getRandomState,
  isCudaAvailable,
  manualSeed,
  memory,
  ops,
  rand,
  scope,
  setRandomState,
  synchronize,
  tensor,
} from '../../lib/core/index.js';

const device = 'cuda:0';

it('finds the device', () => {
  expect(isCudaAvailable()).toBe(true);
  expect(cudaDeviceName(device)).not.toBe('');
  expect(memory.cudaStats(device).total).toBeGreaterThan(0);
});

it('computes and differentiates as the CPU does', async () => {
  const values = Array.from({ length: 12 }, (_, i) => Math.sin(i));
  const of = (on: string) => {
    const x = tensor(values, { shape: [3, 4], device: on, requiresGrad: true });
    const y = ops.sum(ops.mul(ops.tanh(x), ops.matmul(x, ops.t(x)).mean()));
    y.backward();
    return [y, x.grad!];
  };
  const [here, there] = [of('cpu'), of(device)];
  for (const [i, t] of there.entries()) {
    expect(t.device).toBe(device);
    const expected = here[i]!.dataSync() as Float32Array;
    // fp32: a dozen operations, each rounded once.
    for (const [k, v] of ((await t.data()) as Float32Array).entries()) expect(v).toBeCloseTo(expected[k]!, 5);
  }
});

it('calls a custom function’s backward on the thread of JavaScript', () => {
  const thrice = customFunction({
    forward: (_, x) => ops.mul(x, 3),
    backward: (_, g) => ops.mul(g!, 30),
  });
  const x = tensor([1, 2], { device, requiresGrad: true });
  ops.sum(thrice(x)).backward();
  expect([...(x.grad!.dataSync() as Float32Array)]).toEqual([30, 30]);
});

it('puts the random state back', () => {
  manualSeed(3);
  const state = getRandomState(device);
  const first = rand([8], { device }).dataSync();
  setRandomState(state, device);
  expect(rand([8], { device }).dataSync()).toEqual(first);
});

it('casts under autocast', () => {
  const x = rand([4, 4], { device });
  const y = autocast({ dtype: 'bfloat16', device: 'cuda' }, () => ops.matmul(x, x));
  expect(y.dtype).toBe('bfloat16');
});

it('frees device memory at the end of a scope', () => {
  const before = memory.cudaStats(device).allocated;
  scope(() => {
    rand([1024, 1024], { device });
    synchronize(device);
    expect(memory.cudaStats(device).allocated).toBeGreaterThanOrEqual(before + 4 * 1024 * 1024);
  });
  expect(memory.cudaStats(device).allocated).toBe(before);
});
