// Lion: steps by the sign of a momentum (Chen et al., arXiv 2302.06675, algorithm 2). One state tensor a parameter; use
// a learning rate 3 to 10 times smaller, and a weight decay as much larger, than for AdamW.
import { ops, scope, type Tensor } from '../core/index.js';
import type { Group, OptimizerOptions } from './groups.js';
import { BaseOptimizer, checkBetas, checkNumber, scaleGradients, type Update } from './optimizer.js';

/** Settings of {@link Lion}, for all groups or for one. */
export interface LionSettings {
  /** Learning rate (default 1e-4). */
  lr: number;
  /** Share of the momentum in the update, and its decay rate (default [0.9, 0.99]). */
  betas: readonly [number, number];
  /** Share of the parameter, times `lr`, that is taken off at each step (default 0). */
  weightDecay: number;
}

const DEFAULTS: LionSettings = { lr: 1e-4, betas: [0.9, 0.99], weightDecay: 0 };

/** The Lion optimizer. State: `exp_avg` for each parameter, in its dtype. */
export class Lion extends BaseOptimizer<LionSettings> {
  constructor(options: OptimizerOptions<LionSettings>) {
    super(options, DEFAULTS, ({ lr, betas, weightDecay }) => {
      checkNumber('Lion: lr', lr, 0);
      checkBetas(betas);
      checkNumber('Lion: weightDecay', weightDecay, 0);
    });
  }

  protected override start(param: Tensor): Record<string, Tensor> {
    return { exp_avg: ops.zeros_like(param) };
  }

  protected override update(group: Group<LionSettings>, updates: readonly Update[], gradScale: number): void {
    scaleGradients(updates, gradScale);
    const { lr, betas, weightDecay } = group;
    for (const { param, grad, state } of updates) {
      scope(() => {
        const momentum = state.tensors.exp_avg!;
        ops.mul_(param, 1 - lr * weightDecay);
        const direction = ops.sign_(ops.lerp(momentum, grad, 1 - betas[0]));
        ops.add_(param, direction, { alpha: -lr });
        ops.lerp_(momentum, grad, 1 - betas[1]);
      });
    }
  }
}
