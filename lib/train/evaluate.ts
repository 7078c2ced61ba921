// Held-out loss and perplexity, over all ranks. The random state and the model's mode are afterwards what they were.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { scope } from '../core/index.js';
import { BatchSource, type SequenceSet } from '../data/index.js';
import type { GPT2LMHeadModel } from '../models/index.js';
import { forwardSegments } from '../parallel/index.js';
import { inputOf } from './micro-batch.js';
import { type Run, sumOverRanks } from './run.js';
import type { StepContext } from './step.js';

export interface Evaluation {
  /** Mean negative log-likelihood of a labelled token, in nats. */
  loss: number;
  /** exp(loss). */
  perplexity: number;
  /** Labelled tokens that were scored. */
  tokens: number;
}

/** Score the held-out sequences, each by one rank. Collective. `between` is called, and awaited, between batches. */
export async function evaluate(
  run: Run,
  model: GPT2LMHeadModel,
  heldOut: SequenceSet,
  { segments, strategy, precision }: Pick<StepContext, 'segments' | 'strategy' | 'precision'>,
  between: () => Promise<unknown> = nextTurn,
): Promise<Evaluation> {
  const { group, device, config } = run;
  const { rank, size: worldSize } = group;
  const batches = new BatchSource(heldOut, {
    microBatch: config.microBatch,
    rank,
    worldSize,
    shuffle: false,
    epochs: 1,
  });
  const training = model.training;
  let sum = 0;
  let tokens = 0;
  model.eval();
  try {
    for (const step of batches) {
      tokens += step.labelledTokens;
      for (const rows of step.microBatches) {
        sum += precision(() =>
          scope(() => {
            const [loss] = forwardSegments(segments, inputOf(model, rows, { device, divisor: 1 }), strategy);
            return Number(loss!.itemSync());
          }),
        );
      }
      await between();
    }
  } finally {
    model.train(training);
  }
  const [total] = await sumOverRanks(run, [sum]);
  const loss = total! / tokens;
  return { loss, perplexity: Math.exp(loss), tokens };
}
