// From the options of a run to an optimizer and its schedule. The update rules are lib/optim's.
import type { Tensor } from '../core/index.js';
import {
  Adafactor,
  AdamW,
  Combined,
  constant,
  cosine,
  decayGroups,
  type Factor,
  Lion,
  linear,
  MasterWeights,
  Muon,
  mappedFiles,
  type Optimizer,
  type Place,
  SGD,
  wsd,
} from '../optim/index.js';
import { partsOf, type Strategy } from '../parallel/index.js';
import type { TrainingConfig } from './config.js';
import { hasMasters } from './precision.js';

type Groups = { params: [string, Tensor][]; weightDecay: number }[];

/** The options that decide the optimizer. */
export type OptimizerConfig = Pick<
  TrainingConfig,
  'optimizer' | 'precision' | 'lr' | 'weightDecay' | 'beta1' | 'beta2' | 'epsilon'
> &
  Partial<Pick<TrainingConfig, 'offloadFolder'>>;

/**
 * The optimizer of this rank's part of what trains; half-precision parameters get fp32 masters. `files` makes the place of
 * states that live in files.
 */
export function makeOptimizer(
  named: [string, Tensor][],
  config: OptimizerConfig,
  strategy: Strategy,
  files: (folder: string) => Place = mappedFiles,
): Optimizer {
  const groups: Groups = decayGroups(named, { weightDecay: config.weightDecay }).map(({ params, weightDecay }) => ({
    params: partsOf(strategy, params),
    weightDecay,
  }));
  const place = config.offloadFolder === undefined ? undefined : files(config.offloadFolder);
  const make = (of: Groups): Optimizer =>
    config.optimizer === 'muon' ? muon(of, named, config, strategy, place) : updateRule(of, config, place);
  if (!hasMasters(config.precision)) return make(groups);
  return new MasterWeights({ groups, optimizer: (masters) => make(masters as Groups), place });
}

/** Muon for the matrices inside the model, with the step size of AdamW, which takes embeddings, head and vectors. */
function muon(
  groups: Groups,
  named: [string, Tensor][],
  config: OptimizerConfig,
  strategy: Strategy,
  place?: Place,
): Optimizer {
  const { lr, beta1: momentum, weightDecay } = config;
  const parameters = new Map(named.filter(([name, t]) => t.ndim === 2 && !/wte|wpe|lm_head/.test(name)));
  const matrices = groups.flatMap(({ params }) => params).filter(([name]) => parameters.has(name));
  const rest = groups
    .map((group) => ({ ...group, params: group.params.filter(([name]) => !parameters.has(name)) }))
    .filter(({ params }) => params.length > 0);
  const inOrder = matrices.map(([name]) => parameters.get(name)!);
  const members: Optimizer[] = [];
  if (matrices.length > 0) {
    const settings = { params: matrices, lr, momentum, weightDecay, adjust: 'rms' as const, place };
    members.push(new Muon(settings, (values, use) => strategy.assemble(inOrder, values, use)));
  }
  if (rest.length > 0) members.push(updateRule(rest, config, place));
  return new Combined(members);
}

function updateRule(groups: Groups, config: OptimizerConfig, place?: Place): Optimizer {
  const { lr, beta1, beta2, epsilon } = config;
  switch (config.optimizer) {
    case 'adamw':
    case 'muon': // of what muon leaves
      return new AdamW({ groups, place, lr, betas: [beta1, beta2], eps: epsilon });
    case 'sgd':
      return new SGD({ groups, place, lr, momentum: beta1 });
    case 'adafactor':
      return new Adafactor({ groups, place, lr });
    case 'lion':
      return new Lion({ groups, place, lr, betas: [beta1, beta2] });
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
