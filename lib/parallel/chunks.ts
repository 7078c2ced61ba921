// How the shards of a unit are cut into the pieces that travel in a bucket. Pure planning, whose work does not grow with the
// number of ranks; buckets and what becomes of the pieces are gradient-shards.ts.
import { ops, type Tensor } from '../core/index.js';
import type { ShardedUnit } from './sharded-unit.js';

/** Elements of one slot that go to one place of a bucket: `rows` times `count` of them, for one rank after the other. */
export interface Copy {
  readonly slot: number;
  readonly start: number;
  readonly count: number;
  /** More than one only where each fills a rank's piece: in the slot they begin a shard apart, in the bucket a piece. */
  readonly rows: number;
  readonly at: number;
}

/** A piece [from, from + n) of every shard of a unit. */
export interface Chunk {
  readonly from: number;
  readonly n: number;
  readonly copies: readonly Copy[];
  /** The place in the bucket from which on no parameter fills it; size * n where all is filled. */
  readonly filled: number;
  /** What a codec that remembers has not sent yet (size, n). */
  memory: Tensor | null;
}

/** Cuts every rank's shard into pieces of at most `most` elements, and finds what of each slot goes where. */
export function chunksOf(
  { plan, shardSize }: Pick<ShardedUnit, 'plan' | 'shardSize'>,
  size: number,
  most: number,
): Chunk[] {
  const chunks: Chunk[] = [];
  for (let from = 0; from < shardSize; from += most) {
    const n = Math.min(most, shardSize - from);
    const copies: Copy[] = [];
    for (const [slot, { offset, numel }] of plan.slots.entries()) {
      const end = offset + numel;
      const add = (rank: number, rows: number) => {
        const begin = rank * shardSize + from;
        const [a, b] = [Math.max(begin, offset), Math.min(begin + n, end)];
        if (a < b) copies.push({ slot, start: a - offset, count: b - a, rows, at: rank * n + a - begin });
      };
      const [first, last] = [Math.floor(offset / shardSize), Math.floor((end - 1) / shardSize)];
      if (numel === 0) continue;
      if (n === shardSize) copies.push({ slot, start: 0, count: numel, rows: 1, at: offset });
      else {
        add(first, 1);
        if (last > first + 1) add(first + 1, last - first - 1); // all of their pieces lie in this slot
        if (last > first) add(last, 1);
      }
    }
    // The first rank whose piece is not full; those of the ranks behind it are empty.
    const open = Math.max(0, Math.floor((plan.numel - from - n) / shardSize) + 1);
    const filled = open * n + Math.min(n, Math.max(0, plan.numel - open * shardSize - from));
    chunks.push({ from, n, copies, filled: Math.min(filled, size * n), memory: null });
  }
  return chunks;
}

/** What of a slot's gradient, flat, a copy takes: (count), or (rows, count). */
export function sourceOf(gradient: Tensor, { start, count, rows }: Copy, shardSize: number): Tensor {
  if (rows === 1) return ops.narrow(gradient, 0, start, count);
  return ops.unfold(ops.narrow(gradient, 0, start, (rows - 1) * shardSize + count), 0, count, shardSize);
}

/** Where in a bucket a copy lands, in the shape of its source. */
export function placeOf(bucket: Tensor, { at, count, rows }: Copy): Tensor {
  const place = ops.narrow(bucket, 0, at, rows * count);
  return rows === 1 ? place : ops.view(place, [rows, count]);
}
