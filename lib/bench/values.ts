// What the ranks fill their tensors with, so that every rank knows each operation's exact result: small whole numbers that
// repeat with a short period, exact in every dtype that is measured. Also how wrong elements are counted.
import { type DType, noGrad, ops, scope, type Tensor, tensor } from '../core/index.js';
import type { ReduceOp } from '../dist/index.js';

/** Whole numbers from 0 to 127 by place, repeating after `period` places. */
export interface Pattern {
  readonly period: number;
  at(place: number): number;
}

/** What rank `rank` holds before an operation that only moves data. */
export function moved(rank: number): Pattern {
  return { period: 97, at: (i) => (i * 7 + rank * 13 + 5) % 97 };
}

/** What rank `rank` of `size` holds before a reduction; sums and products stay exact in int8 and bfloat16. */
export function reducible(op: ReduceOp, rank: number, size: number): Pattern {
  if (op === 'product') return { period: 4, at: (i) => (rank < 4 && (i + rank) % 4 === 0 ? 2 : 1) };
  if (op === 'min' || op === 'max') return { period: 61, at: (i) => (i * 5 + rank * 17 + 3) % 61 };
  // The sum of `size` values is at most 127 up to 42 ranks, and up to 127 ranks with the shorter period.
  const period = size <= 42 ? 4 : 2;
  return { period, at: (i) => (i + rank) % period };
}

/** The reduction of all ranks' {@link reducible}. For 'avg' the sum: the division is done in the tensor's dtype. */
export function reduced(op: ReduceOp, size: number): Pattern {
  const ranks = Array.from({ length: size }, (_, rank) => reducible(op, rank, size));
  const values = (i: number) => ranks.map((pattern) => pattern.at(i));
  const { period } = ranks[0]!;
  if (op === 'product') return { period, at: (i) => values(i).reduce((a, b) => a * b, 1) };
  if (op === 'min') return { period, at: (i) => Math.min(...values(i)) };
  if (op === 'max') return { period, at: (i) => Math.max(...values(i)) };
  return { period, at: (i) => values(i).reduce((a, b) => a + b, 0) };
}

/** The pattern from a later place on: the part of a whole that another rank holds. */
export function from(pattern: Pattern, offset: number): Pattern {
  return { period: pattern.period, at: (i) => pattern.at(i + offset) };
}

/** Patterns end to end, `count` elements of each. */
export interface Part {
  readonly pattern: Pattern;
  readonly count: number;
}

/** The bytes of patterns end to end. */
export function bytesOf(parts: readonly Part[]): Int8Array {
  const all = new Int8Array(parts.reduce((sum, part) => sum + part.count, 0));
  let start = 0;
  for (const { pattern, count } of parts) {
    const first = Math.min(pattern.period, count);
    for (let i = 0; i < first; i++) all[start + i] = pattern.at(i);
    // Doubles what is there, in whole periods, until the part is full.
    for (let filled = first; filled < count; filled *= 2) {
      all.copyWithin(start + filled, start, start + Math.min(filled, count - filled));
    }
    start += count;
  }
  return all;
}

/** Overwrites a tensor (n) with patterns end to end. */
export function fill(target: Tensor, parts: readonly Part[]): void {
  scope(() => noGrad(() => ops.copy_(target, tensor(bytesOf(parts), { dtype: 'int8' }))));
}

/** How a result is told from a wrong one. */
export interface Expected {
  readonly parts: readonly Part[];
  /** Divides the expected values, in the tensor's own dtype; a few roundings are then no error. Default 1: exact. */
  readonly divisor?: number;
}

/** How many elements of a tensor (n) are not what is expected; NaN is never expected. */
export function countWrong(actual: Tensor, { parts, divisor = 1 }: Expected): number {
  return scope(() =>
    noGrad(() => {
      const whole = tensor(bytesOf(parts), { dtype: 'int8', device: actual.device });
      if (divisor === 1) return Number(actual.ne(whole.to(actual.dtype)).sum().itemSync());
      // Whether the backend divides before or behind its sum is its own choice: as many roundings as ranks, plus one.
      const wanted = whole.to('float64').div(divisor);
      const allowed = wanted
        .abs()
        .add(1)
        .mul(EPSILON[actual.dtype]! * (divisor + 1));
      const good = actual.to('float64').sub(wanted).abs().le(allowed);
      return Number(good.logical_not().sum().itemSync());
    }),
  );
}

const EPSILON: Partial<Record<DType, number>> = {
  float64: 2 ** -52,
  float32: 2 ** -23,
  float16: 2 ** -10,
  bfloat16: 2 ** -7,
};
