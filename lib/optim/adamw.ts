// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), by libtorch's fused op, and the same
// update composed of small ops, which the tests hold it against.
import { full, ops, scope, type Tensor } from '../core/index.js';
import type { Group, OptimizerOptions } from './groups.js';
import { BaseOptimizer, checkBetas, checkBoolean, checkNumber, scaleGradients, type Update } from './optimizer.js';

/** Settings of {@link AdamW}, for all groups or for one. */
export interface AdamWSettings {
  /** Learning rate (default 1e-3). */
  lr: number;
  /** Decay rates of the running means of the gradient and of its square (default [0.9, 0.999]). */
  betas: readonly [number, number];
  /** Added to the root of the second moment (default 1e-8). */
  eps: number;
  /** Share of the parameter, times `lr`, that is taken off at each step (default 0.01). */
  weightDecay: number;
  /** One fused op for all parameters of the group (default), or several small ones for each. */
  fused: boolean;
}

const DEFAULTS: AdamWSettings = { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, fused: true };

/** The AdamW optimizer. State: `exp_avg` and `exp_avg_sq` for each parameter, in its dtype. */
export class AdamW extends BaseOptimizer<AdamWSettings> {
  constructor(options: OptimizerOptions<AdamWSettings>) {
    super(options, DEFAULTS, ({ lr, betas, eps, weightDecay, fused }) => {
      checkNumber('AdamW: lr', lr, 0);
      checkBetas(betas);
      checkNumber('AdamW: eps', eps, 0);
      checkNumber('AdamW: weightDecay', weightDecay, 0);
      checkBoolean('AdamW: fused', fused);
    });
  }

  protected override start(param: Tensor): Record<string, Tensor> {
    return { exp_avg: ops.zeros_like(param), exp_avg_sq: ops.zeros_like(param) };
  }

  protected override update(group: Group<AdamWSettings>, updates: readonly Update[], gradScale: number): void {
    if (group.fused) {
      for (const alike of byKind(updates)) fusedUpdate(group, alike, gradScale);
    } else {
      scaleGradients(updates, gradScale);
      for (const update of updates) scope(() => composedUpdate(group, update));
    }
  }
}

/** The fused op takes tensors of one dtype on one device. */
function byKind(updates: readonly Update[]): Update[][] {
  const kinds = new Map<string, Update[]>();
  for (const update of updates) {
    const kind = `${update.param.dtype} ${update.param.device}`;
    const list = kinds.get(kind);
    if (list === undefined) kinds.set(kind, [update]);
    else list.push(update);
  }
  return [...kinds.values()];
}

function fusedUpdate(group: AdamWSettings, updates: readonly Update[], gradScale: number): void {
  const device = updates[0]!.param.device;
  // The op reads the step counts from tensors; those that are equal share one.
  const counts = new Map<number, Tensor>();
  const count = (step: number): Tensor => {
    const known = counts.get(step) ?? full([], step, { dtype: 'float32', device });
    counts.set(step, known);
    return known;
  };
  ops._fused_adamw_(
    updates.map(({ param }) => param),
    updates.map(({ grad }) => grad),
    updates.map(({ state }) => state.tensors.exp_avg!),
    updates.map(({ state }) => state.tensors.exp_avg_sq!),
    [],
    updates.map(({ state }) => count(state.step)),
    {
      lr: group.lr,
      beta1: group.betas[0],
      beta2: group.betas[1],
      weight_decay: group.weightDecay,
      eps: group.eps,
      amsgrad: false,
      maximize: false,
      grad_scale: gradScale === 1 ? null : full([], 1 / gradScale, { dtype: 'float32', device }), // it divides
    },
  );
}

function composedUpdate(group: AdamWSettings, { param, grad, state }: Update): void {
  const [beta1, beta2] = group.betas;
  const exp_avg = state.tensors.exp_avg!;
  const exp_avg_sq = state.tensors.exp_avg_sq!;
  ops.mul_(param, 1 - group.lr * group.weightDecay);
  ops.lerp_(exp_avg, grad, 1 - beta1);
  ops.addcmul_(ops.mul_(exp_avg_sq, beta2), grad, grad, { value: 1 - beta2 });
  const root = Math.sqrt(1 - beta2 ** state.step);
  const denominator = ops.add_(ops.div_(ops.sqrt(exp_avg_sq), root), group.eps);
  ops.addcdiv_(param, exp_avg, denominator, { value: -group.lr / (1 - beta1 ** state.step) });
}
