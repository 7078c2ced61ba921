// Lion: steps by the sign of a momentum (Chen et al., arXiv 2302.06675, algorithm 2). One state tensor a parameter; use
// a learning rate 3 to 10 times smaller, and a weight decay as much larger, than for AdamW.
import { call, ops, type Tensor } from '../core/index.js';
import type { Group, OptimizerOptions } from './groups.js';
import { alike, type ComposedRule, composed, listsOf, statesOf } from './one-pass.js';
import { BaseOptimizer, checkBetas, checkBoolean, checkNumber, type Update } from './optimizer.js';

/** Settings of {@link Lion}, for all groups or for one. */
export interface LionSettings {
  /** Learning rate (default 1e-4). */
  lr: number;
  /** Share of the momentum in the update, and its decay rate (default [0.9, 0.99]). */
  betas: readonly [number, number];
  /** Share of the parameter, times `lr`, that is taken off at each step (default 0). */
  weightDecay: number;
  /** One native pass over memory for all parameters (default), or several small ops for each; the same result. */
  fused: boolean;
}

const DEFAULTS: LionSettings = { lr: 1e-4, betas: [0.9, 0.99], weightDecay: 0, fused: true };

/** The Lion optimizer. State: `exp_avg` for each parameter, in its dtype. */
export class Lion extends BaseOptimizer<LionSettings> {
  constructor(options: OptimizerOptions<LionSettings>) {
    super(options, DEFAULTS, ({ lr, betas, weightDecay, fused }) => {
      checkNumber('Lion: lr', lr, 0);
      checkBetas(betas);
      checkNumber('Lion: weightDecay', weightDecay, 0);
      checkBoolean('Lion: fused', fused);
    });
  }

  protected override start(param: Tensor): Record<string, Tensor> {
    return { exp_avg: ops.zeros_like(param) };
  }

  protected override update(group: Group<LionSettings>, updates: readonly Update[], gradScale: number): void {
    if (!group.fused) {
      for (const update of updates) composed(update, gradScale, ruleOf(group));
      return;
    }
    const { lr, betas, weightDecay } = group;
    for (const list of alike(updates)) {
      const momenta = statesOf(list, 'exp_avg');
      call('shardloop::lion_step_', ...listsOf(list), momenta, lr, betas[0], betas[1], weightDecay, gradScale);
    }
  }
}

function ruleOf({ lr, betas, weightDecay }: LionSettings): ComposedRule {
  return (param, grad, { exp_avg: momentum }) => {
    const direction = ops.add_(ops.mul(momentum!, betas[0]), ops.mul(grad, 1 - betas[0]));
    ops.sub_(ops.mul_(param, 1 - lr * weightDecay), ops.mul_(ops.sign_(direction), lr));
    ops.add_(ops.mul_(momentum!, betas[1]), ops.mul_(grad, 1 - betas[1]));
  };
}
