// How the shards of a unit are cut into the pieces that travel in a bucket. Pure planning; buckets and what becomes of the
// pieces are gradient-shards.ts.
import type { Tensor } from '../core/index.js';
import type { ShardedUnit } from './sharded-unit.js';

/** Elements of one slot that go to one place of a bucket. */
interface Copy {
  readonly slot: number;
  readonly start: number;
  count: number;
  readonly at: number;
}

/** A piece [from, from + n) of every shard of a unit. */
export interface Chunk {
  readonly from: number;
  readonly n: number;
  readonly copies: readonly Copy[];
  /** Places of the bucket that no parameter fills: [at, count]. */
  readonly padding: readonly (readonly [number, number])[];
  /** What a codec that remembers has not sent yet (size, n). */
  memory: Tensor | null;
}

/** Cuts every rank's shard into pieces of at most `most` elements, and finds what of each slot goes where. */
export function chunksOf({ plan, shardSize }: ShardedUnit, size: number, most: number): Chunk[] {
  const chunks: Chunk[] = [];
  for (let from = 0; from < shardSize; from += most) {
    const n = Math.min(most, shardSize - from);
    const copies: Copy[] = [];
    const padding: [number, number][] = [];
    for (let rank = 0; rank < size; rank++) {
      const [begin, end] = [rank * shardSize + from, rank * shardSize + from + n];
      for (const [slot, { offset, numel }] of plan.slots.entries()) {
        const [a, b] = [Math.max(begin, offset), Math.min(end, offset + numel)];
        if (a >= b) continue;
        const copy = { slot, start: a - offset, count: b - a, at: rank * n + a - begin };
        const before = copies.at(-1);
        const continues =
          before?.slot === slot && before.start + before.count === copy.start && before.at + before.count === copy.at;
        if (continues) before.count += copy.count;
        else copies.push(copy);
      }
      const filled = Math.max(begin, Math.min(end, plan.numel));
      if (filled < end) padding.push([rank * n + filled - begin, end - filled]);
    }
    chunks.push({ from, n, copies, padding, memory: null });
  }
  return chunks;
}
