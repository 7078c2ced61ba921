// The work of a piece of code, in numbers that a busy machine does not change: calls of ops and allocations. A test that
// holds a training step to its cost asks here.
import { raw } from './binding.js';
import { checkFunction } from './modes.js';

/** What {@link countWork} counted. */
export interface WorkCount {
  /** Calls by name, such as `aten::add.Tensor`: of every op that went through libtorch's dispatcher. */
  readonly ops: Readonly<Record<string, number>>;
  /** All of them together. */
  readonly calls: number;
  /** Blocks of more than 1 kB that the CPU allocator gave. */
  readonly allocations: number;
  /** Bytes that were asked for in them. */
  readonly bytes: number;
}

/**
 * Runs `fn` and counts what the whole process does meanwhile: ops of all threads, those that other ops and backward call
 * included, and allocations. Counting makes each op slower, so time nothing in `fn`. Throws what `fn` throws, and
 * BAD_ARGUMENT while another count is under way.
 */
export async function countWork(fn: () => unknown): Promise<WorkCount> {
  checkFunction('countWork', fn);
  raw('shardloop::start_work_count');
  let counted: [string[], number[], number, number];
  try {
    await fn();
  } finally {
    counted = raw('shardloop::stop_work_count') as typeof counted;
  }
  const [names, counts, allocations, bytes] = counted;
  const ops = Object.fromEntries(names.map((name, i) => [name, counts[i]!]));
  delete ops['shardloop::stop_work_count'];
  const calls = Object.values(ops).reduce((sum, n) => sum + n, 0);
  return { ops, calls, allocations, bytes };
}
