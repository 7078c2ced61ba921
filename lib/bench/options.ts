// What a benchmark is asked for, from the words of the command line: nccl-tests' names of operations and dtypes, `all`, and
// what cannot be asked together. Every refusal is BAD_ARGUMENT with what was expected.
import { type DType, describe, isFloatingDType, ShardloopError } from '../core/index.js';
import type { ReduceOp } from '../dist/index.js';
import { OPERATIONS, type OperationName } from './operations.js';
import { parseSize, sweep } from './sizes.js';

/** What may be asked, as on the command line; all but the operation has a default. */
export interface BenchOptions {
  /** all_reduce, all_gather, reduce_scatter, broadcast, reduce, alltoall, sendrecv, gather, scatter. */
  readonly operation: string;
  /** Default '8'; K, M and G are powers of 1024. */
  readonly minBytes?: string;
  /** Default '64M'. */
  readonly maxBytes?: string;
  /** From one size to the next. Default 2. */
  readonly stepFactor?: number;
  /** Equal steps, such as '1M', instead of a factor. */
  readonly stepBytes?: string;
  /** Timed operations at each size. Default 20. */
  readonly iters?: number;
  /** Untimed ones before them. Default 5. */
  readonly warmupIters?: number;
  /** How often the data is checked at each size; 0: never. Default 1. */
  readonly check?: number;
  /** sum, prod, min, max, avg or all. Default sum. */
  readonly op?: string;
  /** float, double, half, bfloat16, int8, uint8, int32, int64 or all. Default float. */
  readonly datatype?: string;
  /** A rank, or all. Default 0. */
  readonly root?: string;
}

/** The same, checked and spelt out. */
export interface BenchPlan {
  readonly operation: OperationName;
  readonly sizes: readonly number[];
  readonly iters: number;
  readonly warmupIters: number;
  readonly check: number;
  /** By nccl-tests' names; 'none' for operations that do not reduce. */
  readonly ops: readonly OpName[];
  readonly types: readonly TypeName[];
  /** null: every rank. */
  readonly root: number | null;
}

/** nccl-tests' names of the reductions. */
export const OPS = { sum: 'sum', prod: 'product', min: 'min', max: 'max', avg: 'avg' } as const satisfies Record<
  string,
  ReduceOp
>;

/** nccl-tests' names of the dtypes. */
export const TYPES = {
  float: 'float32',
  double: 'float64',
  half: 'float16',
  bfloat16: 'bfloat16',
  int8: 'int8',
  uint8: 'uint8',
  int32: 'int32',
  int64: 'int64',
} as const satisfies Record<string, DType>;

/** A name of {@link OPS}, or 'none'. */
export type OpName = keyof typeof OPS | 'none';
/** A name of {@link TYPES}. */
export type TypeName = keyof typeof TYPES;

/** Checks what was asked. Throws BAD_ARGUMENT. */
export function planBench(options: BenchOptions): BenchPlan {
  const { operation: name, op = 'sum', datatype = 'float', root = '0', stepFactor = 2 } = options;
  const operation = oneOf('the operation', name, Object.keys(OPERATIONS)) as OperationName;
  const ops = several('--op', op, Object.keys(OPS)) as OpName[];
  const types = several('--datatype', datatype, Object.keys(TYPES)) as TypeName[];
  const pairs = combinations({ ops, types });
  if (pairs.length === 0 && OPERATIONS[operation].reduces) {
    throw refusal('a floating --datatype for --op avg', datatype, 'use float, double, half or bfloat16, or another op');
  }
  return {
    operation,
    sizes: sweep({
      minBytes: parseSize(options.minBytes ?? '8', '--minbytes'),
      maxBytes: parseSize(options.maxBytes ?? '64M', '--maxbytes'),
      stepFactor,
      stepBytes: options.stepBytes === undefined ? undefined : parseSize(options.stepBytes, '--stepbytes'),
    }),
    iters: whole('--iters', options.iters ?? 20, 1),
    warmupIters: whole('--warmup_iters', options.warmupIters ?? 5, 0),
    check: whole('--check', options.check ?? 1, 0),
    ops: OPERATIONS[operation].reduces ? ops : ['none'],
    types,
    root: root === 'all' ? null : whole('--root', /^\d+$/.test(root) ? Number(root) : root, 0, ', or all'),
  };
}

/** The pairs of a plan's dtypes and reductions that have a meaning: no average of whole numbers. */
export function combinations({ ops, types }: Pick<BenchPlan, 'ops' | 'types'>): { type: TypeName; op: OpName }[] {
  return types.flatMap((type) =>
    ops.filter((op) => op !== 'avg' || isFloatingDType(TYPES[type])).map((op) => ({ type, op })),
  );
}

/**
 * The roots of a plan in a group of `ranks`; -1 for operations without one. Throws BAD_ARGUMENT for a root that is no rank,
 * and for sendrecv on one rank.
 */
export function rootsOf({ operation, root }: BenchPlan, ranks: number): number[] {
  if (operation === 'sendrecv' && ranks < 2) {
    throw refusal('two ranks or more for sendrecv', ranks, 'start them with --nproc 2');
  }
  if (!OPERATIONS[operation].rooted) return [-1];
  if (root === null) return Array.from({ length: ranks }, (_, rank) => rank);
  if (root < ranks) return [root];
  throw refusal(`--root from 0 to ${ranks - 1}, or all`, root, 'start more ranks with --nproc, or take another root');
}

function several(option: string, value: string, names: readonly string[]): string[] {
  return value === 'all' ? [...names] : [oneOf(option, value, names, 'all')];
}

function oneOf(option: string, value: string, names: readonly string[], extra?: string): string {
  if (names.includes(value)) return value;
  throw refusal(
    `${option} to be one of ${[...names, ...(extra === undefined ? [] : [extra])].join(', ')}`,
    value,
    'see `shardloop bench --help`',
  );
}

function whole(option: string, value: unknown, least: number, or = ''): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least) return value;
  throw refusal(`${option} as a whole number of at least ${least}${or}`, value, 'see `shardloop bench --help`');
}

function refusal(expected: string, received: unknown, remedy: string): ShardloopError {
  return new ShardloopError('BAD_ARGUMENT', `bench: expected ${expected}, received ${describe(received)}; ${remedy}`);
}
