// What this machine can do, measured beside the benchmarks: matrix products by shape and dtype, and copies.

import { availableParallelism } from 'node:os';
import { ops, rand, scope, setNumThreads, type Tensor } from 'shardloop';

/** The limits of this machine on all its cores. */
export interface Limits {
  /** Operations a second (two for each multiplication with its sum) of (N, K) x (K, M) products. */
  products(precision: 'fp32' | 'bf16', shape: readonly [N: number, K: number, M: number]): number;
  /** Bytes a second that a copy of 256 MB reads and writes together. */
  readonly copy: number;
}

const known = new Map<string, number>();

/** Measures what is asked for, once a process; the best of several runs, as it is a limit. */
export function measureLimits(): Limits {
  setNumThreads(availableParallelism());
  return {
    products: (precision, [N, K, M]) =>
      remembered(`${precision} ${N} ${K} ${M}`, () => {
        const dtype = precision === 'fp32' ? 'float32' : 'bfloat16';
        const make = (shape: number[]) => ops._to_copy(rand(shape), { dtype });
        return scope(() => {
          const [a, b] = [make([N, K]), make([M, K])] as [Tensor, Tensor];
          return (2 * N * K * M) / fastest(() => ops.linear(a, b));
        });
      }),
    get copy() {
      return remembered('copy', () =>
        scope(() => {
          const [from, to] = [rand([64 * 2 ** 20]), rand([64 * 2 ** 20])];
          return (2 * 4 * from.numel) / fastest(() => ops.copy_(to, from));
        }),
      );
    },
  };
}

function remembered(name: string, measure: () => number): number {
  const value = known.get(name) ?? measure();
  known.set(name, value);
  return value;
}

/** Seconds of the fastest of ten runs. */
function fastest(work: () => unknown): number {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 10; i++) {
    const start = process.hrtime.bigint();
    scope(() => {
      work();
    });
    best = Math.min(best, Number(process.hrtime.bigint() - start) / 1e9);
  }
  return best;
}
