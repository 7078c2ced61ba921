// Large CPU tensors: their pages serve the next ones, within what lived at once, and are counted whole. In a process of its
// own, whose size is looked at.
import { expect, it } from 'vitest';
import { call, empty, memory, ones, ops } from '../../lib/index.js';

it('the process holds little more for large tensors than lived at once, and gives it back when asked', () => {
  const MIB = 2 ** 20;
  const make = (mib: number) => ones([(mib * MIB) / 4]); // touches its pages
  const resident = () => process.memoryUsage.rss() / MIB;
  memory.trim();
  const before = resident();
  const grown = () => resident() - before;
  make(120).dispose();
  expect(grown()).toBeGreaterThan(100); // kept for the next
  const again = make(112); // in the same pages
  expect(grown()).toBeLessThan(160);
  again.dispose();
  // Other sizes do not fit there: as they come, it goes.
  const others = Array.from({ length: 12 }, () => make(9));
  expect(grown()).toBeLessThan(160);
  for (const t of others) t.dispose();
  const mixed = [2, 3, 5, 7, 11, 13, 17, 19].map(make); // 77
  expect(grown()).toBeLessThan(160);
  for (const t of mixed) t.dispose();
  memory.trim();
  expect(grown()).toBeLessThan(20);
});

it('counts large tensors whole, and frees those whose storage grows or shrinks', () => {
  const before = memory.allocatorStats('cpu').allocated;
  const big = empty([3 << 20], { dtype: 'uint8' });
  expect(memory.allocatorStats('cpu').allocated - before).toBe(3 << 20);
  ops.resize_(big, [5 << 20]);
  expect(memory.allocatorStats('cpu').allocated - before).toBe(5 << 20);
  call('shardloop::resize_storage_', big, 0);
  expect(memory.allocatorStats('cpu').allocated).toBe(before);
  big.dispose();
  expect(memory.allocatorStats('cpu').allocated).toBe(before);
});
