// What a person watches on stderr while a run trains: a bar on a terminal, plain lines elsewhere, nothing when quiet.
// Never writes to stdout.
import { Presets, SingleBar } from 'cli-progress';
import type { MetricsSink, StepMetrics } from './metrics.js';

export interface ProgressOptions {
  /** Shown before the bar, such as `finetune`. */
  label: string;
  /** Steps of the whole run. */
  total: number;
  /** Steps done before this run began (resume). */
  done?: number;
  /** Without a terminal: a line every N steps. */
  every: number;
  stream?: NodeJS.WriteStream;
}

/** A sink that shows loss, learning rate, tokens per second and the time left. */
export function progressSink(options: ProgressOptions): MetricsSink {
  const stream = options.stream ?? process.stderr;
  return stream.isTTY ? bar(options, stream) : lines(options, stream);
}

function bar({ label, total, done = 0 }: ProgressOptions, stream: NodeJS.WriteStream): MetricsSink {
  const view = new SingleBar(
    {
      stream,
      format: `${label.padEnd(9)} {bar} {value}/{total} | {text} | {left} left`,
      barsize: 24,
      hideCursor: false,
      fps: 8,
      gracefulExit: false, // signals belong to the run, which saves a checkpoint first
    },
    Presets.shades_classic,
  );
  const left = timeLeft(total);
  view.start(total, done, { text: 'starting', left: '?' });
  return {
    write: (metrics) => view.update(metrics.step, { text: describeStep(metrics), left: left(metrics) }),
    close: () => view.stop(),
  };
}

function lines({ label, total, done = 0, every }: ProgressOptions, stream: NodeJS.WriteStream): MetricsSink {
  const left = timeLeft(total);
  return {
    write: (metrics) => {
      const time = left(metrics);
      const due = metrics.step === done + 1 || metrics.step === total || metrics.step % every === 0;
      if (!due && metrics.evalLoss === undefined) return;
      stream.write(`${label} step ${metrics.step}/${total} | ${describeStep(metrics)} | ${time} left\n`);
    },
    close: () => {},
  };
}

function describeStep(metrics: StepMetrics): string {
  const parts = [
    `loss ${metrics.loss.toFixed(4)}`,
    `lr ${metrics.lr.toExponential(2)}`,
    `${Math.round(metrics.tokensPerSecond).toLocaleString('en-US')} tokens/s`,
  ];
  if (metrics.lossScale !== undefined) parts.push(`scale ${metrics.lossScale}, ${metrics.skippedSteps} skipped`);
  if (metrics.evalLoss !== undefined) parts.push(`eval loss ${metrics.evalLoss.toFixed(4)}`);
  return parts.join(' | ');
}

/** Seconds left by the mean pace of this run's steps so far. */
function timeLeft(total: number): (metrics: StepMetrics) => string {
  let first: StepMetrics | undefined;
  return (metrics) => {
    first ??= metrics;
    const steps = metrics.step - first.step;
    if (metrics.step === total) return '0s';
    return steps === 0 ? '?' : duration(((metrics.time - first.time) / steps) * (total - metrics.step));
  };
}

/** 75 -> `1m15s`. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}m${String(whole % 60).padStart(2, '0')}s`;
  return `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, '0')}m`;
}
