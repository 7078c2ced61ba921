// The global norm of the gradients, and clipping by it. Norms across shards are lib/parallel's.
import { describe, isTensor, noGrad, ops, ShardloopError, scope, type Tensor } from '../core/index.js';

/** Options of {@link gradNorm}. */
export interface NormOptions {
  /** The order of the norm: 2 (default), 1, Infinity, or any other positive number. */
  normType?: number;
}

/** Options of {@link clipGradNorm}. */
export interface ClipOptions extends NormOptions {
  /**
   * What to do when the norm is infinite or NaN: 'return' (default) leaves the gradients as they are and returns the
   * norm, so that the caller can skip the step; 'throw' throws NON_FINITE.
   */
  nonFinite?: 'return' | 'throw';
}

/**
 * The norm of all gradients of `params` as if they were one vector; 0 when there are none. Half-precision gradients are
 * summed in float32. It waits for the device.
 */
export function gradNorm(params: Iterable<Tensor>, options: NormOptions = {}): number {
  return noGrad(() => scope(() => normOf(gradients('gradNorm', params), options)));
}

/** The factor that brings gradients of norm `norm` to at most `maxNorm`: `min(1, maxNorm / (norm + 1e-6))`. */
export function clipCoefficient(norm: number, maxNorm: number): number {
  if (!(typeof maxNorm === 'number' && maxNorm > 0)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `clipGradNorm: expected a positive maxNorm, received ${describe(maxNorm)}`,
    );
  }
  return Math.min(1, maxNorm / (norm + 1e-6));
}

/**
 * Scales all gradients in place so that their global norm is at most `maxNorm` (Infinity: only measures), and returns
 * the norm from before.
 */
export function clipGradNorm(params: Iterable<Tensor>, maxNorm: number, options: ClipOptions = {}): number {
  const { nonFinite = 'return' } = options;
  if (nonFinite !== 'return' && nonFinite !== 'throw') {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `clipGradNorm: expected nonFinite to be 'return' or 'throw', received ${describe(nonFinite)}`,
    );
  }
  clipCoefficient(0, maxNorm);
  return noGrad(() =>
    scope(() => {
      const grads = gradients('clipGradNorm', params);
      const norm = normOf(grads, options);
      if (!Number.isFinite(norm)) {
        if (nonFinite === 'return') return norm;
        throw new ShardloopError(
          'NON_FINITE',
          `clipGradNorm: expected finite gradients, received a norm of ${norm}; lower the learning rate, or skip such steps with nonFinite: 'return'`,
        );
      }
      const factor = clipCoefficient(norm, maxNorm);
      if (factor < 1) ops._foreach_mul_(grads, factor);
      return norm;
    }),
  );
}

function gradients(where: string, params: Iterable<Tensor>): Tensor[] {
  const grads: Tensor[] = [];
  for (const param of params) {
    if (!isTensor(param)) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `${where}: expected tensors (model.parameters()), received ${describe(param)}`,
      );
    }
    const grad = param.grad;
    if (grad !== null && grad.numel > 0) grads.push(grad);
  }
  return grads;
}

function normOf(grads: readonly Tensor[], { normType = 2 }: NormOptions): number {
  if (!(typeof normType === 'number' && normType > 0)) {
    throw new ShardloopError('BAD_ARGUMENT', `gradNorm: expected a positive normType, received ${describe(normType)}`);
  }
  if (grads.length === 0) return 0;
  const dtype = grads.some((grad) => grad.dtype === 'float64') ? 'float64' : 'float32';
  const device = grads[0]!.device;
  const norms = ops
    ._foreach_norm([...grads], { ord: normType, dtype })
    .map((norm) => (norm.device === device ? norm : ops._to_copy(norm, { device })));
  return ops.linalg_vector_norm(ops.stack(norms), { ord: normType }).itemSync() as number;
}
