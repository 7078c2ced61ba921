// Stochastic gradient descent, with momentum as PyTorch defines it (Sutskever et al. 2013, the learning rate outside).
import { call, ops, ShardloopError, type Tensor } from '../core/index.js';
import type { Group, OptimizerOptions } from './groups.js';
import { alike, type ComposedRule, composed, listsOf, statesOf } from './one-pass.js';
import { BaseOptimizer, checkBoolean, checkNumber, type Update } from './optimizer.js';

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
  /** One native pass over memory for all parameters (default), or several small ops for each; the same result. */
  fused: boolean;
}

const DEFAULTS: SGDSettings = { lr: 1e-3, momentum: 0, nesterov: false, weightDecay: 0, fused: true };

/** The SGD optimizer. State: `momentum_buffer` for each parameter, in its dtype, if there is momentum. */
export class SGD extends BaseOptimizer<SGDSettings> {
  constructor(options: OptimizerOptions<SGDSettings>) {
    super(options, DEFAULTS, ({ lr, momentum, nesterov, weightDecay, fused }) => {
      checkNumber('SGD: lr', lr, 0);
      checkNumber('SGD: momentum', momentum, 0);
      checkNumber('SGD: weightDecay', weightDecay, 0);
      checkBoolean('SGD: nesterov', nesterov);
      checkBoolean('SGD: fused', fused);
      if (!nesterov || momentum > 0) return;
      throw new ShardloopError('BAD_ARGUMENT', 'SGD: expected a momentum above 0 with nesterov, received 0');
    });
  }

  protected override start(param: Tensor, group: Group<SGDSettings>): Record<string, Tensor> {
    return group.momentum > 0 ? { momentum_buffer: ops.zeros_like(param) } : {};
  }

  protected override update(group: Group<SGDSettings>, updates: readonly Update[], gradScale: number): void {
    if (!group.fused) {
      for (const update of updates) composed(update, gradScale, ruleOf(group));
      return;
    }
    const { lr, momentum, weightDecay, nesterov } = group;
    // A parameter whose first step was without momentum has no buffer.
    const [without, withBuffer] = [false, true].map((has) =>
      updates.filter(({ state }) => (state.tensors.momentum_buffer !== undefined) === has),
    ) as [Update[], Update[]];
    for (const list of alike(without)) {
      call('shardloop::sgd_step_', ...listsOf(list), [], lr, 0, weightDecay, false, gradScale);
    }
    for (const list of alike(withBuffer)) {
      const buffers = statesOf(list, 'momentum_buffer');
      call('shardloop::sgd_step_', ...listsOf(list), buffers, lr, momentum, weightDecay, nesterov, gradScale);
    }
  }
}

function ruleOf({ lr, momentum, nesterov, weightDecay }: SGDSettings): ComposedRule {
  return (param, grad, { momentum_buffer: buffer }) => {
    let direction = weightDecay > 0 ? ops.add_(grad, ops.mul(param, weightDecay)) : grad;
    if (buffer !== undefined) {
      ops.add_(ops.mul_(buffer, momentum), direction);
      direction = nesterov ? ops.add_(direction, ops.mul(buffer, momentum)) : buffer;
    }
    ops.sub_(param, ops.mul(direction, lr));
  };
}
