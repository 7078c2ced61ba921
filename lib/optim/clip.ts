// The global norm of the gradients, and clipping by it. Norms across shards are lib/parallel's.
import { call, describe, isTensor, noGrad, ops, ShardloopError, scope, type Tensor } from '../core/index.js';

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

/** What {@link gradSquares} finds. */
export interface GradSquares {
  /** The sum of the squares of all elements; not finite where an element is not. */
  readonly sum: number;
  /** The first parameter whose gradient has an element that is infinite or NaN; null where all are finite. */
  readonly nonFinite: Tensor | null;
}

/**
 * The sum of the squares of all gradients of `params`, in one pass over them and in float64. Where ranks hold shards, the
 * norm is the root of the sum over ranks ({@link clipCoefficient} takes it). It waits for the device.
 */
export function gradSquares(params: Iterable<Tensor>): GradSquares {
  return noGrad(() => scope(() => squaresOf(withGradients('gradSquares', params))));
}

/**
 * The norm of all gradients of `params` as if they were one vector; 0 when there are none. The squares are summed in
 * float64, for other orders in float32 at least. It waits for the device.
 */
export function gradNorm(params: Iterable<Tensor>, options: NormOptions = {}): number {
  return noGrad(() => scope(() => normOf(withGradients('gradNorm', params), options)));
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
      const found = withGradients('clipGradNorm', params);
      const norm = normOf(found, options);
      if (!Number.isFinite(norm)) {
        if (nonFinite === 'return') return norm;
        throw new ShardloopError(
          'NON_FINITE',
          `clipGradNorm: expected finite gradients, received a norm of ${norm}; lower the learning rate, or skip such steps with nonFinite: 'return'`,
        );
      }
      const factor = clipCoefficient(norm, maxNorm);
      if (factor < 1) {
        ops._foreach_mul_(
          found.map(([, grad]) => grad),
          factor,
        );
      }
      return norm;
    }),
  );
}

type WithGradient = readonly [param: Tensor, grad: Tensor];

function withGradients(where: string, params: Iterable<Tensor>): WithGradient[] {
  const found: WithGradient[] = [];
  for (const param of params) {
    if (!isTensor(param)) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `${where}: expected tensors (model.parameters()), received ${describe(param)}`,
      );
    }
    const grad = param.grad;
    if (grad !== null && grad.numel > 0) found.push([param, grad]);
  }
  return found;
}

function squaresOf(found: readonly WithGradient[]): GradSquares {
  let sum = 0;
  let nonFinite: Tensor | null = null;
  const devices = new Set(found.map(([, grad]) => grad.device));
  for (const device of devices) {
    const here = found.filter(([, grad]) => grad.device === device);
    const grads = here.map(([, grad]) => grad);
    const [squares, first] = call('shardloop::grad_squares', grads) as [number, number];
    sum += squares;
    if (first >= 0) nonFinite ??= here[first]![0];
  }
  return { sum, nonFinite };
}

function normOf(found: readonly WithGradient[], { normType = 2 }: NormOptions): number {
  if (!(typeof normType === 'number' && normType > 0)) {
    throw new ShardloopError('BAD_ARGUMENT', `gradNorm: expected a positive normType, received ${describe(normType)}`);
  }
  if (found.length === 0) return 0;
  if (normType === 2) return Math.sqrt(squaresOf(found).sum);
  const grads = found.map(([, grad]) => grad);
  const dtype = grads.some((grad) => grad.dtype === 'float64') ? 'float64' : 'float32';
  const device = grads[0]!.device;
  const norms = ops
    ._foreach_norm(grads, { ord: normType, dtype })
    .map((norm) => (norm.device === device ? norm : ops._to_copy(norm, { device })));
  return ops.linalg_vector_norm(ops.stack(norms), { ord: normType }).itemSync() as number;
}
