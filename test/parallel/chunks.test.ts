// How shards are cut into the pieces of buckets, against a walk over every element, and that the plan of a large world is small.
import { describe, expect, it } from 'vitest';
import { ops, type Tensor, tensor, zeros } from '../../lib/core/index.js';
import type { BucketPlan, Slot } from '../../lib/parallel/buckets.js';
import { chunksOf, placeOf, sourceOf } from '../../lib/parallel/chunks.js';

/** A plan of slots of these sizes, whose element i has the value i + 1. */
function planOf(sizes: readonly number[]): BucketPlan {
  let numel = 0;
  const slots: Slot[] = [];
  for (const size of sizes) {
    const values = Float64Array.from({ length: size }, (_, i) => numel + i + 1);
    slots.push({ parameter: tensor(values), offset: numel, numel: size });
    numel += size;
  }
  return { slots, numel, readyAt: 0, segments: [0], trains: true, headAt: null };
}

describe('the pieces of shards', () => {
  it.each([
    [2, 16, 16, [20]],
    [2, 16, 5, [20]],
    [3, 16, 7, [40]],
    [4, 16, 3, [1, 0, 30, 17, 2]],
    [5, 16, 16, [9, 9, 9, 9]],
    [5, 16, 1, [70, 3]],
    [7, 16, 6, [3, 5, 60]], // the last ranks hold padding alone
    [9, 4, 3, [2]],
    [3, 2, 1, [6]],
  ])('%i ranks, shards of %i in pieces of %i, parameters of %j', (size, shardSize, most, sizes) => {
    const plan = planOf(sizes);
    for (const chunk of chunksOf({ plan, shardSize }, size, most)) {
      const bucket = zeros([size * chunk.n], { dtype: 'float64' });
      for (const copy of chunk.copies) {
        const [place, source] = [
          placeOf(bucket, copy),
          sourceOf(plan.slots[copy.slot]!.parameter as Tensor, copy, shardSize),
        ];
        expect(place.shape).toEqual(source.shape);
        expect(ops.any(place).itemSync(), 'nothing is written twice').toBe(false);
        ops.copy_(place, source);
      }
      const expected = Array.from({ length: size * chunk.n }, (_, i) => {
        const at = Math.floor(i / chunk.n) * shardSize + chunk.from + (i % chunk.n);
        return at < plan.numel ? at + 1 : 0;
      });
      expect(bucket.toArray()).toEqual(expected);
      expect(chunk.filled).toBe(expected.findLastIndex((value) => value > 0) + 1);
    }
  });

  it('are as few copies in a world of a million ranks as in one of eight', () => {
    const plan = planOf([300_000, 10, 700_000]);
    for (const size of [8, 1_000_000]) {
      const shardSize = Math.ceil(plan.numel / size / 16) * 16;
      for (const most of [shardSize, Math.ceil(shardSize / 2)]) {
        const chunks = chunksOf({ plan, shardSize }, size, most);
        expect(chunks).toHaveLength(shardSize / most);
        for (const { copies } of chunks) expect(copies.length).toBeLessThanOrEqual(9);
      }
    }
  });
});
