// Muon: the momentum of a matrix made orthogonal before it is applied (Jordan et al., kellerjordan.github.io/posts/muon;
// Liu et al., arXiv 2502.16982, for the step size), as PyTorch's torch.optim.Muon. For the matrices inside a model;
// embeddings, heads and vectors go to another optimizer (combined.ts).
import { describe, ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import type { Group, OptimizerOptions } from './groups.js';
import { BaseOptimizer, checkBoolean, checkNumber, type Update } from './optimizer.js';

/** Settings of {@link Muon}. */
export interface MuonSettings {
  /** Learning rate (default 1e-3). */
  lr: number;
  /** Decay rate of the running mean of the gradient (default 0.95). */
  momentum: number;
  /** Whether the gradient is mixed into its mean once more (default true). */
  nesterov: boolean;
  /** Share of the parameter, times `lr`, that is taken off at each step (default 0.1). */
  weightDecay: number;
  /** Iterations that make the update orthogonal (default 5). */
  iterations: number;
  /**
   * The factor on `lr` for a matrix (n, m): 'spectral' (default) is sqrt(max(1, n / m)); 'rms' is 0.2 sqrt(max(n, m)), which
   * gives updates of the size of AdamW's, so that its learning rate fits.
   */
  adjust: 'spectral' | 'rms';
}

const DEFAULTS: MuonSettings = {
  ...{ lr: 1e-3, momentum: 0.95, nesterov: true, weightDecay: 0.1, iterations: 5, adjust: 'spectral' },
};
/** Of the odd polynomial a x + b x^3 + c x^5 that is applied to the singular values. */
const [A, B, C] = [3.4445, -4.775, 2.0315];
const EPS = 1e-7;

/**
 * Makes matrices whole where a rank holds parts of them: calls `use` for each of `values` of which this rank holds a part,
 * with the whole matrix and the element at which the part starts. Collective; a strategy's `assemble` does it.
 */
export type Assemble = (values: readonly Tensor[], use: (index: number, whole: Tensor, start: number) => void) => void;

/** The Muon optimizer. State: `momentum` for each parameter, in its dtype. All parameters are matrices, or parts of them. */
export class Muon extends BaseOptimizer<MuonSettings> {
  readonly #assemble: Assemble;

  /** `assemble` is needed where parameters are parts; then there is one group. */
  constructor(options: OptimizerOptions<MuonSettings>, assemble?: Assemble) {
    super(options, DEFAULTS, ({ lr, momentum, nesterov, weightDecay, iterations, adjust }) => {
      checkNumber('Muon: lr', lr, 0);
      checkNumber('Muon: momentum', momentum, 0, 1);
      checkBoolean('Muon: nesterov', nesterov);
      checkNumber('Muon: weightDecay', weightDecay, 0);
      checkNumber('Muon: iterations', iterations, 1);
      if (adjust !== 'spectral' && adjust !== 'rms') refuse("adjust to be 'spectral' or 'rms'", adjust);
    });
    if (assemble !== undefined && this.groups.length > 1) refuse('one group with assemble', this.groups.length);
    const vector = assemble === undefined && this.groups.flatMap(({ params }) => params).find(({ ndim }) => ndim !== 2);
    if (vector) refuse('matrices as params', `one of shape [${vector.shape.join(', ')}]`);
    this.#assemble =
      assemble ??
      ((values, use) => {
        for (const [i, value] of values.entries()) use(i, value, 0);
      });
  }

  protected override start(param: Tensor): Record<string, Tensor> {
    return { momentum: ops.zeros_like(param) };
  }

  /** A rank without any gradient takes part: matrices are made whole by all ranks together. */
  protected override get updatesTogether(): boolean {
    return true;
  }

  protected override update(group: Group<MuonSettings>, updates: readonly Update[], gradScale: number): void {
    const byParam = new Map(updates.map((update) => [update.param, update]));
    const directions = group.params.map((param) => {
      const update = byParam.get(param);
      return update === undefined ? ops.zeros_like(param) : directionOf(group, update, gradScale);
    });
    this.#assemble(directions, (i, whole, start) => {
      const param = group.params[i]!;
      const update = byParam.get(param);
      if (update === undefined) return;
      scope(() => {
        const [n, m] = whole.shape as [number, number];
        const factor = group.adjust === 'rms' ? 0.2 * Math.sqrt(Math.max(n, m)) : Math.sqrt(Math.max(1, n / m));
        const flat = ops.reshape(orthogonal(whole, group.iterations), [-1]);
        const own = ops.view(ops.narrow(flat, 0, start, param.numel), param.shape);
        ops.mul_(param, 1 - group.lr * group.weightDecay);
        ops.add_(param, own, { alpha: -group.lr * factor });
        if (update.half !== null) ops.copy_(update.half, param);
      });
    });
  }
}

/** The mean of the gradients, updated, and with Nesterov's look ahead; in the shape of the parameter or part. */
function directionOf({ momentum, nesterov }: MuonSettings, { param, grad, state }: Update, gradScale: number): Tensor {
  const scaled = ops.mul(ops._to_copy(grad, { dtype: param.dtype }), gradScale);
  const mean = ops.lerp_(state.tensors.momentum!, scaled, 1 - momentum);
  return nesterov ? ops.lerp(scaled, mean, momentum) : ops.clone(mean);
}

/** Near the orthogonal matrix that is closest to `x` (n, m): Newton-Schulz iterations in bfloat16. */
function orthogonal(x: Tensor, iterations: number): Tensor {
  const [n, m] = x.shape as [number, number];
  const half = ops._to_copy(x, { dtype: 'bfloat16' });
  let y = n > m ? ops.t(half) : half; // the smaller side first: (k, k) products are the cheap ones
  y = ops.div(y, ops.clamp_min(ops.linalg_vector_norm(y), EPS));
  for (let i = 0; i < iterations; i++) {
    const gram = ops.mm(y, ops.t(y)); // (k, k)
    const polynomial = ops.addmm(gram, gram, gram, { beta: B, alpha: C });
    y = ops.addmm(y, polynomial, y, { beta: A });
  }
  return ops._to_copy(n > m ? ops.t(y) : y, { dtype: x.dtype });
}

function refuse(expected: string, received: unknown): never {
  const shown = typeof received === 'string' ? received : describe(received);
  throw new ShardloopError('BAD_ARGUMENT', `Muon: expected ${expected}, received ${shown}`);
}
