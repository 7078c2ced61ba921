// What a run will take in steps and tokens, of which a dry run has taken one. Memory and traffic without running anything
// are forecast.ts's.
import type { BatchSource, SequenceSet } from '../data/index.js';
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
}

/** The plan of a run whose first step has been taken: what it will take, and the peak memory so far. */
export function planRun(
  { config, group }: Run,
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
