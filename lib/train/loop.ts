// The loop over steps, the same for `pretrain` and `finetune`: step, metrics, evaluation, checkpoint, stop. One step is
// step.ts; what surrounds the run is run.ts.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ShardloopError, type Tensor } from '../core/index.js';
import { ranksOf, words } from '../core/option-names.js';
import { BatchSource, type SequenceSet } from '../data/index.js';
import type { GPT2LMHeadModel } from '../models/index.js';
import { segmentsOf } from '../nn/index.js';
import { Schedule } from '../optim/index.js';
import { partsOf } from '../parallel/index.js';
import { Checkpoints } from './checkpoints.js';
import { type Evaluation, evaluate } from './evaluate.js';
import type { StepMetrics } from './metrics.js';
import { microBatches } from './micro-batch.js';
import { makeOptimizer, makeSchedule } from './optimizer.js';
import { planRun } from './plan.js';
import { makeScaler, precisionScope, productDtype } from './precision.js';
import { describeRun, openSinks, type Run, seedStep, stopIfAsked, sumOverRanks, tell } from './run.js';
import { spread } from './spread.js';
import { type StepContext, trainStep } from './step.js';
import type { RunSummary } from './summary.js';
import { StepTrace } from './trace.js';
import { flopsPerToken, measurePeak } from './utilization.js';

/** What is trained on, and what is only measured. */
export interface TrainingData {
  readonly train: SequenceSet;
  readonly heldOut: SequenceSet | null;
  /** The token that fills short rows. */
  readonly padId: number;
  /** Conversations that were cut to the sequence length, or left out for their length. */
  readonly truncated?: number;
  readonly skipped?: number;
}

/** What a run leaves behind beside checkpoints. */
export interface TrainingResult {
  /** Where. */
  readonly path: string;
  /** Writes all of it but the weights into a folder; checkpoints hold it. */
  describe(folder: string): Promise<void>;
  /** The parameters that it holds; they are whole while it is written. */
  readonly parameters: () => readonly Tensor[];
  /** Called on rank 0 after the last step. */
  write(): Promise<void>;
}

/** A model to train, and where the values of parameters on the meta device come from. */
export interface TrainingModel {
  readonly model: GPT2LMHeadModel;
  /** Writes a parameter's values into `into`; for models that were made without memory ({@link fillsShards}). */
  readonly fill?: (name: string, into: Tensor) => void;
}

/**
 * Train `model` until the run's last step (a dry run: one step). Only parameters that require a gradient train.
 * Throws INTERRUPTED after the checkpoint when the run's signal was aborted, NON_FINITE when the loss diverges.
 */
export async function trainLoop(
  run: Run,
  model: TrainingModel,
  data: TrainingData,
  result: TrainingResult,
): Promise<RunSummary> {
  const opened: Closer[] = [];
  try {
    return await trainSteps(run, model, data, result, opened);
  } finally {
    for (const close of opened.reverse()) await close();
  }
}

/** Gives back what a run holds beside its model. */
type Closer = () => void | Promise<void>;

async function trainSteps(
  run: Run,
  { model, fill }: TrainingModel,
  data: TrainingData,
  result: TrainingResult,
  opened: Closer[],
): Promise<RunSummary> {
  const { config, group, device, options } = run;
  const { rank, size: worldSize } = group;
  const { microBatch, gradAccum, epochs, seed } = config;
  const batches = new BatchSource(data.train, {
    ...{ microBatch, gradAccum, rank, worldSize, seed, epochs },
    padId: data.padId,
  });
  const total = Math.min(batches.totalSteps, config.maxSteps ?? Number.POSITIVE_INFINITY);
  const segments = segmentsOf(model);
  const names = new Map(model.namedParameters().map(([name, t]) => [t, name]));
  const fillOne = fill && ((t: Tensor, into: Tensor) => fill(names.get(t)!, into));
  const { strategy, close } = await spread(run, segments, { fill: fillOne, device });
  opened.push(close);
  const trainable = model.namedParameters().filter(([, t]) => t.requiresGrad);
  const { ledger } = run;
  ledger.book('parameters');
  const optimizer = makeOptimizer(trainable, config, strategy);
  opened.push(() => optimizer.dispose());
  optimizer.prepare();
  ledger.book('optimizer');
  const schedule = new Schedule(optimizer, makeSchedule(config, total));
  const scaler = makeScaler(config);
  const parts = partsOf(strategy, trainable);
  const partNames = new Map(parts.map(([name, part]) => [part, name]));
  const context: StepContext = {
    ...{ segments, group, optimizer, clip: config.clip, checkpointing: config.checkpointing },
    strategy: { ...strategy, finish: () => strategy.finish().then(() => ledger.book('gradients')) },
    parts: parts.map(([, part]) => part),
    ...{ scaler, nameOf: (part: Tensor) => partNames.get(part) },
    precision: precisionScope(config.precision, device),
  };
  if (config.deepspeed !== undefined) {
    tell(
      run,
      words`global batch ${batches.globalBatch} = ${microBatch} (--micro-batch) x ${gradAccum} (--grad-accum) x ${ranksOf(worldSize)}`,
    );
  }
  const checkpoints = new Checkpoints(run, {
    ...{ trainable, optimizer, strategy, schedule, batches, scaler },
    evaluates: data.heldOut !== null && config.evalSteps > 0,
    describe: result.describe,
  });
  const before = await checkpoints.resume();
  await describeRun(run); // not earlier: until here run.json may be another run's
  const held = data.heldOut;
  const measure = (between?: () => Promise<void>) => (held ? evaluate(run, model, held, context, between) : undefined);
  const stopEarly = () =>
    stopIfAsked(run, before.step > 0 ? interrupted(before.step, total, checkpoints.newest) : null);
  await stopEarly();

  const peak = measurePeak(productDtype(config.precision), device);
  const clock = startClock(before.seconds);
  const summary: RunSummary = {
    ...{ command: run.command, steps: before.step, tokens: before.tokens, seconds: 0, loss: Number.NaN },
    ...{ ranks: worldSize, parameters: count(model.parameters()), trainable: count(trainable.map(([, t]) => t)) },
    firstLoss: before.firstLoss,
    evalLossBefore: before.step === 0 && !options.dryRun ? (await measure(stopEarly))?.loss : before.evalLossBefore,
    ...{ truncated: data.truncated, skipped: data.skipped },
    ...(run.notes.length > 0 ? { notes: run.notes } : {}),
  };
  await stopEarly();
  const sinks = openSinks(run, total, before.step);
  const trace = new StepTrace(run, before.step, options.dryRun ? before.step + 1 : total);
  const isLast = (step: number) => step >= total || options.dryRun === true;
  const enter = (step: number) => options.onPhase?.(isLast(step) ? 'in the last step' : 'in a step');
  model.train();
  enter(before.step + 1);
  try {
    for (let step = before.step + 1; step <= total; step++) {
      const began = clock();
      const batch = batches.next()!;
      seedStep(run, step);
      const lr = schedule.lr;
      const last = isLast(step);
      trace.before(step);
      const lossScale = scaler?.scale;
      const { loss, gradNorm, overflowed } = await trainStep(context, microBatches(model, batch, device));
      schedule.advance();
      await trace.after(step);

      const time = clock();
      const fed = batch.microBatches.reduce((sum, { mask }) => sum + mask.reduce((n, bit) => n + bit, 0), 0);
      const flops = batch.microBatches.reduce((sum, { shape: [B, T] }) => sum + B * T * flopsPerToken(model, T), 0);
      const asks = options.signal?.aborted ? 1 : 0;
      if (!last) enter(step + 1); // whoever asks from here on is heard behind the next step
      const written = checkpoints.isWritten ? 1 : 0;
      const shares = [fed, asks, flops / (time - began) / peak, written];
      const [tokensFed, stops, used, writers] = await sumOverRanks(run, shares);
      if (writers === worldSize) await checkpoints.settle(); // a save in the background that all have written
      const metrics: StepMetrics = {
        ...{ step, epoch: epochAt(step, batches), loss, lr, tokens: batch.labelledTokens, time, gradNorm },
        ...(scaler && { lossScale, skippedSteps: scaler.skipped }),
        tokensPerSecond: tokensFed! / (time - began),
        ...{ utilization: used! / worldSize, memoryPeak: ledger.use().peak },
      };
      const finite = Number.isFinite(loss) && (Number.isFinite(gradNorm) || overflowed);
      const stopped = stops! > 0 && !last;
      const due = config.evalSteps > 0 && step % config.evalSteps === 0;
      note(summary, metrics, time, before.step + 1);
      if (stopped && finite) {
        await checkpoints.save(step, summary);
        await checkpoints.settle(); // before an evaluation that might be killed
      }
      if (finite && (due || last)) addEvaluation(summary, metrics, await measure());
      sinks.write(metrics);
      const isBest = checkpoints.isBest(metrics.evalLoss) && !options.dryRun;
      const isDue = config.saveSteps > 0 && step % config.saveSteps === 0 && !stopped && !last && finite;
      if (isDue || isBest) await checkpoints.save(step, summary, metrics.evalLoss);
      if (!finite || stopped || last) await checkpoints.settle();
      if (!finite) throw diverged(metrics, checkpoints.newest);
      if (stopped) throw interrupted(step, total, checkpoints.newest);
      if (last) break;
      await nextTurn(); // signals, timers and the caller's other work
    }
    if (options.dryRun) summary.plan = planRun(run, data, batches, total);
    else await strategy.whole(() => (run.leads ? result.write() : undefined), result.parameters());
    summary.memory = ledger.use();
  } finally {
    trace.cancel();
    await checkpoints.abandon();
    await sinks.close();
  }
  if (run.leads && !options.dryRun) summary.result = result.path;
  summary.seconds = clock();
  return summary;
}

/** Seconds of training so far, those before a resume included. */
function startClock(before: number): () => number {
  const start = performance.now();
  return () => before + (performance.now() - start) / 1000;
}

function epochAt(step: number, { stepsPerEpoch }: BatchSource): number {
  return step / stepsPerEpoch;
}

function count(tensors: readonly Tensor[]): number {
  return tensors.reduce((sum, t) => sum + t.numel, 0);
}

function addEvaluation(summary: RunSummary, metrics: StepMetrics, evaluation: Evaluation | undefined): void {
  if (!evaluation) return;
  summary.evalLoss = metrics.evalLoss = evaluation.loss;
  summary.evalPerplexity = metrics.evalPerplexity = evaluation.perplexity;
}

function note(summary: RunSummary, metrics: StepMetrics, seconds: number, first: number): void {
  summary.steps = metrics.step;
  summary.seconds = seconds;
  summary.tokens += metrics.tokens;
  summary.firstLoss ??= metrics.loss;
  summary.loss = metrics.loss;
  const n = metrics.step - first; // steps of this process before this one
  summary.utilization = ((summary.utilization ?? 0) * n + metrics.utilization) / (n + 1);
}

function diverged({ step, loss, gradNorm, lr }: StepMetrics, checkpoint: string | null): ShardloopError {
  const rescue = checkpoint ? ` ${checkpoint} is from before it.` : '';
  return new ShardloopError(
    'NON_FINITE',
    `step ${step}: expected a finite loss and gradient, received loss ${loss} and gradient norm ${gradNorm} at lr ${lr}.` +
      words` Lower --lr or raise --warmup-steps.${rescue}`,
  );
}

function interrupted(step: number, total: number, checkpoint: string | null): ShardloopError {
  return new ShardloopError(
    'INTERRUPTED',
    words`stopped after step ${step} of ${total}. ${checkpoint} holds the state; run the same command with --resume auto to continue`,
  );
}
