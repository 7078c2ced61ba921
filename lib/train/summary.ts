// The table at the end of a run, and the numbers in it.
import Table from 'cli-table3';
import type { MemoryUse } from './memory-ledger.js';
import type { Plan } from './plan.js';
import { duration } from './progress.js';

/** What a run came to. `--json` prints it; run.json holds it as `result`. */
export interface RunSummary {
  command: 'pretrain' | 'finetune';
  /** The adapter or model folder; absent after a dry run. */
  result?: string;
  steps: number;
  /** Labelled tokens trained on, over all ranks. This and the next three count what was before a resume too. */
  tokens: number;
  seconds: number;
  firstLoss?: number;
  loss: number;
  evalLossBefore?: number;
  evalLoss?: number;
  evalPerplexity?: number;
  parameters: number;
  trainable: number;
  ranks: number;
  /** Conversations that were cut to the sequence length, or left out for their length (finetune). */
  truncated?: number;
  skipped?: number;
  /** What was told on the way: checkpoints set aside, settings that changed with a resume, records cut. */
  notes?: string[];
  /** Bytes of this rank's tensors by kind. */
  memory?: MemoryUse;
  /** The mean over this process's steps of the share of the device's measured peak that the model's products took. */
  utilization?: number;
  /** Present after a dry run. */
  plan?: Plan;
}

/** A short table for people. */
export function summaryTable(summary: RunSummary): string {
  const table = new Table({ style: { head: [], border: [] }, colAligns: ['left', 'left'] });
  const share = ((100 * summary.trainable) / summary.parameters).toFixed(2);
  const rows: [string, string | undefined][] = [
    ['parameters', `${count(summary.parameters)}, of which ${count(summary.trainable)} train (${share}%)`],
    ...planRows(summary.plan),
    ['steps', summary.plan ? `1 of ${count(summary.plan.steps)} (dry run)` : count(summary.steps)],
    ['loss', summary.firstLoss === undefined ? undefined : `${nats(summary.firstLoss)} -> ${nats(summary.loss)}`],
    ['held-out loss', evaluations(summary)],
    ['time', `${duration(summary.seconds)}, ${count(Math.round(summary.tokens / summary.seconds))} labelled tokens/s`],
    ['memory a rank', memoryRow(summary.memory)],
    [
      'utilization',
      summary.utilization === undefined ? undefined : `${(100 * summary.utilization).toFixed(0)}% of peak`,
    ],
    ['result', summary.result],
  ];
  for (const [name, value] of rows) if (value !== undefined) table.push([name, value]);
  return table.toString();
}

function planRows(plan: Plan | undefined): [string, string][] {
  if (!plan) return [];
  return [
    ['records', `${count(plan.records)} to train on, ${count(plan.evalRecords)} held out${lengths(plan)}`],
    ['global batch', `${plan.microBatch} x ${plan.gradAccum} x ${plan.ranks} = ${plan.globalBatch} records a step`],
    ['tokens', `${count(plan.tokens)} a pass, ${count(plan.labelledTokens)} of them labelled`],
  ];
}

function memoryRow(memory: MemoryUse | undefined): string | undefined {
  if (!memory) return undefined;
  return Object.entries(memory)
    .map(([kind, bytes]) => `${kind} ${mebibytes(bytes)}`)
    .join(', ');
}

function lengths({ truncated = 0, skipped = 0 }: Plan): string {
  const cut = truncated > 0 ? `, ${count(truncated)} cut to the sequence length` : '';
  return skipped > 0 ? `${cut}, ${count(skipped)} left out for their length` : cut;
}

function evaluations({ evalLossBefore, evalLoss, evalPerplexity }: RunSummary): string | undefined {
  if (evalLoss === undefined) return undefined;
  const before = evalLossBefore === undefined ? '' : `${nats(evalLossBefore)} -> `;
  return `${before}${nats(evalLoss)} (perplexity ${evalPerplexity?.toFixed(2)})`;
}

const count = (n: number) => n.toLocaleString('en-US');
const nats = (n: number) => n.toFixed(4);
const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
