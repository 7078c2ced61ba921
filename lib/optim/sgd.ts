// Stochastic gradient descent, with momentum as PyTorch defines it (Sutskever et al. 2013, the learning rate outside).
import { ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import type { Group, OptimizerOptions } from './groups.js';
import { BaseOptimizer, checkBoolean, checkNumber, scaleGradients, type Update } from './optimizer.js';

/** Settings of {@link SGD}, for all groups or for one. */
export interface SGDSettings {
  /** Learning rate (default 1e-3). */
  lr: number;
  /** Share of the last update that is carried on (default 0). */
  momentum: number;
  /** Look ahead by the momentum (default false; needs momentum). */
  nesterov: boolean;
  /** Share of the parameter that is added to its gradient (default 0). */
  weightDecay: number;
}

const DEFAULTS: SGDSettings = { lr: 1e-3, momentum: 0, nesterov: false, weightDecay: 0 };

/** The SGD optimizer. State: `momentum_buffer` for each parameter, in its dtype, if there is momentum. */
export class SGD extends BaseOptimizer<SGDSettings> {
  constructor(options: OptimizerOptions<SGDSettings>) {
    super(options, DEFAULTS, ({ lr, momentum, nesterov, weightDecay }) => {
      checkNumber('SGD: lr', lr, 0);
      checkNumber('SGD: momentum', momentum, 0);
      checkNumber('SGD: weightDecay', weightDecay, 0);
      checkBoolean('SGD: nesterov', nesterov);
      if (!nesterov || momentum > 0) return;
      throw new ShardloopError('BAD_ARGUMENT', 'SGD: expected a momentum above 0 with nesterov, received 0');
    });
  }

  protected override start(param: Tensor, group: Group<SGDSettings>): Record<string, Tensor> {
    return group.momentum > 0 ? { momentum_buffer: ops.zeros_like(param) } : {};
  }

  protected override update(group: Group<SGDSettings>, updates: readonly Update[], gradScale: number): void {
    scaleGradients(updates, gradScale);
    for (const { param, grad, state } of updates) {
      scope(() => {
        const { lr, momentum, nesterov, weightDecay } = group;
        let direction = weightDecay > 0 ? ops.add(grad, param, { alpha: weightDecay }) : grad;
        const buffer = state.tensors.momentum_buffer;
        if (buffer !== undefined) {
          ops.add_(ops.mul_(buffer, momentum), direction);
          direction = nesterov ? ops.add(direction, buffer, { alpha: momentum }) : buffer;
        }
        ops.add_(param, direction, { alpha: -lr });
      });
    }
  }
}
