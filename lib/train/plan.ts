// What a run will take, before it is run: steps, tokens, and the memory of weights, gradients and optimizer. Activations
// are not predicted here; a dry run measures the process's peak after one step.
import { dtypeBytes, type Tensor } from '../core/index.js';
import type { TrainingConfig } from './config.js';

export interface Plan {
  /** Optimizer steps of the whole run. */
  steps: number;
  stepsPerEpoch: number;
  /** Records (packed: sequences) to train on and held out. */
  records: number;
  evalRecords: number;
  /** Tokens of one pass over the training records, and those of them that carry a label. */
  tokens: number;
  labelledTokens: number;
  microBatch: number;
  gradAccum: number;
  ranks: number;
  globalBatch: number;
  /** Bytes a rank, by kind; `peak` is measured. */
  memory: Record<string, number>;
}

/** Bytes of moments that each optimizer keeps for an element; Adafactor keeps rows and columns instead. */
const MOMENT_BYTES = { adamw: 8, sgd: 4, lion: 4, adafactor: 0 } as const;

/** Bytes a rank holds for the model's states. `trainable` are the parameters that train. */
export function stateBytes(parameters: Tensor[], trainable: Tensor[], config: TrainingConfig): Record<string, number> {
  const bytes = (tensors: Tensor[]) => tensors.reduce((sum, t) => sum + t.numel * dtypeBytes(t.dtype), 0);
  const elements = trainable.reduce((sum, t) => sum + t.numel, 0);
  const momentless = config.optimizer === 'sgd' && config.beta1 === 0;
  const states: Record<string, number> = {
    weights: bytes(parameters),
    gradients: bytes(trainable),
    optimizer: momentless ? 0 : elements * MOMENT_BYTES[config.optimizer],
  };
  if (config.precision === 'bf16') states.master = elements * 4;
  return states;
}

/** Steps of one pass and of the run. The last batch of a pass may be smaller; it is a step too. */
export function countSteps(records: number, globalBatch: number, config: TrainingConfig) {
  const stepsPerEpoch = Math.ceil(records / globalBatch);
  const steps = Math.max(1, Math.ceil(stepsPerEpoch * config.epochs - 1e-9));
  return { stepsPerEpoch, steps: Math.min(steps, config.maxSteps ?? Number.POSITIVE_INFINITY) };
}
