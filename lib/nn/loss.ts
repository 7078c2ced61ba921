// Losses. Weighing by tokens over micro-batches is the training loop's.
import { call, describe, isFloatingDType, ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import { isOnKernelDevice } from './fused.js';

/** 'mean' over what counts, 'sum', or 'none': one value for each position. */
export type Reduction = 'mean' | 'sum' | 'none';

const REDUCTION: Readonly<Record<Reduction, number>> = { none: 0, mean: 1, sum: 2 };

/** Options of {@link crossEntropy}. */
export interface CrossEntropyOptions {
  /** Default 'mean': over the positions that are not ignored (NaN when there are none). */
  reduction?: Reduction;
  /** The label of positions that do not count (default -100). */
  ignoreIndex?: number;
  /** Share of the target that is spread evenly over all classes, in [0, 1] (default 0). */
  labelSmoothing?: number;
  /**
   * One native op that keeps no copy of the logits (default true; on the CPU). False composes it of libtorch's ops, which is
   * the reference, and what runs on CUDA.
   */
  fused?: boolean;
}

/**
 * The negative log-likelihood of `labels` under `softmax(logits)`. logits (..., V) floating, labels (...) int64; the
 * result is a scalar, or (...) for reduction 'none'. Half-precision logits are computed in float32, and the result is
 * float32. Throws BAD_ARGUMENT for other shapes, dtypes or options.
 */
export function crossEntropy(logits: Tensor, labels: Tensor, options: CrossEntropyOptions = {}): Tensor {
  const { reduction = 'mean', ignoreIndex = -100, labelSmoothing = 0, fused = true } = options;
  const classes = logits.shape.at(-1) ?? 0;
  if (
    labels.dtype !== 'int64' ||
    !isFloatingDType(logits.dtype) ||
    logits.shape.slice(0, -1).join() !== labels.shape.join()
  ) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `crossEntropy: expected floating logits (..., V) and int64 labels (...); received ${logits.dtype} [${logits.shape.join(', ')}] and ${labels.dtype} [${labels.shape.join(', ')}]`,
    );
  }
  checkRules('crossEntropy', ignoreIndex, labelSmoothing);
  const code = reductionCode('crossEntropy', reduction);
  return scope(() => {
    const flat = ops.reshape(logits, [-1, classes]); // (N, V)
    const rows = ops.reshape(labels, [-1]); // (N)
    const isFused = fused && classes > 0 && isOnKernelDevice(flat);
    const loss = isFused
      ? reduced(fusedRows(flat, rows, ignoreIndex, labelSmoothing), rows, ignoreIndex, reduction)
      : ops.cross_entropy_loss(isHalf(flat) ? ops._to_copy(flat, { dtype: 'float32' }) : flat, rows, {
          ...{ reduction: code, ignore_index: ignoreIndex, label_smoothing: labelSmoothing },
        });
    return reduction === 'none' ? ops.reshape(loss, [...labels.shape]) : loss;
  });
}

const isHalf = ({ dtype }: Tensor): boolean => dtype === 'bfloat16' || dtype === 'float16';

/** The loss of each row (N), 0 where it does not count; float32, or float64 for such logits. */
function fusedRows(logits: Tensor, labels: Tensor, ignoreIndex: number, labelSmoothing: number): Tensor {
  return call('shardloop::cross_entropy', logits, labels, ignoreIndex, labelSmoothing) as Tensor;
}

function reduced(rows: Tensor, labels: Tensor, ignoreIndex: number, reduction: Reduction): Tensor {
  if (reduction === 'none') return rows;
  const sum = ops.sum(rows);
  return reduction === 'sum' ? sum : ops.div(sum, ops.sum(ops.ne(labels, ignoreIndex)));
}

/** Options of {@link linearCrossEntropy}. */
export interface LinearCrossEntropyOptions extends Omit<CrossEntropyOptions, 'reduction'> {
  /** What the sum of the losses is divided by. Default: the number of positions that count (NaN when there are none). */
  divisor?: number;
}

/**
 * {@link crossEntropy} of `labels` under the scores `hidden weight^T` of a head without bias, divided by `divisor`, a scalar.
 * hidden (..., D), weight (V, D), labels (...) int64. The scores stand for some positions at a time, and none are
 * computed for positions that do not count; `fused: false` computes all, which is the reference.
 * Throws BAD_ARGUMENT for other shapes or options.
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  labels: Tensor,
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const { divisor, ignoreIndex = -100, labelSmoothing = 0, fused = true } = options;
  const size = weight.shape.at(-1) ?? 0;
  if (
    weight.ndim !== 2 ||
    hidden.ndim === 0 ||
    labels.dtype !== 'int64' ||
    hidden.shape.join() !== [...labels.shape, size].join()
  ) {
    const shapes = [hidden, weight, labels].map(({ dtype, shape }) => `${dtype} [${shape.join(', ')}]`);
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `linearCrossEntropy: expected hidden (..., D), weight (V, D) and int64 labels (...); received ${shapes.join(', ')}`,
    );
  }
  checkRules('linearCrossEntropy', ignoreIndex, labelSmoothing);
  if (divisor !== undefined && !(divisor > 0 && divisor < Infinity)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `linearCrossEntropy: expected divisor to be a number above 0, received ${describe(divisor)}`,
    );
  }
  return scope(() => {
    if (fused && weight.shape[0]! > 0) {
      const [flat, rows] = [ops.reshape(hidden, [-1, size]), ops.reshape(labels, [-1])]; // (N, D), (N)
      const rules = [ignoreIndex, labelSmoothing, divisor ?? null] as const;
      return call('shardloop::linear_cross_entropy', flat, weight, rows, ...rules) as Tensor;
    }
    const rules = { ignoreIndex, labelSmoothing, fused };
    const logits = ops.linear(hidden, weight); // (..., V)
    if (divisor === undefined) return crossEntropy(logits, labels, rules);
    return ops.div(crossEntropy(logits, labels, { ...rules, reduction: 'sum' }), divisor);
  });
}

function checkRules(where: string, ignoreIndex: number, labelSmoothing: number): void {
  if (!Number.isSafeInteger(ignoreIndex)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `${where}: expected ignoreIndex to be an integer, received ${describe(ignoreIndex)}`,
    );
  }
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `${where}: expected labelSmoothing in [0, 1], received ${describe(labelSmoothing)}`,
    );
  }
}

/** The squared difference of two tensors of one shape: a scalar, or for reduction 'none' that shape. Default 'mean'. */
export function mse(input: Tensor, target: Tensor, options: { reduction?: Reduction } = {}): Tensor {
  if (input.shape.join() !== target.shape.join()) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `mse: expected two tensors of one shape; received [${input.shape.join(', ')}] and [${target.shape.join(', ')}]`,
    );
  }
  return ops.mse_loss(input, target, { reduction: reductionCode('mse', options.reduction ?? 'mean') });
}

function reductionCode(where: string, reduction: unknown): number {
  if (typeof reduction === 'string' && Object.hasOwn(REDUCTION, reduction)) return REDUCTION[reduction as Reduction];
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `${where}: expected reduction 'mean', 'sum' or 'none', received ${describe(reduction)}`,
  );
}
