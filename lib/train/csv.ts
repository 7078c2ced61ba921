// metrics.csv: the metrics of a run for spreadsheets, a row a step, columns as in metrics.jsonl.
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, truncateSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import type { MetricsSink, StepMetrics } from './metrics.js';

const COLUMNS = [
  ...(['step', 'epoch', 'loss', 'lr', 'tokens', 'time', 'gradNorm', 'tokensPerSecond'] as const),
  ...(['utilization', 'memoryPeak', 'evalLoss', 'evalPerplexity', 'lossScale', 'skippedSteps'] as const),
] satisfies readonly (keyof StepMetrics)[];
const HEADER = `${COLUMNS.join(',')}\n`;

/** The file metrics.csv; begins anew, or keeps the rows up to `resumedStep`. What is not known is empty. */
export function csvSink(path: string, resumedStep = 0): MetricsSink {
  mkdirSync(dirname(path), { recursive: true });
  const rows = existsSync(path) ? readFileSync(path, 'utf8').split('\n').slice(1, -1) : [];
  const kept = resumedStep > 0 ? rows.filter((row) => Number.parseInt(row, 10) <= resumedStep) : [];
  const file = openSync(path, 'a');
  truncateSync(path);
  writeSync(file, [HEADER, ...kept.map((row) => `${row}\n`)].join(''));
  return {
    write: (metrics) => {
      writeSync(file, `${COLUMNS.map((column) => metrics[column] ?? '').join(',')}\n`);
    },
    close: () => closeSync(file),
  };
}
