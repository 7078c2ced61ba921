// Times one case on all ranks, as nccl-tests does: the average over the iterations on each rank, then the slowest rank's.
// Data is checked apart from the timed part. Every rank must call this alike.
import { synchronize, type Tensor, tensor } from '../core/index.js';
import type { Group } from '../dist/index.js';
import type { Case } from './operations.js';
import { type Spread, spread } from './statistics.js';
import { countWrong } from './values.js';

/** One case, measured; bandwidths in GB/s (10^9). */
export interface Measurement extends Spread {
  /** The average over the iterations, on the slowest rank. */
  readonly timeUs: number;
  readonly algbw: number;
  readonly busbw: number;
  /** Wrong elements over all ranks; null when nothing was checked. */
  readonly wrong: number | null;
}

/** How often. */
export interface MeasureOptions {
  readonly iters: number;
  readonly warmupIters: number;
  readonly check: number;
}

/** Runs the case: checks, warm-up, timing. `size` is the operation's in bytes, `factor` that from algbw to busbw. */
export function measure(
  group: Group,
  device: string,
  made: Case,
  { iters, warmupIters, check }: MeasureOptions,
  { size, factor }: { size: number; factor: number },
): Measurement {
  const cuda = device !== 'cpu';
  let wrong = 0;
  for (let i = 0; i < check; i++) {
    made.refill();
    if (cuda) synchronize(device);
    group.barrier().wait();
    made.run();
    if (cuda) synchronize(device);
    if (made.result !== null) wrong += countWrong(made.result.tensor, made.result.expected);
  }
  made.refill();
  for (let i = 0; i < warmupIters; i++) made.run();
  if (cuda) synchronize(device);
  group.barrier().wait();
  if (cuda) synchronize(device);

  const each = new Float64Array(iters);
  const start = process.hrtime.bigint();
  let before = start;
  for (let i = 0; i < iters; i++) {
    made.run();
    const now = process.hrtime.bigint();
    each[i] = Number(now - before);
    before = now;
  }
  if (cuda) synchronize(device);
  const total = Number(process.hrtime.bigint() - start);
  // On a stream a call returns before it is done: single iterations need a wait each, which the average must not have.
  if (cuda) timeOneByOne(made, device, each);

  const times = overRanks(group, device, [...each, total / iters], 'max').map((ns) => ns / 1000);
  const timeUs = times[iters]!;
  const algbw = size / timeUs / 1000;
  return {
    timeUs,
    algbw,
    busbw: algbw * factor,
    wrong: check === 0 ? null : overRanks(group, device, [wrong], 'sum')[0]!,
    ...spread(times.slice(0, iters)),
  };
}

function timeOneByOne(made: Case, device: string, each: Float64Array): void {
  for (let i = 0; i < each.length; i++) {
    const start = process.hrtime.bigint();
    made.run();
    synchronize(device);
    each[i] = Number(process.hrtime.bigint() - start);
  }
}

function overRanks(group: Group, device: string, values: number[], op: 'max' | 'sum'): number[] {
  const all: Tensor = tensor(Float64Array.from(values), { device });
  try {
    group.allReduce(all, op).wait();
    return all.toArray() as number[];
  } finally {
    all.dispose();
  }
}
