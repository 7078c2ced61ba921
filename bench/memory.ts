// What a rank holds when a model is sharded over two, against ZeRO's formulas (arXiv 1910.02054, with K = 12): in bf16
// with float32 masters and AdamW, P parameters take 4 P + 12 P / N bytes under stage 1, 2 P + 14 P / N under stage 2 and
// 16 P / N under stage 3. Rows of 8 tokens, so that activations are next to nothing. By our allocator's count, and by the
// kernel's: resident memory less that of the same process before the model, when it had trained a tiny one.
// The goal: at most 1.05 of the formula, the buckets and the largest segment; both counts within 5 % of each other.
// SHARDLOOP_BENCH_SHAPE is layers,width,heads,vocabulary (12,768,12,50257), SHARDLOOP_BENCH_BACKEND shm (default) or gloo.
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { freePort, type Goals, print, type Report } from './harness.js';
import type { Held, MemoryReport } from './memory-rank.js';

const SIZE = 2;
const BUCKET = 16 * 2 ** 20; // the default of zero()
const MICRO_BATCHES = 2; // so that stage 1 has whole gradients while it computes
const SHAPE = (process.env.SHARDLOOP_BENCH_SHAPE ?? '12,768,12,50257').split(',');
const BACKEND = process.env.SHARDLOOP_BENCH_BACKEND ?? 'shm';

/** Bytes a parameter at the fullest moment, and how many copies in half precision the largest segment has besides. */
const FORMULAS = {
  1: { bytes: 4 + 12 / SIZE, copies: 1 }, // the gradient that its backward has just made
  2: { bytes: 2 + 14 / SIZE, copies: 1 },
  3: { bytes: 16 / SIZE, copies: 2 }, // and the gathered parameters
} as const;

/** What the benchmark found of one stage, in bytes; of two ranks the larger number. */
interface StageResult {
  readonly stage: number;
  readonly parameters: number;
  readonly formula: number;
  /** Of the peak: 1.05 of the formula, the buckets, and the largest segment. */
  readonly bound: number;
  readonly moments: Record<string, Held>;
}

/** Runs the benchmark and prints it. */
export async function memory(json: boolean): Promise<Report> {
  const results: StageResult[] = [];
  const ratios: Record<string, number> = {};
  const goals: Goals = {};
  for (const stage of [1, 2, 3] as const) {
    const ranks = await startRanks(stage);
    const { parameters, largest, moments } = ranks[0]!;
    const { bytes, copies } = FORMULAS[stage];
    const formula = bytes * parameters;
    const buckets = 2 * (BUCKET + BUCKET / SIZE); // two take turns, each with what it receives
    const most = Object.keys(moments).map((name) => {
      const held = ranks.map((rank) => rank.moments[name]!);
      const of = (kind: keyof Held) => Math.max(...held.map((one) => one[kind]));
      return [name, { counted: of('counted'), resident: of('resident') }] as const;
    });
    const bound = 1.05 * formula + buckets + copies * 2 * largest;
    const result = { stage, parameters, formula, bound, moments: Object.fromEntries(most) };
    results.push(result);
    if (!json) printStage(result);
    const { counted, resident } = result.moments['two more steps, peak']!;
    const [ofBound, ofCount] = [`stage ${stage}: peak, of the bound`, `stage ${stage}: resident, of the count`];
    Object.assign(ratios, {
      [`stage ${stage}: peak MB`]: counted / 1e6,
      [`stage ${stage}: formula MB`]: formula / 1e6,
    });
    Object.assign(ratios, { [ofBound]: counted / bound, [ofCount]: resident / counted });
    Object.assign(goals, { [ofBound]: { atMost: 1 }, [ofCount]: { atMost: 1.05 } });
  }
  return print('memory', [], ratios, json, goals, results);
}

async function startRanks(stage: number): Promise<MemoryReport[]> {
  const port = await freePort();
  const program = fileURLToPath(new URL('memory-rank.ts', import.meta.url));
  const ranks = Array.from({ length: SIZE }, (_, rank) => {
    const args = [stage, ...SHAPE, 8, MICRO_BATCHES, BACKEND, rank, SIZE, port].map(String);
    // A small young generation: else JavaScript's own heap moves by some 30 MB.
    const child = spawn(
      process.execPath,
      ['--expose-gc', '--max-semi-space-size=2', '--import', 'tsx', program, ...args],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    let text = '';
    child.stdout.on('data', (chunk: Buffer) => (text += chunk));
    return new Promise<MemoryReport>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code) => {
        if (code === 0) resolve(JSON.parse(text));
        else reject(new Error(`rank ${rank} of stage ${stage} ended with code ${code}`));
      });
    });
  });
  return Promise.all(ranks);
}

function printStage({ stage, parameters, formula, bound, moments }: StageResult): void {
  const mb = (bytes: number) => (bytes / 1e6).toFixed(1).padStart(9);
  const share = (a: number, b: number) => (b < 1e6 ? '' : (a / b).toFixed(3)).padStart(9);
  console.log(`stage ${stage}: ${(parameters / 1e6).toFixed(1)} M parameters, ${SIZE} ranks, ${BACKEND}`);
  console.log(`  formula ${mb(formula)} MB; with 5 %, buckets and the largest segment ${mb(bound)} MB`);
  console.log(`  ${''.padEnd(26)}  counted / formula   resident / counted`);
  for (const [name, { counted, resident }] of Object.entries(moments)) {
    const numbers = [mb(counted), share(counted, formula), mb(resident), share(resident, counted)];
    console.log(`  ${name.padEnd(26)}${numbers.join(' ')}`);
  }
}
