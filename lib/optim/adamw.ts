// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).
import { call, ops, type Tensor } from '../core/index.js';
import type { Group, OptimizerOptions } from './groups.js';
import { alike, type ComposedRule, composed, listsOf, statesOf } from './one-pass.js';
import { BaseOptimizer, checkBetas, checkBoolean, checkNumber, type Update } from './optimizer.js';

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
  /** One native pass over memory for all parameters (default), or several small ops for each; the same result. */
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
    const { lr, betas, eps, weightDecay } = group;
    if (!group.fused) {
      for (const update of updates) composed(update, gradScale, ruleOf(group, update.state.step));
      return;
    }
    for (const list of alike(updates, true)) {
      const [correction1, correction2] = corrections(betas, list[0]!.state.step);
      call(
        'shardloop::adamw_step_',
        ...listsOf(list),
        statesOf(list, 'exp_avg'),
        statesOf(list, 'exp_avg_sq'),
        ...[lr, betas[0], betas[1], eps, weightDecay, correction1, correction2, gradScale],
      );
    }
  }
}

/** The means start at 0; after `step` updates they hold this share of what they will. */
function corrections([beta1, beta2]: readonly [number, number], step: number): [number, number] {
  return [1 - beta1 ** step, 1 - beta2 ** step];
}

function ruleOf({ lr, betas, eps, weightDecay }: AdamWSettings, step: number): ComposedRule {
  const [beta1, beta2] = betas;
  const [correction1, correction2] = corrections(betas, step);
  return (param, grad, { exp_avg, exp_avg_sq }) => {
    ops.add_(ops.mul_(exp_avg!, beta1), ops.mul(grad, 1 - beta1));
    ops.add_(ops.mul_(exp_avg_sq!, beta2), ops.mul_(ops.mul_(grad, grad), 1 - beta2));
    const denominator = ops.add_(ops.mul_(rootOf(exp_avg_sq!), 1 / Math.sqrt(correction2)), eps);
    const step = ops.mul_(ops.div(exp_avg!, denominator), lr / correction1);
    ops.sub_(ops.mul_(param, 1 - lr * weightDecay), step);
  };
}

/**
 * The square root, of float32 rounded correctly. libtorch's CPU sqrt is not (it may be off in the last bit); by way of
 * float64 it is. Of float64 it is as libtorch has it.
 */
function rootOf(t: Tensor): Tensor {
  if (t.dtype === 'float64') return ops.sqrt(t);
  return ops._to_copy(ops.sqrt_(ops._to_copy(t, { dtype: 'float64' })), { dtype: t.dtype });
}
