// From rows of token ids (lib/data) to what the training step takes: tensors for the first segment, from which the last one
// makes the share of the global loss.
import { scope, tensor } from '../core/index.js';
import type { MicroBatch as Rows, Step } from '../data/index.js';
import type { GPT2LMHeadModel } from '../models/index.js';
import type { Carry } from '../nn/index.js';
import type { MicroBatch } from './step.js';

/** This rank's micro-batches of a step, each made when its turn comes. */
export function microBatches(model: GPT2LMHeadModel, step: Step, device: string): (() => MicroBatch)[] {
  return step.microBatches.map((rows) => () => ({
    input: inputOf(model, rows, { device, divisor: step.labelledTokens }),
    lossOf: ([loss]) => loss!,
  }));
}

/**
 * The carry of the first segment, with targets, so that the last one gives the sum of their losses divided by `divisor`. Rows
 * are filled up at their ends, where causal attention does not look, so only packed rows need a mask.
 */
export function inputOf(model: GPT2LMHeadModel, rows: Rows, options: { device: string; divisor: number }): Carry {
  const { device, divisor } = options;
  const place = { shape: [...rows.shape], device }; // (B, T)
  return scope(() => {
    const targets = { targets: tensor(rows.targets, place), divisor };
    const ids = tensor(rows.ids, place);
    if (!rows.documentIds || !rows.positionIds) return model.inputs(ids, targets);
    const documentIds = tensor(rows.documentIds, place);
    return model.inputs(ids, { ...targets, documentIds, positionIds: tensor(rows.positionIds, place) });
  });
}
