// The one harness of the benchmarks: contenders side by side, warmed up, run in turns in the same minutes, so that a busy
// machine disturbs all of them alike; medians and spread, a table, and JSON. What is measured stands in the other files.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { availableParallelism, cpus, homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { libtorchVersion } from 'shardloop';

/** One way to do the work. `run` does it `iterations` times and returns the nanoseconds that one took. */
export interface Contender {
  readonly name: string;
  run(iterations: number): number | Promise<number>;
}

export interface Timing {
  readonly name: string;
  /** Nanoseconds of one iteration: median, and the quarter and three-quarter points over the rounds. */
  readonly median: number;
  readonly low: number;
  readonly high: number;
  readonly rounds: number;
}

export interface Report {
  readonly benchmark: string;
  readonly cpu: string;
  readonly cores: number;
  readonly node: string;
  readonly libtorch: string;
  /** The most that one of the contenders ran. */
  readonly rounds: number;
  readonly timings: Timing[];
  /** Named quotients of medians, e.g. ours over Python's. */
  readonly ratios: Record<string, number>;
  /** What some of the ratios are to reach. */
  readonly goals: Goals;
  /** What the benchmark found besides, as it is. */
  readonly details?: unknown;
}

/** By the name of a ratio. */
export type Goals = Record<string, { readonly atMost: number } | { readonly atLeast: number }>;

/** Runs all contenders in turns: `rounds` rounds of `iterations` each, after `warmups` rounds that do not count. */
export async function compare(
  contenders: readonly Contender[],
  options: { rounds: number; iterations: number; warmups?: number },
): Promise<Timing[]> {
  const times = contenders.map(() => [] as number[]);
  const { rounds, iterations, warmups = 3 } = options;
  for (let round = -warmups; round < rounds; round++) {
    for (const [i, contender] of contenders.entries()) {
      const time = await contender.run(iterations);
      if (round >= 0) times[i]!.push(time);
    }
  }
  return contenders.map(({ name }, i) => summarize(name, times[i]!));
}

/** Median and quarter points of what the rounds took, in nanoseconds. */
export function summarize(name: string, times: readonly number[]): Timing {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (part: number) => sorted[Math.round(part * (sorted.length - 1))]!;
  return { name, median: at(0.5), low: at(0.25), high: at(0.75), rounds: times.length };
}

/** A port that nobody listens on. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

export function medianOf(timings: readonly Timing[], name: string): number {
  const found = timings.find((t) => t.name === name);
  if (!found) throw new Error(`no contender named ${name}`);
  return found.median;
}

/** Prints a report as a table, with a verdict where a ratio has a goal, or as one JSON object. */
export function print(
  benchmark: string,
  timings: Timing[],
  ratios: Record<string, number>,
  json: boolean,
  goals: Goals = {},
  details?: unknown,
): Report {
  const report: Report = {
    benchmark,
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: availableParallelism(),
    node: process.version,
    libtorch: libtorchVersion(),
    rounds: Math.max(0, ...timings.map((t) => t.rounds)),
    timings,
    ratios,
    goals,
    details,
  };
  if (json) {
    console.log(JSON.stringify(report, null, 2));
    return report;
  }
  const width = widest([...timings.map((t) => t.name), ...Object.keys(ratios)]);
  const us = (ns: number) => (ns / 1000).toFixed(3).padStart(9);
  console.log(`${benchmark}: ${report.cpu}, ${report.cores} cores, Node ${report.node}`);
  if (timings.length > 0) console.log(`${''.padEnd(width)}   median us   25% us    75% us`);
  for (const t of timings) console.log(`${t.name.padEnd(width)}  ${us(t.median)} ${us(t.low)} ${us(t.high)}`);
  for (const [name, ratio] of Object.entries(ratios)) printRatio(name, width, ratio, goals[name]);
  return report;
}

/** Prints all that had a goal, of several reports. */
export function printVerdicts(reports: readonly Report[]): void {
  const rows = reports.flatMap(({ benchmark, ratios, goals }) =>
    Object.entries(goals).map(([name, goal]) => ({ name: `${benchmark} ${name}`, ratio: ratios[name]!, goal })),
  );
  const width = widest(rows.map(({ name }) => name));
  console.log('\nall goals');
  for (const { name, ratio, goal } of rows) printRatio(name, width, ratio, goal);
}

function printRatio(name: string, width: number, ratio: number, goal: Goals[string] | undefined): void {
  const [text, met] = goal ? verdictOf(ratio, goal) : ['', false];
  const verdict = goal ? `  ${met ? 'met' : 'missed'} (${text})` : '';
  console.log(`${name.padEnd(width)}  ${ratio.toFixed(2).padStart(9)}${verdict}`);
}

const widest = (names: readonly string[]) => Math.max(0, ...names.map((name) => name.length));

/** The goal in words, and whether the ratio reaches it. */
export function verdictOf(ratio: number, goal: Goals[string]): [text: string, met: boolean] {
  return 'atMost' in goal
    ? [`at most ${goal.atMost}`, ratio <= goal.atMost]
    : [`at least ${goal.atLeast}`, ratio >= goal.atLeast];
}

/** The Python that has torch: SHARDLOOP_ORACLE_PYTHON, or that of the oracle's environment. */
export function oraclePython(): string {
  const cache =
    process.env.SHARDLOOP_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'shardloop');
  const program = process.env.SHARDLOOP_ORACLE_PYTHON ?? join(cache, 'python', 'bin', 'python');
  if (!existsSync(program)) throw new Error(`Python's contenders need ${program}: \`npm run test:oracle\` makes it`);
  return program;
}

/**
 * Contenders in Python: one process of bench/`script`, which reads `name iterations` lines and answers each with the
 * nanoseconds of one iteration; `args` go to the script. Close it when done.
 */
export function pythonContenders(
  script: string,
  names: readonly string[],
  args: readonly string[] = [],
): { contenders: Contender[]; close(): void } {
  const program = oraclePython();
  const file = join(dirname(fileURLToPath(import.meta.url)), script);
  const child = spawn(program, ['-u', file, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
  const answers = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const run = async (name: string, iterations: number) => {
    child.stdin.write(`${name} ${iterations}\n`);
    const { value, done } = await answers.next();
    if (done) throw new Error(`${script} ended while it ran ${name}`);
    return Number(value);
  };
  const contenders = names.map((name) => ({ name: `python ${name}`, run: (n: number) => run(name, n) }));
  return { contenders, close: () => child.stdin.end() };
}
