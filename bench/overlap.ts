// How much of the communication of a training step on two ranks with one thread each is hidden behind compute: GPT-2 of 124 M
// parameters in fp32 with AdamW, rows of 256 tokens, by the timeline of two steps a round (dist.communicationLog: the share of
// the time with a collective on its way in which a rank did not wait for it). The goal: at least 0.7.
// SHARDLOOP_BENCH_CASES are the cases (default all: replicate, stage1, stage2 and stage3, each with -shm and -gloo, and rows a
// rank: -1 and -4), SHARDLOOP_BENCH_ROUNDS how many rounds (3), SHARDLOOP_BENCH_SHAPE layers,width,heads,vocabulary.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { dist } from 'shardloop';
import { SHAPES, withModel } from './contest.js';
import { freePort, type Goals, print, type Report, summarize, type Timing } from './harness.js';
import { startRanks } from './rank-pair.js';

const SIZE = 2;
const LENGTH = 256;
const STEPS = 2;
const ROUNDS = Number(process.env.SHARDLOOP_BENCH_ROUNDS ?? 3);

/** The strategies, as training-process.ts calls them. */
const WAYS: Record<string, string> = { replicate: 'ddp', stage1: 'zero1', stage2: 'zero2', stage3: 'zero3' };
const BACKENDS = ['shm', 'gloo'];
const ALL = Object.keys(WAYS).flatMap((way) =>
  BACKENDS.flatMap((via) => [1, 4].map((rows) => `${way}-${via}-${rows}`)),
);
const CASES = process.env.SHARDLOOP_BENCH_CASES?.split(',') ?? ALL;

/** What a case is. */
interface Work {
  readonly way: string;
  readonly backend: string;
  /** Of 256 tokens, a rank. */
  readonly rows: number;
}

/** One wait of a step, on the mean rank and step. */
interface Wait {
  /** The operation, and what the rank computed last. */
  readonly where: string;
  readonly ms: number;
}

/** Runs the benchmark and prints it. */
export async function overlap(json: boolean): Promise<Report> {
  const timings: Timing[] = [];
  const ratios: Record<string, number> = {};
  const goals: Goals = {};
  const details: Record<string, Wait[]> = {};
  const cases = CASES.map((name) => ({ name, ...read(name) }));
  await withModel(shape(), LENGTH, async (folder) => {
    for (const { name, ...work } of cases) {
      const rounds = await measure(folder, name, work);
      const waits = waitsOf(rounds.flatMap(({ ranks }) => ranks));
      const hidden = rounds.map(({ ranks }) => dist.communicationLog(ranks).hidden);
      timings.push(
        summarize(
          name,
          rounds.map(({ time }) => time),
        ),
      );
      ratios[`${name}: hidden, of the communication`] = summarize(name, hidden).median;
      ratios[`${name}: ms of waits, a step`] = waits.reduce((sum, { ms }) => sum + ms, 0);
      goals[`${name}: hidden, of the communication`] = { atLeast: 0.7 };
      details[name] = waits;
      if (json) continue;
      console.log(`${name}: hidden ${hidden.map((share) => share.toFixed(2)).join(' ')}; waits of a step`);
      for (const { where, ms } of waits.filter(({ ms }) => ms >= 1))
        console.log(`${ms.toFixed(1).padStart(9)} ms  ${where}`);
    }
  });
  return print('overlap', timings, ratios, json, goals, details);
}

function read(name: string): Work {
  const [way = '', backend = '', rows] = name.split('-');
  if (!(way in WAYS) || !BACKENDS.includes(backend) || !(Number(rows) >= 1)) {
    throw new Error(`unknown case ${name}: expected ${Object.keys(WAYS).join(', ')}, -shm or -gloo, and -ROWS`);
  }
  return { way: WAYS[way]!, backend, rows: Number(rows) };
}

function shape() {
  const asked = process.env.SHARDLOOP_BENCH_SHAPE?.split(',').map(Number);
  if (asked === undefined) return SHAPES['124m']!;
  const [n_layer, n_embd, n_head, vocab_size] = asked as [number, number, number, number];
  return { n_layer, n_embd, n_head, vocab_size };
}

/** A first step, and then {@link ROUNDS} timelines: nanoseconds of a step, and what each rank did. */
async function measure(folder: string, name: string, { way, backend, rows }: Work) {
  const port = await freePort();
  const program = fileURLToPath(new URL('training-process.ts', import.meta.url));
  const commands = Array.from({ length: SIZE }, (_, rank) =>
    [process.execPath, '--import', 'tsx', program, way, folder, 'fp32', 'all', rows, LENGTH, 1, rank, SIZE, port].map(
      String,
    ),
  );
  const ranks = startRanks(name, commands, { SHARDLOOP_BENCH_BACKEND: backend });
  try {
    await ranks.run('step 1'); // buckets and states are made
    const rounds: { time: number; ranks: dist.RankTimeline[] }[] = [];
    const file = join(folder, 'timeline.json');
    for (let round = 0; round < ROUNDS; round++) {
      const time = await ranks.run(`timeline ${STEPS} ${file}`);
      rounds.push({ time, ranks: JSON.parse(readFileSync(file, 'utf8')) });
    }
    return rounds;
  } finally {
    ranks.close();
  }
}

/** The waits of a step by operation and place, the longest first. */
function waitsOf(timelines: readonly dist.RankTimeline[]): Wait[] {
  const total = new Map<string, number>();
  for (const { spans } of timelines) {
    let last = 'optimizer'; // of the step before
    for (const { track, name, start, end } of spans.toSorted((a, b) => a.start - b.start)) {
      if (track === 'compute') last = name;
      if (track !== 'wait') continue;
      const where = `${name} behind ${last}`;
      total.set(where, (total.get(where) ?? 0) + (end - start) / 1e6);
    }
  }
  return [...total].map(([where, ms]) => ({ where, ms: ms / timelines.length / STEPS })).sort((a, b) => b.ms - a.ms);
}
