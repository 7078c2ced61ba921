// Greedy generation by a GPT-2 of 124 M parameters, 32 tokens in, 128 out, against Python's ways: transformers' generate
// (also with a static cache) and the architecture written out over torch with a static cache. The goals, of the best of
// them: 1.8 times the tokens a second in fp32 and 2.5 in bf16 at batch 1, 1.5 at batch 16. The limit is reading the weights once a
// token; its share is printed against a plain copy (bytes read and written) of the same run.
// SHARDLOOP_BENCH_ROUNDS sets how many rounds are taken (5), SHARDLOOP_BENCH_CASES which cases (default all:
// `fp32-1,bf16-1,fp32-16,bf16-16`), SHARDLOOP_BENCH_THREADS the threads of each (2), SHARDLOOP_BENCH_PEERS Python's
// ways (`generate,loop`; `static` and `compiled` are there too, the last one needs a C++ compiler and minutes).
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { data, GPT2LMHeadModel, manualSeed, ones, ops, saveModel, setNumThreads, zeros } from 'shardloop';
import { compare, medianOf, oraclePython, print, type Report, type Timing } from './harness.js';
import { startRanks } from './rank-pair.js';

const ROUNDS = Number(process.env.SHARDLOOP_BENCH_ROUNDS ?? 5);
const CASES = (process.env.SHARDLOOP_BENCH_CASES ?? 'fp32-1,bf16-1,fp32-16,bf16-16').split(',');
const THREADS = process.env.SHARDLOOP_BENCH_THREADS ?? '2';
const PEERS = (process.env.SHARDLOOP_BENCH_PEERS ?? 'generate,loop').split(',');
const [PROMPT, FRESH] = [32, 128];

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** Runs the benchmark and prints it. */
export async function generation(json: boolean): Promise<Report> {
  const timings: Timing[] = [];
  const ratios: Record<string, number> = {};
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-bench-'));
  try {
    manualSeed(1);
    const model = new GPT2LMHeadModel({});
    const parameters = model.parameters().reduce((sum, t) => sum + t.numel, 0);
    await saveModel(model, folder, { tokenizer: data.byteTokenizer() });
    model.dispose();
    const bandwidth = copyBandwidth();
    ratios['copy, GB/s'] = bandwidth / 1e9;
    for (const name of CASES) await runCase(name, folder, parameters, bandwidth, timings, ratios);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return print('generation', timings, ratios, json);
}

async function runCase(
  name: string,
  folder: string,
  parameters: number,
  bandwidth: number,
  timings: Timing[],
  ratios: Record<string, number>,
): Promise<void> {
  const [precision, rows] = name.split('-') as [string, string];
  if (!['fp32', 'bf16'].includes(precision) || !(Number(rows) > 0)) {
    throw new Error(`unknown case ${name}: expected fp32 or bf16, and -rows`);
  }
  const args = [folder, precision, THREADS, rows, String(PROMPT), String(FRESH)];
  const env = { OMP_NUM_THREADS: THREADS };
  const started = [
    startRanks(
      `${name} shardloop`,
      [[process.execPath, '--import', 'tsx', here('generation-process.ts'), 'shardloop', ...args]],
      env,
    ),
    ...PEERS.map((peer) =>
      startRanks(`${name} Python ${peer}`, [[oraclePython(), '-u', here('generation.py'), peer, ...args]], env),
    ),
  ];
  const results = await compare(
    started.map((process) => ({ name: process.name, run: (n: number) => process.run(`run ${n}`) })),
    { rounds: ROUNDS, iterations: 1, warmups: 1 },
  );
  const tokens = [];
  for (const process of started) {
    tokens.push(await process.run('tokens'));
    process.close();
  }
  if (precision === 'fp32' && new Set(tokens).size > 1) throw new Error(`${name}: the tokens differ: ${tokens}`);
  timings.push(...results);
  const ours = medianOf(results, started[0]!.name);
  const fastest = Math.min(...results.slice(1).map(({ median }) => median));
  ratios[`${name}: tokens/s, of the best of ${PEERS.length}`] = fastest / ours;
  ratios[`${name}: tokens/s`] = (FRESH * Number(rows) * 1e9) / ours;
  const bytes = parameters * (precision === 'fp32' ? 4 : 2);
  ratios[`${name}: reading of weights, of the copy`] = (bytes * FRESH * 1e9) / ours / bandwidth;
}

/** Bytes a second, read and written, of a copy that no cache holds. */
function copyBandwidth(): number {
  setNumThreads(Number(THREADS));
  const [from, to] = [ones([64 << 20]), zeros([64 << 20])];
  const times = Array.from({ length: 7 }, () => {
    const start = process.hrtime.bigint();
    ops.copy_(to, from);
    return Number(process.hrtime.bigint() - start);
  });
  for (const t of [from, to]) t.dispose();
  return (2 * 4 * (64 << 20) * 1e9) / times.toSorted((a, b) => a - b)[3]!;
}
