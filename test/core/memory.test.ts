// The promise of flat memory: live handles, bytes and the size of the process over thousands of training steps, and the
// finalization net for what escaped all scopes.
import { constants, PerformanceObserver } from 'node:perf_hooks';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { owned } from '../../lib/core/scope.js';
import {
  arange,
  call,
  empty,
  keep,
  memory,
  noGrad,
  ones,
  ops,
  randn,
  scope,
  type Tensor,
  zeros,
} from '../../lib/index.js';

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

it('V8 knows the bytes of what is out of scope, so that its collector runs', async () => {
  const before = memory.stats().bytes;
  const count = 400;
  let peak = 0;
  for (let i = 0; i < count; i++) {
    empty([4 << 20]); // 16 MiB that nothing touches and nobody disposes
    await new Promise(setImmediate);
    peak = Math.max(peak, memory.stats().bytes - before);
  }
  // Untold, V8 sees a hundred small objects and collects none: the peak is then all of them.
  expect(peak).toBeLessThan((count - 100) * (16 << 20));
});

it('V8 is not told of what the library itself disposes of, so that its collector rests', async () => {
  let collections = 0;
  const observer = new PerformanceObserver((list) => {
    const entries = list.getEntries() as unknown as { detail: { kind: number } }[];
    collections += entries.filter(({ detail }) => detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR).length;
  });
  observer.observe({ entryTypes: ['gc'] });
  const countDuring = async (make: () => Tensor) => {
    await new Promise((resolve) => setTimeout(resolve, 50)); // what came before is reported
    collections = 0;
    for (let i = 0; i < 60; i++) {
      const tensors = Array.from({ length: 10 }, make);
      await new Promise(setImmediate);
      for (const t of tensors) t.dispose(); // they outlived their scope
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
    return collections;
  };
  const make = () => empty([4 << 20]); // 16 MiB
  const whenTold = await countDuring(() => keep(scope(make)));
  expect(whenTold).toBeGreaterThan(3);
  expect(await countDuring(() => owned(make))).toBeLessThan(whenTold / 2);
  observer.disconnect();
});

it.runIf(process.platform === 'linux')('free blocks serve other sizes, joined and cut, without page faults', () => {
  const round = () => {
    for (const sizes of [[4, 12, 8], [24], [9, 3, 6, 6], [16, 8]]) {
      const blocks = sizes.map((mib) => ones([mib << 20], { dtype: 'uint8' }));
      for (const block of blocks) block.dispose();
    }
  };
  memory.trim();
  for (let i = 0; i < 3; i++) round();
  const before = process.resourceUsage().minorPageFault;
  for (let i = 0; i < 20; i++) round();
  // Fresh memory each time would be 20 * 4 * 24 MiB / 4 KiB = 491,520.
  expect(process.resourceUsage().minorPageFault - before).toBeLessThan(20_000);
});

it('a released storage is refused by what reads or writes it, until it is back', () => {
  const t = arange(0, 6).view([2, 3]);
  const row = t.select(0, 1);
  const released = /released/;
  for (const bytes of [0, 8]) {
    call('shardloop::resize_storage_', t, bytes);
    expect(() => t.add(1)).toThrow(released);
    expect(() => row.sum()).toThrow(released);
    expect(() => ops.cat([zeros([1, 3]), t])).toThrow(released);
    expect(() => t.add_(1)).toThrow(released);
    expect(() => t.toArray()).toThrow(released);
    expect(String(t)).toMatch(released);
    expect(t.view([3, 2]).shape).toEqual([3, 2]); // a view reads nothing
  }
  call('shardloop::resize_storage_', t, 48);
  t.fill_(2);
  expect(t.add(1).toArray()).toEqual([
    [3, 3, 3],
    [3, 3, 3],
  ]);
});

it('trim gives back what the heap keeps of freed blocks', () => {
  empty([31 << 20], { dtype: 'uint8' }).dispose(); // glibc: blocks up to this size come from the heap from here on
  const blocks = Array.from({ length: 20 }, () => zeros([8 << 20], { dtype: 'uint8' }));
  const last = zeros([8 << 20], { dtype: 'uint8' }); // lies behind them, so that the heap cannot shrink by itself
  for (const block of blocks) block.dispose();
  const kept = process.memoryUsage.rss();
  memory.trim();
  if (process.platform === 'linux') expect(kept - process.memoryUsage.rss()).toBeGreaterThan(100 << 20);
  expect(last.numel).toBe(8 << 20);
  last.dispose();
});

it('meta tensors are counted as what they stand for, as long as they live', () => {
  const held = () =>
    (['meta', 'meta:host', 'meta:files'] as const).map((kind) => memory.allocatorStats(kind).allocated);
  const before = held();
  const since = () => held().map((bytes, i) => bytes - before[i]!);
  const make = () => empty([256], { device: 'meta' });
  const [host, files] = memory.standingFor('meta:host', () => [make(), memory.standingFor('meta:files', make)]);
  const [again, device] = [memory.standingFor('meta:host', make), make()];
  expect(since()).toEqual([1024, 2048, 1024]);
  for (const t of [host!, again]) t.dispose();
  expect(since()).toEqual([1024, 0, 1024]);
  const fails = () => {
    throw new Error('within');
  };
  expect(() => memory.standingFor('meta:host', fails)).toThrow('within');
  expect(() => memory.standingFor('cpu' as 'meta', make)).toThrow('what meta tensors can stand for, received cpu');
  expect(() => memory.standingFor('disk' as 'meta', make)).toThrow('cpu, meta, meta:host or meta:files, received disk');
  const after = make();
  expect(since()).toEqual([2048, 0, 1024]);
  for (const t of [files!, device, after]) t.dispose();
  expect(since()).toEqual([0, 0, 0]);
});
