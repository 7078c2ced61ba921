// What a run writes down while it trains: one interface for sinks, metrics.jsonl, and a fan-out. TensorBoard's events
// are in tensorboard.ts, the drawn curve in loss-chart.ts, what a person watches in progress.ts.
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, truncateSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';

/** What is known of one optimizer step. A line of metrics.jsonl. */
export interface StepMetrics {
  /** Optimizer steps done, this one included; the first is 1. */
  step: number;
  /** Passes over the data done, as a fraction. */
  epoch: number;
  /** Mean cross-entropy in nats over the labelled tokens of the global batch, before the update. */
  loss: number;
  lr: number;
  /** Labelled tokens of this step, over all ranks. */
  tokens: number;
  /** Seconds since the start of training; continues over a resume. */
  time: number;
  /** Global norm of the gradient before clipping. */
  gradNorm: number;
  /** The factor on the loss in this step, with precision fp16. */
  lossScale?: number;
  /** Steps so far that were not applied because gradients overflowed, with precision fp16. */
  skippedSteps?: number;
  /** Tokens fed per second in this step, over all ranks, padding not counted. */
  tokensPerSecond: number;
  /** The share of the device's measured peak that the model's products took in this step (MFU), averaged over ranks. */
  utilization: number;
  /** Most bytes of tensors on rank 0 at once so far. */
  memoryPeak: number;
  /** Held-out loss in nats a token, where this step was followed by an evaluation. */
  evalLoss?: number;
  /** exp(evalLoss). */
  evalPerplexity?: number;
}

/** Where metrics go. `write` is called once a step, in order; `close` once, also after a failure. */
export interface MetricsSink {
  /** Takes one step's metrics, in order. */
  write(metrics: StepMetrics): void;
  /** Called once, behind the last step, also when the run failed. */
  close(): Promise<void> | void;
}

/** Several sinks as one. All are closed, even when one of them fails to; the first failure is thrown. */
export function fanOut(sinks: MetricsSink[]): MetricsSink {
  return {
    write: (metrics) => {
      for (const sink of sinks) sink.write(metrics);
    },
    close: async () => {
      const results = await Promise.allSettled(sinks.map(async (sink) => sink.close()));
      const failed = results.find((result) => result.status === 'rejected');
      if (failed) throw failed.reason;
    },
  };
}

/** One JSON object. Numbers that JSON lacks become the strings "NaN", "Infinity", "-Infinity", never null. */
export function metricsLine(metrics: StepMetrics): string {
  return JSON.stringify(metrics, (_, value: unknown) =>
    typeof value === 'number' && !Number.isFinite(value) ? String(value) : value,
  );
}

/** Read metrics.jsonl back, "NaN" and "Infinity" as numbers. An unfinished last line is left out. */
export function readMetrics(path: string): StepMetrics[] {
  return completeLines(path).map(
    (line) =>
      JSON.parse(line, (_, value: unknown) =>
        typeof value === 'string' && /^(NaN|-?Infinity)$/.test(value) ? Number(value) : value,
      ) as StepMetrics,
  );
}

/**
 * The file metrics.jsonl. It begins anew, or, for a run that continues after `resumedStep`, keeps the lines up to that
 * step, so that no step stands in it twice.
 */
export function jsonlSink(path: string, resumedStep = 0): MetricsSink {
  mkdirSync(dirname(path), { recursive: true });
  keepUpTo(path, resumedStep);
  const file = openSync(path, 'a');
  return {
    write: (metrics) => {
      writeSync(file, `${metricsLine(metrics)}\n`); // at once: what a killed process had measured stays
    },
    close: () => closeSync(file),
  };
}

function keepUpTo(path: string, step: number): void {
  if (!existsSync(path)) return;
  const kept = step > 0 ? completeLines(path).filter((line) => (JSON.parse(line) as StepMetrics).step <= step) : [];
  truncateSync(
    path,
    kept.reduce((bytes, line) => bytes + Buffer.byteLength(line) + 1, 0),
  );
}

function completeLines(path: string): string[] {
  return readFileSync(path, 'utf8').split('\n').slice(0, -1);
}
