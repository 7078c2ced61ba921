// The names of `optim`, as in `import { optim } from 'shardloop'`.
export { Adafactor, type AdafactorSettings } from './adafactor.js';
export { AdamW, type AdamWSettings } from './adamw.js';
export {
  type ClipOptions,
  clipCoefficient,
  clipGradNorm,
  type GradSquares,
  gradNorm,
  gradSquares,
  type NormOptions,
} from './clip.js';
export { Combined } from './combined.js';
export { decayGroups, type Group, type GroupOptions, type OptimizerOptions, type Params } from './groups.js';
export { Lion, type LionSettings } from './lion.js';
export { type MasterGroup, MasterWeights, type MasterWeightsOptions } from './master.js';
export { type Assemble, Muon, type MuonSettings } from './muon.js';
export type { Optimizer, OptimizerState, PlainValue, StepOptions } from './optimizer.js';
export { mappedFiles, type Place } from './place.js';
export { LossScaler, type LossScalerOptions } from './scaler.js';
export {
  constant,
  cosine,
  type DecayOptions,
  type Factor,
  linear,
  Schedule,
  type WarmupOptions,
  type WsdOptions,
  wsd,
} from './schedule.js';
export { SGD, type SGDSettings } from './sgd.js';
