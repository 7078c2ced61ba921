// From rows of token ids (lib/data) to what the training step takes: tensors for the first segment, and the share of the
// global loss.
import { ops, scope, type Tensor, tensor } from '../core/index.js';
import type { MicroBatch as Rows, Step } from '../data/index.js';
import type { GPT2LMHeadModel } from '../models/index.js';
import { type Carry, crossEntropy } from '../nn/index.js';
import type { MicroBatch } from './step.js';

/** This rank's micro-batches of a step, each made when its turn comes. */
export function microBatches(model: GPT2LMHeadModel, step: Step, device: string): (() => MicroBatch)[] {
  return step.microBatches.map((rows) => () => ({
    input: inputOf(model, rows, device),
    lossOf: ([logits]) => ops.div(summedLoss(logits!, rows), step.labelledTokens),
  }));
}

/**
 * The carry of the first segment. Rows are filled up at their ends, where causal attention does not look, so only packed
 * rows need a mask.
 */
export function inputOf(model: GPT2LMHeadModel, rows: Rows, device: string): Carry {
  const shape = [...rows.shape]; // (B, T)
  return scope(() => {
    const ids = tensor(rows.ids, { shape, device });
    if (!rows.documentIds || !rows.positionIds) return model.inputs(ids);
    const documentIds = tensor(rows.documentIds, { shape, device });
    return model.inputs(ids, { documentIds, positionIds: tensor(rows.positionIds, { shape, device }) });
  });
}

/** The sum of the negative log-likelihood over the labelled places: logits (B, T, V) -> scalar, fp32. */
export function summedLoss(logits: Tensor, rows: Rows): Tensor {
  return scope(() => {
    const targets = tensor(rows.targets, { shape: [...rows.shape], device: logits.device });
    return crossEntropy(logits, targets, { reduction: 'sum' });
  });
}
