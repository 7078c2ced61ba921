// Greedy generation by a GPT-2 of 124 M parameters, 32 tokens in, 128 out, against Python's ways: transformers' generate
// (also with a static cache, and compiled) and the architecture written out over torch with a static cache. The goals, of the best of
// them: 1.8 times the tokens a second in fp32 and 2.5 in bf16 at batch 1, 1.5 at batch 16. The limit is reading the weights once a
// token; its share is printed against a plain copy (bytes read and written) of the same run.
// SHARDLOOP_BENCH_ROUNDS sets how many rounds are taken (3), SHARDLOOP_BENCH_CASES which cases (default all:
// `fp32-1,bf16-1,fp32-16,bf16-16`), SHARDLOOP_BENCH_THREADS the threads of each (all), SHARDLOOP_BENCH_PEERS Python's
// ways (`generate,compiled,loop`; `static` is there too; `compiled` needs a C++ compiler).
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { contest, SHAPES, withModel } from './contest.js';
import { type Goals, oraclePython, print, type Report, type Timing } from './harness.js';
import { measureLimits } from './limits.js';

const ROUNDS = Number(process.env.SHARDLOOP_BENCH_ROUNDS ?? 3);
const CASES = (process.env.SHARDLOOP_BENCH_CASES ?? 'fp32-1,bf16-1,fp32-16,bf16-16').split(',');
const THREADS = process.env.SHARDLOOP_BENCH_THREADS ?? String(availableParallelism());
const PEERS = (process.env.SHARDLOOP_BENCH_PEERS ?? 'generate,compiled,loop').split(',');
const [PROMPT, FRESH] = [32, 128];
const POSITIONS = 1024;
const PARAMETERS = 124_439_808; // of GPT-2 with as many positions

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** Runs the benchmark and prints it. */
export async function generation(json: boolean): Promise<Report> {
  const timings: Timing[] = [];
  const ratios: Record<string, number> = {};
  const goals: Goals = {};
  const { copy } = measureLimits();
  ratios['copy, GB/s'] = copy / 1e9;
  await withModel(SHAPES['124m']!, POSITIONS, async (folder) => {
    for (const name of CASES) {
      const [precision, rows] = name.split('-') as [string, string];
      if (!['fp32', 'bf16'].includes(precision) || !(Number(rows) > 0)) {
        throw new Error(`unknown case ${name}: expected fp32 or bf16, and -rows`);
      }
      const args = [folder, precision, THREADS, rows, String(PROMPT), String(FRESH)];
      const env = { OMP_NUM_THREADS: THREADS };
      const ours = [process.execPath, '--import', 'tsx', here('generation-process.ts'), ...args];
      const contestants = [
        { label: 'shardloop', commands: [ours], env },
        ...PEERS.map((peer) => ({
          ...{ label: `Python ${peer}`, env },
          commands: [[oraclePython(), '-u', here('generation.py'), peer, ...args]],
        })),
      ];
      // In half precision the ways round at different places, and two tokens may be as likely as each other.
      const tolerance = precision === 'fp32' ? 0 : Number.POSITIVE_INFINITY;
      const outcome = await contest(name, contestants, { rounds: ROUNDS, steps: 1, tolerance });
      timings.push(...outcome.timings);
      const speed = `${name}: tokens/s, of ${outcome.fastest}'s`;
      ratios[speed] = 1 / outcome.time;
      goals[speed] = { atLeast: rows !== '1' ? 1.5 : precision === 'fp32' ? 1.8 : 2.5 };
      const seconds = outcome.timings[0]!.median / 1e9;
      ratios[`${name}: tokens/s`] = (FRESH * Number(rows)) / seconds;
      ratios[`${name}: reading of weights, of the copy`] =
        (PARAMETERS * (precision === 'fp32' ? 4 : 2) * FRESH) / seconds / copy;
      ratios[`${name}: peak memory, of the least of Python`] = outcome.memory;
    }
  });
  return print('generation', timings, ratios, json, goals);
}
