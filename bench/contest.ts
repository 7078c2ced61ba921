// The same work done by several contenders, each in processes of its own that answer commands on stdin (rank-pair.ts):
// `step N` with the nanoseconds of one of N, `check` with a number that must agree (a loss), `memory` with the peak of
// resident bytes.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { data, GPT2LMHeadModel, manualSeed, saveModel } from 'shardloop';
import { compare, medianOf, type Timing } from './harness.js';
import { startRanks } from './rank-pair.js';

/** One way to do the work; the first of a {@link contest} is ours. */
export interface Contestant {
  readonly label: string;
  /** A command line for each of its processes. */
  readonly commands: readonly (readonly string[])[];
  readonly env?: NodeJS.ProcessEnv;
  /** Its states have less precision than ours, so that its memory does not count. */
  readonly lossy?: boolean;
}

/** What a {@link contest} found. */
export interface Outcome {
  readonly timings: Timing[];
  /** Our time over that of the fastest other. */
  readonly time: number;
  /** Our peak memory a process over that of the least other of as precise states. */
  readonly memory: number;
  readonly fastest: string;
  /** Bytes, by label. */
  readonly peaks: Readonly<Record<string, number>>;
  /** What `check` answered, by label. */
  readonly checks: Readonly<Record<string, number>>;
}

/**
 * Runs the contestants in turns, and throws when a `check` differs from ours by more than `tolerance`, relatively: such times
 * are not of the same work.
 */
export async function contest(
  name: string,
  contestants: readonly Contestant[],
  options: { rounds: number; steps: number; tolerance: number },
): Promise<Outcome> {
  const started = contestants.map(({ label, commands, env }) => startRanks(`${name} ${label}`, commands, env));
  const peaks: Record<string, number> = {};
  const checks: Record<string, number> = {};
  let timings: Timing[];
  try {
    timings = await compare(
      started.map((ranks) => ({ name: ranks.name, run: (n: number) => ranks.run(`step ${n}`) })),
      { rounds: options.rounds, iterations: options.steps, warmups: 1 },
    );
    for (const [i, ranks] of started.entries()) {
      checks[contestants[i]!.label] = await ranks.run('check');
      peaks[contestants[i]!.label] = await ranks.run('memory');
    }
  } finally {
    for (const ranks of started) ranks.close();
  }
  const exact = contestants.slice(1).filter(({ lossy }) => !lossy);
  const [ours, ...others] = contestants.map(({ label }) => label) as [string, ...string[]];
  for (const other of others) {
    const apart = Math.abs(checks[other]! / checks[ours]! - 1);
    if (apart <= options.tolerance) continue;
    throw new Error(`${name}: ${other} found ${checks[other]}, ours ${checks[ours]}: not the same work`);
  }
  const time = (label: string) => medianOf(timings, `${name} ${label}`);
  const fastest = others.toSorted((a, b) => time(a) - time(b))[0]!;
  return {
    ...{ timings, fastest, peaks, checks },
    time: time(ours) / time(fastest),
    memory: peaks[ours]! / Math.min(...exact.map(({ label }) => peaks[label]!)),
  };
}

/** A GPT-2 of these sizes without dropout. */
export interface Shape {
  readonly n_layer: number;
  readonly n_head: number;
  readonly n_embd: number;
  readonly vocab_size: number;
}

export const SHAPES: Readonly<Record<string, Shape>> = {
  '10m': { n_layer: 6, n_head: 6, n_embd: 384, vocab_size: 256 },
  '124m': { n_layer: 12, n_head: 12, n_embd: 768, vocab_size: 50257 },
};

/** Runs `work` with the folder of a model of this shape, which all contestants load; removes it afterwards. */
export async function withModel<T>(shape: Shape, positions: number, work: (folder: string) => Promise<T>): Promise<T> {
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-bench-'));
  try {
    manualSeed(1);
    const rates = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
    const made = new GPT2LMHeadModel({ ...shape, n_positions: positions, ...rates });
    await saveModel(made, folder, { tokenizer: data.byteTokenizer() });
    made.dispose();
    return await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
