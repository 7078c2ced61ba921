// What this machine can do, measured beside the benchmarks: matrix products by shape and dtype, and copies.

import { availableParallelism } from 'node:os';
import { type DType, ops, rand, scope, setNumThreads } from 'shardloop';

/** The limits of this machine on all its cores. */
export interface Limits {
  /**
   * Operations a second (two for each multiplication with its sum) of (N, K) x (K, M) products. In bf16 the faster of bf16 and
   * fp32, which can hold the same numbers: some processors multiply fp32 faster.
   */
  products(precision: 'fp32' | 'bf16', shape: readonly [N: number, K: number, M: number]): number;
  /** Bytes a second that a copy of 256 MB reads and writes together. */
  readonly copy: number;
}

const known = new Map<string, number>();

/** Measures what is asked for, once a process; the best of several runs, as it is a limit. */
export function measureLimits(): Limits {
  setNumThreads(availableParallelism());
  return {
    products: (precision, shape) =>
      precision === 'fp32' ? rate('float32', shape) : Math.max(rate('bfloat16', shape), rate('float32', shape)),
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

function rate(dtype: DType, [N, K, M]: readonly [number, number, number]): number {
  return remembered(`${dtype} ${N} ${K} ${M}`, () =>
    scope(() => {
      const [a, b] = [rand([N, K]).to({ dtype }), rand([M, K]).to({ dtype })];
      return (2 * N * K * M) / fastest(() => ops.linear(a, b));
    }),
  );
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
