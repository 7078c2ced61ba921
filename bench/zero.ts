// A training step on two ranks with one thread each, replicated and sharded, against Python's DDP, ZeroRedundancyOptimizer
// and fully_shard (and DeepSpeed, where the environment has it) from the same weights on the same tokens. The goals: 1.15
// times the tokens a second of the best one of the same kind, at most 0.75 of its peak memory.
// SHARDLOOP_BENCH_ROUNDS sets how many rounds are taken (3), SHARDLOOP_BENCH_CASES which cases (default all:
// `10m-fp32,10m-bf16,124m-fp32,124m-bf16`), SHARDLOOP_BENCH_WAYS which of ddp, zero1, zero2 and zero3.
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { contest, SHAPES, withModel } from './contest.js';
import { freePort, type Goals, oraclePython, print, type Report, type Timing } from './harness.js';

const SIZE = 2;
const ROUNDS = Number(process.env.SHARDLOOP_BENCH_ROUNDS ?? 3);

/** Rows a rank, each of 256 tokens, and steps a round. */
const WORK: Record<string, { rows: number; steps: number }> = {
  '10m': { rows: 6, steps: 2 },
  '124m': { rows: 1, steps: 1 },
};
const LENGTH = 256;
const CASES = (process.env.SHARDLOOP_BENCH_CASES ?? '10m-fp32,10m-bf16,124m-fp32,124m-bf16').split(',');

/** Which of Python's ways does the same as ours. */
const PEERS: Record<string, string[]> = {
  ddp: ['ddp'],
  zero1: ['zero1', 'deepspeed1'],
  zero2: ['zero1', 'deepspeed2'],
  zero3: ['fsdp2', 'deepspeed3'],
};

const WAYS = process.env.SHARDLOOP_BENCH_WAYS?.split(',') ?? Object.keys(PEERS);

// As in step.ts: losses behind the same steps.
const TOLERANCE = { fp32: 1e-3, bf16: 2e-2 } as const;

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** Runs the benchmark and prints it. */
export async function zero(json: boolean): Promise<Report> {
  const timings: Timing[] = [];
  const ratios: Record<string, number> = {};
  const goals: Goals = {};
  for (const name of CASES) {
    const [model, precision] = name.split('-') as [string, 'fp32' | 'bf16'];
    const work = WORK[model];
    if (!work || !(precision in TOLERANCE))
      throw new Error(`unknown case ${name}: expected ${Object.keys(WORK).join(' or ')} and -fp32 or -bf16`);
    await withModel(SHAPES[model]!, LENGTH, async (folder) => {
      // One way after the other: the memory of all would not fit side by side.
      for (const way of WAYS) {
        const peers = PEERS[way]!.filter((peer) => !peer.startsWith('deepspeed') || hasDeepSpeed());
        const contestants = [
          { label: 'shardloop', line: [process.execPath, '--import', 'tsx', here('training-process.ts'), way] },
          ...peers.map((peer) => ({
            label: `Python ${peer}`,
            line: [oraclePython(), '-u', here('training.py'), peer],
          })),
        ].map(async ({ label, line }) => {
          const port = await freePort();
          const commands = Array.from({ length: SIZE }, (_, rank) =>
            [...line, folder, precision, 'all', work.rows, LENGTH, 1, rank, SIZE, port].map(String),
          );
          return { label, commands };
        });
        const outcome = await contest(`${name} ${way}`, await Promise.all(contestants), {
          ...{ rounds: ROUNDS, steps: work.steps, tolerance: TOLERANCE[precision] },
        });
        timings.push(...outcome.timings);
        const [speed, memory] = [`${name} ${way}: tokens/s, of ${outcome.fastest}'s`, `${name} ${way}: peak memory`];
        ratios[speed] = 1 / outcome.time;
        ratios[memory] = outcome.memory;
        goals[speed] = { atLeast: 1.15 };
        goals[memory] = { atMost: 0.75 };
        for (const [label, peak] of Object.entries(outcome.peaks))
          ratios[`${name} ${way} ${label}: peak MB`] = peak / 1e6;
        for (const [label, loss] of Object.entries(outcome.checks)) ratios[`${name} ${way} ${label}: loss`] = loss;
      }
    });
  }
  return print('zero', timings, ratios, json, goals);
}

let deepSpeed: boolean | undefined;
function hasDeepSpeed(): boolean {
  deepSpeed ??= spawnSync(oraclePython(), ['-c', 'import deepspeed']).status === 0;
  return deepSpeed;
}
