// A training step in one process on all cores, of the whole model or of a LoRA adapter (rank 8, all linear layers), every
// position labelled, against Python's torch and transformers (and peft): the better of eager and compiled, in bf16 of autocast
// and of bf16 weights. SHARDLOOP_BENCH_ROUNDS sets how many rounds are taken (3), SHARDLOOP_BENCH_CASES which cases.
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { addLora, loadModel, manualSeed, saveAdapter } from 'shardloop';
import { type Contestant, contest, SHAPES, type Shape, withModel } from './contest.js';
import { type Goals, oraclePython, print, type Report, type Timing } from './harness.js';
import { measureLimits } from './limits.js';

const ROUNDS = Number(process.env.SHARDLOOP_BENCH_ROUNDS ?? 3);
const LENGTH = 256;

/** `rows` of 256 tokens a step; the goals are of Python's best. */
const CASES = {
  '10m-fp32': { rows: 12, steps: 2, goals: { time: 0.88, memory: 0.6 } },
  '10m-bf16': { rows: 12, steps: 2, goals: { time: 0.72, memory: 0.6 } },
  '124m-fp32': { rows: 2, steps: 1, goals: { time: 0.78, memory: 0.75 } },
  '124m-bf16': { rows: 2, steps: 1, goals: { time: 0.75, memory: 0.8 } },
  '124m-fp32-lora': { rows: 2, steps: 1, goals: { time: 0.8, memory: 0.6 } },
  '124m-bf16-lora': { rows: 2, steps: 1, goals: { time: 0.75, memory: 0.6 } },
} as const;

// Losses behind the same number of steps. In float32 only the order of sums differs. In bf16 the ways round at different
// places, and bf16 weights without fp32 masters (one of Python's ways) lose small updates.
const TOLERANCE = { fp32: 1e-3, bf16: 2e-2 } as const;

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** Runs the benchmark and prints it. */
export async function step(json: boolean): Promise<Report> {
  const timings: Timing[] = [];
  const ratios: Record<string, number> = {};
  const goals: Goals = {};
  const threads = availableParallelism();
  for (const name of (process.env.SHARDLOOP_BENCH_CASES ?? Object.keys(CASES).join()).split(',')) {
    if (!(name in CASES)) throw new Error(`unknown case ${name}: expected one of ${Object.keys(CASES).join(', ')}`);
    const { rows, steps, goals: wanted } = CASES[name as keyof typeof CASES];
    const [model, precision, lora] = name.split('-') as [string, 'fp32' | 'bf16', string?];
    const shape = SHAPES[model]!;
    const outcome = await withModel(shape, LENGTH, async (folder) => {
      if (lora) await makeAdapter(folder);
      const ways =
        precision === 'fp32' ? ['eager', 'compiled'] : ['eager', 'compiled', 'autocast', 'autocast-compiled'];
      const args = [folder, precision, lora ?? 'all', rows, LENGTH, threads].map(String);
      const env = { OMP_NUM_THREADS: String(threads) };
      const contestants: Contestant[] = [
        {
          label: 'shardloop',
          commands: [[process.execPath, '--import', 'tsx', here('training-process.ts'), 'alone', ...args]],
          env,
        },
        ...ways.map((way) => ({
          ...{ label: `Python ${way}`, env },
          // AdamW on bf16 weights without fp32 masters, where all of them train.
          lossy: precision === 'bf16' && !lora && !way.startsWith('autocast'),
          commands: [[oraclePython(), '-u', here('step.py'), way, ...args]],
        })),
      ];
      return contest(name, contestants, { rounds: ROUNDS, steps, tolerance: TOLERANCE[precision] });
    });
    timings.push(...outcome.timings);
    console.error(
      `${name}: losses ${Object.values(outcome.checks)
        .map((loss) => loss.toFixed(4))
        .join(' ')}`,
    );
    const time = `${name}: time, of ${outcome.fastest}'s`;
    const memory = `${name}: peak memory, of the least of Python`;
    ratios[time] = outcome.time;
    ratios[memory] = outcome.memory;
    goals[time] = { atMost: wanted.time };
    goals[memory] = { atMost: wanted.memory };
    for (const [label, peak] of Object.entries(outcome.peaks)) ratios[`${name} ${label}: peak MB`] = peak / 1e6;
    const seconds = outcome.timings[0]!.median / 1e9;
    ratios[`${name}: the machine's limit, of our time`] = floorOf(shape, rows, precision, lora !== undefined) / seconds;
  }
  return print('step', timings, ratios, json, goals);
}

/** The adapter that all contenders train, in a folder beside the model's files. */
async function makeAdapter(folder: string): Promise<void> {
  const { model } = await loadModel(folder);
  manualSeed(1);
  addLora(model, { rank: 8, alpha: 16 });
  await saveAdapter(model, join(folder, 'adapter'));
  model.dispose();
}

/**
 * Seconds that the step takes at least: its matrix products at the rate that this machine reaches on their shapes, and the
 * optimizer's memory read and written once at the speed of a copy.
 */
function floorOf(shape: Shape, rows: number, precision: 'fp32' | 'bf16', lora: boolean): number {
  const { n_layer: L, n_embd: C, vocab_size: V } = shape;
  const N = rows * LENGTH;
  const { products, copy } = measureLimits();
  const inner = 12 * C * C * L; // of weights that are multiplied, without the head
  // Forward, and backward to the inputs; to the weights only where they train.
  const passes = lora ? 2 : 3;
  const body = passes * 2 * N * inner;
  const head = passes * 2 * N * V * C;
  const attention = passes * 2 * N * LENGTH * C * L; // scores and sums, half of each under the diagonal
  const block = products(precision, [N, C, 4 * C]);
  const parameters = inner + V * C;
  // Parameter, gradient and two moments read, three of them written, 4 bytes each; in bf16 a master more and halves.
  const bytes = lora ? 0 : parameters * (precision === 'fp32' ? 28 : 30);
  return (body + attention) / block + head / products(precision, [N, C, V]) + bytes / copy;
}
