// join(): ranks with unlike numbers of items go on together until all have run out.
import { describe, expect, it } from 'vitest';
import { createGroup, join } from '../../lib/dist/index.js';
import { runRanks } from './ranks.js';

/** An iterator that counts what is asked of it. */
function counted<T>(items: readonly T[]) {
  const asked = { next: 0, returned: 0 };
  const iterable: Iterable<T> = {
    [Symbol.iterator]: () => ({
      next: () => {
        const i = asked.next++;
        return i < items.length ? { value: items[i]!, done: false } : { value: undefined as never, done: true };
      },
      return: () => {
        asked.returned += 1;
        return { value: undefined as never, done: true };
      },
    }),
  };
  return { iterable, asked };
}

describe('join in a group of one', () => {
  it('takes each item once, and asks no more of what has ended', async () => {
    const group = await createGroup({ rank: 0, size: 1 });
    const { iterable, asked } = counted(['a', 'b']);
    const turns = [];
    for await (const turn of join(group, iterable)) turns.push(turn);
    expect(turns).toEqual([
      { item: 'a', active: 1 },
      { item: 'b', active: 1 },
    ]);
    expect(asked).toEqual({ next: 3, returned: 0 });
    for await (const _ of join(group, [])) expect.unreachable();
  });

  it('closes what it has not read to its end', async () => {
    const group = await createGroup({ rank: 0, size: 1 });
    const { iterable, asked } = counted([1, 2, 3, 4]);
    for await (const { item } of join(group, iterable)) if (item === 2) break;
    expect(asked.returned).toBe(1);
    const failing = (async function* () {
      yield 1;
      throw new RangeError('line 2 is broken');
    })();
    await expect(async () => {
      for await (const _ of join(group, failing));
    }).rejects.toThrow('line 2 is broken');
  });
});

describe('join between three processes', () => {
  it('goes on until all have run out, whatever iterates', async () => {
    const runs = await runRanks(
      3,
      `const group = await dist.init({ timeoutSeconds: 20 });
       const items = Array.from({ length: [0, 3, 5][rank] }, (_, i) => i + 1);
       async function* slowly() { for (const item of items) { await new Promise((resolve) => setTimeout(resolve, 10)); yield item; } }
       const turns = [];
       for await (const { item, active } of dist.join(group, rank === 1 ? slowly() : items)) {
         turns.push([item, active, await group.sum(item ?? 0)]);
       }
       const none = [];
       for await (const turn of dist.join(group, [])) none.push(turn);
       // All leave at the same turn: the group is usable afterwards.
       let left = 0;
       for await (const _ of dist.join(group, [1, 2, 3])) { left += 1; if (left === 2) break; }
       report({ turns, none, left, after: await group.sum(1) });
       await group.destroy();`,
    );
    for (const [rank, run] of runs.entries()) {
      expect(run.err).toBe('');
      const item = (i: number) => (i < [0, 3, 5][rank]! ? i + 1 : null);
      expect(run.reports[0]).toEqual({
        turns: [
          [item(0), 2, 2],
          [item(1), 2, 4],
          [item(2), 2, 6],
          [item(3), 1, 4],
          [item(4), 1, 5],
        ],
        none: [],
        left: 2,
        after: 3,
      });
    }
  });
});
