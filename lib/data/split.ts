// Holds out a part of the data for evaluation: a seeded share of the records, or the tail of a long text.
import { describe, ShardloopError } from '../core/errors.js';
import { DataRandom } from './random.js';

/** A split into what is trained on and what is only measured. */
export interface Split<T> {
  readonly train: T;
  readonly heldOut: T;
}

/**
 * Holds out a fraction of the items, chosen by the seed alone; both parts keep their order. A fraction above 0 holds out at
 * least one item. Throws BAD_ARGUMENT when nothing would be left to train on.
 */
export function splitRecords<T>(items: readonly T[], fraction: number, seed: number): Split<T[]> {
  const count = heldOutCount(items.length, fraction);
  const out = new Set(new DataRandom(seed, 0x5311).permutation(items.length).subarray(0, count));
  return { train: items.filter((_, i) => !out.has(i)), heldOut: items.filter((_, i) => out.has(i)) };
}

/** Holds out the last tokens of a text: the given fraction, rounded. Views of the same memory. */
export function splitTail<T extends Int32Array | Uint16Array>(tokens: T, fraction: number): Split<T> {
  const at = tokens.length - heldOutCount(tokens.length, fraction);
  return { train: tokens.subarray(0, at) as T, heldOut: tokens.subarray(at) as T };
}

function heldOutCount(total: number, fraction: number): number {
  if (!(fraction >= 0 && fraction < 1)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `expected a held-out fraction from 0 to below 1, got ${describe(fraction)}`,
    );
  }
  if (fraction === 0) return 0;
  const count = Math.max(1, Math.round(total * fraction));
  if (count >= total) {
    throw new ShardloopError('BAD_ARGUMENT', `holding out ${fraction} of ${total} leaves nothing to train on`);
  }
  return count;
}
