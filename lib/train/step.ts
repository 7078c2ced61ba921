// The training step, on one page: micro-batches through the segments, the gradients of all ranks combined, clipped, and
// applied. What happens around a segment is the strategy's (lib/parallel); what a batch is, is lib/data's.
import { span, type Tensor } from '../core/index.js';
import type { Group } from '../dist/index.js';
import type { Carry, Segment } from '../nn/index.js';
import { clipCoefficient, gradSquares, type LossScaler, type Optimizer } from '../optim/index.js';
import { type Checkpointing, runSegments, type Strategy, skipSegments } from '../parallel/index.js';
import { checkBatch, checkShare, checkStep, enter } from './step-check.js';

/** One micro-batch, ready for the segments. Its tensors are freed by the step. */
export interface MicroBatch {
  /** The carry of the first segment. */
  readonly input: Carry;
  /** Maps the last segment's output to this micro-batch's share of the global loss, a scalar (see {@link trainStep}). */
  readonly lossOf: (output: Carry) => Tensor;
}

/** All that a step works on. */
export interface StepContext {
  readonly segments: readonly Segment[];
  readonly strategy: Strategy;
  readonly group: Group;
  readonly optimizer: Optimizer;
  /** What this rank updates of the parameters that train ({@link Strategy.part}); all gradients are clipped together. */
  readonly parts: readonly Tensor[];
  /** Greatest norm of all gradients together; 0 does not clip. */
  readonly clip: number;
  readonly checkpointing: Checkpointing;
  /** The loss scale of a float16 run; none otherwise. */
  readonly scaler?: LossScaler | null;
  /** The name of a part, for the error when its gradient overflows for good. */
  readonly nameOf?: (part: Tensor) => string | undefined;
  /** Runs around each micro-batch's forward and backward: autocast, or nothing. */
  readonly precision: <T>(fn: () => T) => T;
}

/** What a step found. */
export interface StepResult {
  /** Of the global batch, before the update. */
  readonly loss: number;
  /** Of all gradients of the global batch together, before clipping. */
  readonly gradNorm: number;
  /** Whether the update was left out because gradients overflowed under a dynamic loss scale; others may follow. */
  readonly overflowed: boolean;
}

/**
 * One optimizer step over this rank's micro-batches (none is allowed: the rank then only takes part in the reductions).
 * Each `lossOf` divides by the labelled tokens of the *global* batch, so the shares of all micro-batches and ranks add up
 * to the mean over labelled tokens, and any split of the same batch gives the same gradient. A step whose loss or
 * gradient is not finite is not applied; the caller sees it in the result. Throws BAD_ARGUMENT for a context that
 * lacks something, NON_FINITE when the gradients of a float16 run overflow at the least loss scale.
 */
export async function trainStep(context: StepContext, batches: readonly (() => MicroBatch)[]): Promise<StepResult> {
  checkStep(context, batches);
  const leave = enter(context.optimizer);
  try {
    return await step(context, batches);
  } finally {
    leave();
  }
}

async function step(context: StepContext, batches: readonly (() => MicroBatch)[]): Promise<StepResult> {
  const { segments, strategy, group, optimizer, parts, clip, checkpointing, precision } = context;
  const scaler = context.scaler ?? null;
  const scale = scaler?.scale ?? 1;
  let loss = 0;
  await strategy.begin(segments); // nothing is left of a step that failed
  for (const [i, make] of batches.entries()) {
    const batch = make();
    checkBatch(batch);
    const last = i === batches.length - 1;
    const lossOf = scaler === null ? batch.lossOf : (output: Carry) => scaler.scaleLoss(batch.lossOf(output));
    const share = precision(() => runSegments(segments, batch.input, lossOf, { strategy, checkpointing, last }));
    checkShare(share);
    loss += Number(share.itemSync()) / scale;
    for (const t of [share, ...batch.input]) t[Symbol.dispose]();
  }
  if (batches.length === 0) skipSegments(segments, strategy);
  await strategy.finish();

  const { sum, nonFinite } = gradSquares(parts);
  const norm = Math.sqrt(await strategy.sumOverParts(sum)) / scale;
  const globalLoss = await group.sum(loss);
  // Both numbers are the same on every rank, so all ranks skip together an update that would spread NaN.
  const finite = Number.isFinite(norm);
  const applies =
    Number.isFinite(globalLoss) && (scaler?.update(finite, nonFinite && context.nameOf?.(nonFinite)) ?? finite);
  if (applies) {
    const gradScale = (clip > 0 ? clipCoefficient(norm, clip) : 1) / scale;
    span('compute', 'optimizer', undefined, () => optimizer.step({ gradScale }));
    strategy.updated();
  }
  optimizer.zeroGrad();
  return { loss: globalLoss, gradNorm: norm, overflowed: scaler !== null && Number.isFinite(globalLoss) && !finite };
}
