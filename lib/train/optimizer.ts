// From the options of a run to an optimizer and its schedule. The update rules are lib/optim's.
import type { Tensor } from '../core/index.js';
import {
  Adafactor,
  AdamW,
  constant,
  cosine,
  decayGroups,
  type Factor,
  Lion,
  linear,
  MasterWeights,
  type Optimizer,
  SGD,
  wsd,
} from '../optim/index.js';
import { partsOf, type Strategy } from '../parallel/index.js';
import type { TrainingConfig } from './config.js';

type Groups = { params: [string, Tensor][]; weightDecay: number }[];

/** The options that decide the optimizer. */
export type OptimizerConfig = Pick<
  TrainingConfig,
  'optimizer' | 'precision' | 'lr' | 'weightDecay' | 'beta1' | 'beta2' | 'epsilon'
>;

/** The optimizer of this rank's part of what trains; half-precision parameters get fp32 masters. */
export function makeOptimizer(named: [string, Tensor][], config: OptimizerConfig, strategy: Strategy): Optimizer {
  const groups: Groups = decayGroups(named, { weightDecay: config.weightDecay }).map(({ params, weightDecay }) => ({
    params: partsOf(strategy, params),
    weightDecay,
  }));
  if (config.precision !== 'bf16') return updateRule(groups, config);
  return new MasterWeights({ groups, optimizer: (masters) => updateRule(masters as Groups, config) });
}

function updateRule(groups: Groups, config: OptimizerConfig): Optimizer {
  const { lr, beta1, beta2, epsilon } = config;
  switch (config.optimizer) {
    case 'adamw':
      return new AdamW({ groups, lr, betas: [beta1, beta2], eps: epsilon });
    case 'sgd':
      return new SGD({ groups, lr, momentum: beta1 });
    case 'adafactor':
      return new Adafactor({ groups, lr });
    case 'lion':
      return new Lion({ groups, lr, betas: [beta1, beta2] });
  }
}

/** The factor on the learning rate for a run of `total` steps. */
export function makeSchedule(config: TrainingConfig, total: number): Factor {
  const warmup = Math.min(config.warmupSteps ?? Math.round(0.03 * total), total);
  const final = config.minLrRatio;
  switch (config.schedule) {
    case 'constant':
      return constant({ warmup });
    case 'linear':
      return linear({ warmup, total, final });
    case 'cosine':
      return cosine({ warmup, total, final });
    case 'wsd':
      return wsd({ warmup, total, final, decay: Math.min(Math.round(config.decayRatio * total), total - warmup) });
  }
}
