// Adafactor: the second moment of a matrix kept as a row and a column (Shazeer and Stern, arXiv 1804.04235), in the form
// that PyTorch has: step size relative to the parameter, no first moment, decoupled weight decay.
import { type DType, describe, ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import type { Group, OptimizerOptions } from './groups.js';
import { BaseOptimizer, checkNumber, type Update } from './optimizer.js';

/** Settings of {@link Adafactor}, for all groups or for one. */
export interface AdafactorSettings {
  /** Bound of the relative step size; the step is `min(lr, 1 / sqrt(t))` times the parameter's root mean square (default 1e-2). */
  lr: number;
  /** The second moment at step t has the decay rate `1 - t ** beta2Decay`; at most 0 (default -0.8). */
  beta2Decay: number;
  /** The least second moment's root (null: the dtype's machine epsilon) and the least root mean square of a parameter (default [null, 1e-3]). */
  eps: readonly [number | null, number];
  /** Root mean square to which an update is clipped; at least 1 (default 1). */
  clipThreshold: number;
  /** Share of the parameter, times `lr`, that is taken off at each step (default 0). */
  weightDecay: number;
}

const DEFAULTS: AdafactorSettings = { lr: 1e-2, beta2Decay: -0.8, eps: [null, 1e-3], clipThreshold: 1, weightDecay: 0 };

/**
 * The Adafactor optimizer. State: `row_var` (..., n, 1) and `col_var` (..., 1, m) for a parameter (..., n, m),
 * `variance` for a vector, in its dtype.
 */
export class Adafactor extends BaseOptimizer<AdafactorSettings> {
  constructor(options: OptimizerOptions<AdafactorSettings>) {
    super(options, DEFAULTS, ({ lr, beta2Decay, eps, clipThreshold, weightDecay }) => {
      checkNumber('Adafactor: lr', lr, 0);
      if (!(beta2Decay <= 0)) {
        throw new ShardloopError(
          'BAD_ARGUMENT',
          `Adafactor: expected beta2Decay of at most 0, received ${describe(beta2Decay)}`,
        );
      }
      if (eps[0] !== null) checkNumber('Adafactor: eps[0]', eps[0], 0);
      checkNumber('Adafactor: eps[1]', eps[1], 0);
      checkNumber('Adafactor: clipThreshold', clipThreshold, 1);
      checkNumber('Adafactor: weightDecay', weightDecay, 0);
    });
  }

  protected override start(param: Tensor): Record<string, Tensor> {
    if (param.ndim < 2) return { variance: ops.zeros_like(param) };
    const [rows, columns] = [[...param.shape], [...param.shape]];
    rows[rows.length - 1] = 1;
    columns[columns.length - 2] = 1;
    return { row_var: ops.new_zeros(param, rows), col_var: ops.new_zeros(param, columns) };
  }

  protected override update(group: Group<AdafactorSettings>, updates: readonly Update[], gradScale: number): void {
    for (const update of updates) {
      scope(() => {
        const { param, half } = update;
        const grad = ops.mul(ops._to_copy(update.grad, { dtype: param.dtype }), gradScale);
        updateOne(group, { ...update, grad });
        if (half !== null) ops.copy_(half, param);
      });
    }
  }
}

function updateOne(group: AdafactorSettings, { param, grad, state }: Update): void {
  const { lr, beta2Decay, clipThreshold, weightDecay } = group;
  const least = group.eps[0] ?? EPSILON[param.dtype] ?? 2 ** -23;
  const fresh = state.step ** beta2Decay; // 1 - beta2
  // Scalars stay tensors, so that no step waits for the device.
  const size = ops.mul_(ops.clamp_min_(rootMeanSquare(param), group.eps[1]), Math.min(lr, 1 / Math.sqrt(state.step)));
  if (weightDecay > 0) ops.mul_(param, 1 - lr * weightDecay);
  const second = state.tensors.variance
    ? ops.clone(ops.lerp_(state.tensors.variance, ops.square(grad), fresh))
    : factored(state.tensors.row_var!, state.tensors.col_var!, grad, fresh, least);
  const update = ops.mul_(ops.rsqrt_(ops.clamp_min_(second, least * least)), grad);
  const clip = ops.clamp_min_(ops.div_(rootMeanSquare(update), clipThreshold), 1);
  ops.sub_(param, ops.mul_(update, ops.div_(size, clip)));
}

/** Updates the running means of rows and columns, and gives their product over the mean of the rows. */
function factored(rows: Tensor, columns: Tensor, grad: Tensor, fresh: number, least: number): Tensor {
  ops.lerp_(rows, meanSquare(grad, -1), fresh); // (..., n, 1)
  ops.lerp_(columns, meanSquare(grad, -2), fresh); // (..., 1, m)
  const mean = ops.clamp_min_(ops.mean(rows, [-2], { keepdim: true }), least); // (..., 1, 1)
  return ops.div_(ops.matmul(rows, columns), mean); // (..., n, m)
}

function meanSquare(t: Tensor, axis: number): Tensor {
  const norm = ops.linalg_vector_norm(t, { dim: [axis], keepdim: true });
  return ops.div_(ops.square_(norm), t.shape.at(axis)!);
}

function rootMeanSquare(t: Tensor): Tensor {
  return ops.div_(ops.linalg_vector_norm(t), Math.sqrt(t.numel));
}

/** The distance from 1 to the next number of each dtype. */
const EPSILON: Partial<Record<DType, number>> = {
  float64: 2 ** -52,
  float32: 2 ** -23,
  float16: 2 ** -10,
  bfloat16: 2 ** -7,
};
