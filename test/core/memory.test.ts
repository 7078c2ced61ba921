// The promise of flat memory: live handles, bytes and the size of the process over thousands of training steps, and the
// finalization net for what escaped all scopes.
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { call, memory, noGrad, ops, randn, scope, type Tensor, zeros } from '../../lib/index.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

function step(weights: readonly Tensor[], x: Tensor): number {
  return scope(() => {
    const hidden = ops.gelu(ops.linear(x, weights[0]!)); // (B, H)
    const loss = ops.mean(ops.square(ops.linear(hidden, weights[1]!)));
    loss.backward();
    noGrad(() => {
      for (const weight of weights) {
        weight.add_(weight.grad!, { alpha: -1e-3 });
        weight.grad = null;
      }
    });
    return Number(loss.itemSync());
  });
}

it('three thousand steps leave handles, bytes and the process flat', () => {
  const weights = [randn([64, 32], { requiresGrad: true }), randn([8, 64], { requiresGrad: true })];
  const x = randn([16, 32]);
  for (let i = 0; i < 300; i++) step(weights, x);
  const before = memory.stats();
  collect();
  const rss = process.memoryUsage.rss();
  let loss = 0;
  for (let i = 0; i < 3000; i++) loss = step(weights, x);
  collect();
  expect(Number.isFinite(loss)).toBe(true);
  expect(memory.stats()).toEqual(before);
  expect(process.memoryUsage.rss() - rss).toBeLessThan(24 << 20);
});

it('counts each storage once', () => {
  const before = memory.stats();
  const base = zeros([1000]);
  const view = base.view([10, 100]);
  const after = memory.stats();
  expect(after.bytes - before.bytes).toBe(4000);
  expect(after.handles - before.handles).toBe(2);
  base.dispose();
  expect(memory.stats().bytes - before.bytes).toBe(4000);
  view.dispose();
  expect(memory.stats()).toEqual(before);
});

it('the net frees what is unreachable: made outside scopes, escaped, kept, or a result of call', async () => {
  const before = memory.stats().handles;
  (() => {
    for (let i = 0; i < 50; i++) {
      zeros([10]);
      scope(() => zeros([10]));
      call('aten::zeros', [10]);
    }
  })();
  expect(memory.stats().handles).toBe(before + 150);
  for (let i = 0; i < 50 && memory.stats().handles > before; i++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  expect(memory.stats().handles).toBeLessThanOrEqual(before);
});

it('what is large and out of scope makes the collector run', async () => {
  const before = memory.stats().bytes;
  let peak = 0;
  for (let i = 0; i < 60; i++) {
    zeros([4 << 20]); // 16 MiB, never disposed
    await new Promise(setImmediate);
    peak = Math.max(peak, memory.stats().bytes - before);
  }
  expect(peak).toBeLessThan(60 * (16 << 20));
});
