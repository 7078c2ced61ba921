// What countWork counts: ops by name, backward's too, and allocations; and that nothing is counted outside of it.
import { expect, it } from 'vitest';
import { countWork, ops, ShardloopError, zeros } from '../../lib/index.js';
import { raises } from './raises.js';

it('counts calls by name, those of other ops and of backward included, and the blocks of results', async () => {
  const a = zeros([1024], { requiresGrad: true });
  const count = await countWork(() => {
    const b = ops.mul(a, a);
    ops.sum(b).backward();
  });
  expect(count.ops['aten::mul.Tensor']).toBe(3); // and twice in backward
  expect(count.ops['aten::sum']).toBe(1);
  expect(count.calls).toBe(Object.values(count.ops).reduce((sum, n) => sum + n, 0));
  expect(count.allocations).toBeGreaterThanOrEqual(3); // b, and the two gradients
  expect(count.bytes).toBeGreaterThanOrEqual(count.allocations * 4096);
  expect(count.bytes).toBeLessThan((count.allocations + 1) * 4096);
});

it('waits for asynchronous work, and starts from nothing', async () => {
  const first = await countWork(async () => {
    await new Promise((resolve) => setTimeout(resolve, 5));
    ops.add(zeros([2]), 1);
  });
  expect(first.ops['aten::add.Scalar']).toBe(1);
  expect(first.allocations).toBe(0); // blocks of 1 kB and less do not count
  ops.add(zeros([1024]), 1);
  expect(await countWork(() => {})).toEqual({ ops: {}, calls: 0, allocations: 0, bytes: 0 });
});

it('passes errors on, and refuses a count within a count and what is no function', async () => {
  const failure = countWork(() => {
    throw new RangeError('mine');
  });
  await expect(failure).rejects.toThrow(RangeError);
  await countWork(async () => {
    await expect(countWork(() => {})).rejects.toThrow('one count at a time');
  });
  await expect(countWork(3 as never)).rejects.toThrow('countWork: expected a function, received 3');
  await expect(countWork(3 as never)).rejects.toBeInstanceOf(ShardloopError);
  raises('BAD_ARGUMENT', () => zeros([1]).add(zeros([1]), { alpha: 'x' as never })); // the door works as before
  expect((await countWork(() => zeros([1]))).calls).toBeGreaterThan(0);
});
