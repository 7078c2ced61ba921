// What a run will take, before it is run: steps, tokens, and the memory of weights, gradients and optimizer. Activations
// are not predicted here; a dry run measures the process's peak after one step.
import { dtypeBytes, type Tensor } from '../core/index.js';
import type { BatchSource, SequenceSet } from '../data/index.js';
import type { TrainingConfig } from './config.js';
import type { TrainingData } from './loop.js';
import type { Run } from './run.js';

export interface Plan {
  /** Optimizer steps of the whole run. */
  steps: number;
  stepsPerEpoch: number;
  /** Records (packed: sequences) to train on and held out. */
  records: number;
  evalRecords: number;
  /** Conversations cut to the sequence length, or left out for their length. */
  truncated?: number;
  skipped?: number;
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

/** The plan of a run whose first step has been taken: what it will take, and the peak memory so far. */
export function planRun(
  { config, group }: Run,
  parameters: Tensor[],
  trainable: Tensor[],
  { train, heldOut, truncated, skipped }: TrainingData,
  batches: BatchSource,
  steps: number,
): Plan {
  const { tokens, labelledTokens } = countTokens(train);
  return {
    ...{ steps, stepsPerEpoch: batches.stepsPerEpoch, records: train.count, evalRecords: heldOut?.count ?? 0 },
    ...{ truncated, skipped },
    ...{ tokens, labelledTokens, microBatch: config.microBatch, gradAccum: config.gradAccum },
    ...{ ranks: group.size, globalBatch: batches.globalBatch },
    memory: { ...stateBytes(parameters, trainable, config), peak: process.resourceUsage().maxRSS * 1024 },
  };
}

function countTokens(set: SequenceSet): { tokens: number; labelledTokens: number } {
  let tokens = 0;
  let labelledTokens = 0;
  for (let i = 0; i < set.count; i++) {
    tokens += set.get(i, 0).ids.length;
    labelledTokens += set.labelled(i, 0);
  }
  return { tokens, labelledTokens };
}
