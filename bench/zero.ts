// A training step on two ranks with one thread each, replicated and sharded, against Python's DDP, ZeroRedundancyOptimizer
// and fully_shard (and DeepSpeed, where the environment has it) from the same weights on the same tokens. The goals: 1.15
// times the tokens a second of the best one of the same kind, at most 0.75 of its peak memory.
// SHARDLOOP_BENCH_ROUNDS sets how many rounds are taken (5), SHARDLOOP_BENCH_CASES which cases (default `10m-fp32,10m-bf16`).
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { SHAPES, withModel } from './contest.js';
import { compare, freePort, medianOf, oraclePython, print, type Report, type Timing } from './harness.js';
import { type Ranks, startRanks } from './rank-pair.js';

const SIZE = 2;
const ROUNDS = Number(process.env.SHARDLOOP_BENCH_ROUNDS ?? 5);

/** Rows a rank, each of 256 tokens, and steps a round. */
const WORK: Record<string, { rows: number; steps: number }> = {
  '10m': { rows: 6, steps: 2 },
  '124m': { rows: 1, steps: 1 },
};
const LENGTH = 256;
const CASES = (process.env.SHARDLOOP_BENCH_CASES ?? '10m-fp32,10m-bf16').split(',');

/** Which of Python's ways does the same as ours. */
const PEERS: Record<string, string[]> = {
  ddp: ['ddp'],
  zero1: ['zero1', 'deepspeed1'],
  zero2: ['zero1', 'deepspeed2'],
  zero3: ['fsdp2', 'deepspeed3'],
};

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** Runs the benchmark and prints it. */
export async function zero(json: boolean): Promise<Report> {
  const timings: Timing[] = [];
  const ratios: Record<string, number> = {};
  for (const name of CASES) await runCase(name, timings, ratios);
  return print('zero', timings, ratios, json);
}

async function runCase(name: string, timings: Timing[], ratios: Record<string, number>): Promise<void> {
  const [model, precision] = name.split('-') as [string, string];
  const work = WORK[model];
  if (!work) throw new Error(`unknown case ${name}: expected ${Object.keys(WORK).join(' or ')} and -fp32 or -bf16`);
  await withModel(SHAPES[model]!, LENGTH, async (folder) => {
    const peak = new Map<string, number>();
    // One contender's ranks at a time are on the machine: their memory would not fit side by side.
    for (const way of Object.keys(PEERS)) {
      const contenders = [
        { label: `shardloop ${way}`, line: [process.execPath, '--import', 'tsx', here('training-rank.ts'), way] },
        ...PEERS[way]!.filter((peer) => !peer.startsWith('deepspeed') || hasDeepSpeed()).map((peer) => ({
          label: `Python ${peer}`,
          line: [oraclePython(), '-u', here('training.py'), peer],
        })),
      ];
      const started: Ranks[] = [];
      for (const { label, line } of contenders) {
        const port = String(await freePort());
        const ranks = Array.from({ length: SIZE }, (_, rank) =>
          [...line, folder, precision, work.rows, LENGTH, rank, SIZE, port].map(String),
        );
        started.push(startRanks(`${name} ${label}`, ranks));
      }
      const results = await compare(
        started.map((ranks) => ({ name: `${ranks.name} (${way})`, run: (n: number) => ranks.run(`step ${n}`) })),
        { rounds: ROUNDS, iterations: work.steps, warmups: 1 },
      );
      const losses = [];
      for (const ranks of started) {
        losses.push(await ranks.run('loss'));
        peak.set(`${ranks.name} (${way})`, await ranks.run('memory'));
        ranks.close();
      }
      timings.push(...results);
      console.error(`${name} ${way}: losses ${losses.map((loss) => loss.toFixed(4)).join(' ')}`);
      const ours = results[0]!.name;
      const peers = results.slice(1).map((timing) => timing.name);
      const fastest = Math.min(...peers.map((peer) => medianOf(results, peer)));
      ratios[`${name} ${way}: tokens/s, of the best of ${peers.length}`] = fastest / medianOf(results, ours);
      ratios[`${name} ${way}: peak memory, of the least`] =
        peak.get(ours)! / Math.min(...peers.map((peer) => peak.get(peer)!));
      for (const label of [ours, ...peers]) ratios[`${label}: peak MB`] = peak.get(label)! / 1e6;
    }
  });
}

let deepSpeed: boolean | undefined;
function hasDeepSpeed(): boolean {
  deepSpeed ??= spawnSync(oraclePython(), ['-c', 'import deepspeed']).status === 0;
  return deepSpeed;
}
