// What surrounds a training run and is the same for `pretrain` and `finetune`: the group of ranks, device and threads,
// the agreement to stop, what is written beside the result. Not here: the steps (loop.ts).
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { makeFolder } from '../core/folders.js';
import {
  isCudaAvailable,
  libtorchVersion,
  manualSeed,
  memory,
  ShardloopError,
  setNumThreads,
  tensor,
} from '../core/index.js';
import { named } from '../core/option-names.js';
import { type Group, init, readEnvironment } from '../dist/index.js';
import { writeFileAtomic } from '../io/atomic.js';
import type { TrainingConfig } from './config.js';
import { csvSink } from './csv.js';
import { drawLoss } from './loss-chart.js';
import { MemoryLedger } from './memory-ledger.js';
import { fanOut, jsonlSink, type MetricsSink } from './metrics.js';
import { checkOptions } from './option-check.js';
import { refuseFile } from './out-folder.js';
import { progressSink } from './progress.js';
import { lockOut, type RunLock } from './run-lock.js';
import type { RunSummary } from './summary.js';
import { tensorBoardSink } from './tensorboard.js';
import { version } from './versions.js';

/** Where a run is, and so what an abort does: no step yet, a step behind which it can stop, the last one or what follows. */
export type RunPhase = 'before the first step' | 'in a step' | 'in the last step';

/** What a caller may add to a run's config. */
export interface RunOptions {
  /**
   * Aborted: the run stops after its step, writes a checkpoint and throws INTERRUPTED; before the first step it stops
   * without one. One rank suffices, except while the ranks still look for each other: there each stops for itself.
   */
  signal?: AbortSignal;
  /** Plan, run one step, write nothing. */
  dryRun?: boolean;
  /** Where rank 0 shows progress (default: nowhere). */
  progress?: NodeJS.WriteStream;
  /** Called on every rank as the phase changes, and before each step. */
  onPhase?: (phase: RunPhase) => void;
  /** Further places for metrics; called on rank 0 only. */
  sinks?: MetricsSink[];
  /** The ranks that take part (default: those of the launcher). A group that is given stays open afterwards. */
  group?: Group;
}

/** What a run gives back. */
export interface RunResult {
  /** Of this process; only rank 0 wrote files. */
  rank: number;
  /** Steps, losses, tokens and time. */
  summary: RunSummary;
}

/** A run that has been opened: who takes part, on what, and whether to stop. */
export interface Run<C extends TrainingConfig = TrainingConfig> {
  readonly command: 'pretrain' | 'finetune';
  readonly config: C;
  readonly options: RunOptions;
  readonly group: Group;
  readonly device: string;
  readonly threads: number;
  /** Rank 0 alone writes files and prints. */
  readonly leads: boolean;
  readonly startedAt: Date;
  /** What was told to the user on the way; the summary holds it too. */
  readonly notes: string[];
  /** This rank's memory by kind, from the start of the run on. */
  readonly ledger: MemoryLedger;
  /** Rank 0's claim on `out`; absent elsewhere and in a dry run. */
  readonly lock?: RunLock;
}

/** Join the other ranks and set device and threads. The random state is that of `seed`, alike on every rank. */
export async function openRun<C extends TrainingConfig>(
  command: Run['command'],
  config: C,
  options: RunOptions,
): Promise<Run<C>> {
  checkRanks(config, options);
  const { localRank, localSize, size } = readEnvironment();
  const device = chooseDevice(config, localRank);
  checkOptions(config, options.group?.size ?? size, device);
  options.onPhase?.('before the first step');
  if (options.signal?.aborted) throw nothingTrained();
  const threads = config.threads ?? Math.max(1, Math.floor(availableParallelism() / localSize));
  setNumThreads(threads);
  const group =
    options.group ?? (await unlessStopped(init(device === 'cpu' ? {} : { backend: 'nccl' }), options.signal));
  users.set(group, (users.get(group) ?? 0) + 1);
  const opened: Run<C> = {
    ...{ command, config, options, group, device, threads },
    ...{ leads: group.rank === 0, startedAt: new Date(), notes: [] },
    ledger: new MemoryLedger(device),
  };
  try {
    const lock = await claimOut(opened);
    manualSeed(config.seed);
    return { ...opened, lock };
  } catch (error) {
    await closeRun(opened);
    throw error;
  }
}

/** Rank 0 claims `out`; when it cannot, every rank says so. Collective. A dry run only looks. */
async function claimOut({ config, options, group, leads }: Run): Promise<RunLock | undefined> {
  let lock: RunLock | undefined;
  let problem: string | null = null;
  try {
    if (leads && options.dryRun) refuseFile('--out', config.out);
    else if (leads) lock = lockOut(config.out);
  } catch (error) {
    problem = (error as Error).message;
  }
  problem = await group.broadcastObject(problem);
  if (problem !== null) throw new ShardloopError('BAD_CONFIG', problem);
  return lock;
}

/** BAD_CONFIG when a program asks for ranks that nothing starts: only a launcher, or the command, can. */
function checkRanks({ nproc }: TrainingConfig, { group }: RunOptions): void {
  const size = group?.size ?? 1;
  if (nproc === 1 || nproc === size || readEnvironment().source !== 'none') return;
  throw new ShardloopError(
    'BAD_CONFIG',
    `nproc: expected the number of ranks that take part, ${size}; received ${nproc}. A function does not start processes: run the program with \`shardloop launch --nproc-per-node ${nproc}\`, or use the command with --nproc ${nproc}`,
  );
}

/** The group, or INTERRUPTED as soon as the signal is aborted; a group that opens after that is left at once. */
async function unlessStopped(opening: Promise<Group>, signal?: AbortSignal): Promise<Group> {
  if (!signal) return opening;
  let stop = () => {};
  const stopped = new Promise<never>((_, reject) => {
    stop = () => reject(nothingTrained());
    signal.addEventListener('abort', stop, { once: true });
  });
  try {
    return await Promise.race([opening, stopped]);
  } catch (error) {
    void opening.then((group) => group.destroy()).catch(() => {});
    throw error;
  } finally {
    signal.removeEventListener('abort', stop);
  }
}

/** Between the phases before the first step: INTERRUPTED on all ranks when one was asked to stop; `resumed` says what a resumed run has. Collective. */
export async function stopIfAsked(run: Run, resumed: ShardloopError | null = null): Promise<void> {
  await nextTurn(); // Signals come in between turns of the event loop.
  const [stops] = await sumOverRanks(run, [run.options.signal?.aborted ? 1 : 0]);
  if (stops! > 0) throw resumed ?? nothingTrained();
}

function nothingTrained(): ShardloopError {
  return new ShardloopError('INTERRUPTED', 'stopped before the first step: nothing was trained yet');
}

function chooseDevice({ device }: TrainingConfig, localRank: number): string {
  if (device === 'cpu' || (device === 'auto' && !isCudaAvailable())) return 'cpu';
  if (isCudaAvailable()) return `cuda:${localRank}`;
  throw new ShardloopError(
    'NO_CUDA',
    named(
      '--device cuda: no CUDA device can be used here; `shardloop doctor` says why. Use --device cpu to compute on the CPU',
    ),
  );
}

/**
 * The random state of one step is a function of seed, step and rank. So a resumed run draws what the undisturbed one
 * would have drawn, and evaluating in between changes nothing.
 */
export function seedStep(run: Run, step: number): void {
  const mixed = (BigInt(run.config.seed) << 32n) ^ (BigInt(step) << 12n) ^ BigInt(run.group.rank);
  manualSeed(BigInt.asIntN(63, mixed * 0x9e3779b97f4a7c15n));
}

/** Tell the user one line: where progress is shown, and in the summary. Rank 0 alone does. */
export function tell(run: Run, line: string): void {
  if (!run.leads) return;
  run.notes.push(line);
  run.options.progress?.write(`${line}\n`);
}

/** The sums of each number over all ranks. Collective. */
export async function sumOverRanks(run: Run, numbers: number[]): Promise<number[]> {
  if (run.group.size === 1) return numbers;
  using values = tensor(Float64Array.from(numbers), { device: run.device });
  await run.group.allReduce(values).done();
  return Array.from((await values.data()) as Float64Array);
}

/** The sinks of a run: on rank 0 the files in `out`, progress, and the caller's own; elsewhere and in a dry run none. */
export function openSinks(run: Run, total: number, resumedStep: number): MetricsSink {
  const { config, options, leads, command } = run;
  if (!leads || options.dryRun) return fanOut([]);
  makeFolder(config.out);
  const text = `    ${JSON.stringify(config, null, 2).replace(/\n/g, '\n    ')}`; // Markdown: a block of code
  return fanOut([
    jsonlSink(metricsFile(run), resumedStep),
    csvSink(join(config.out, 'metrics.csv'), resumedStep),
    tensorBoardSink(config.out, { text, resumedStep }),
    ...(options.progress
      ? [progressSink({ label: command, total, done: resumedStep, every: config.logSteps, stream: options.progress })]
      : []),
    ...(options.sinks ?? []),
  ]);
}

export const metricsFile = (run: Run) => join(run.config.out, 'metrics.jsonl');

/** Write run.json: config, versions and seed at the start; the result and loss.svg as well at the end. */
export async function describeRun(run: Run, summary?: RunSummary): Promise<void> {
  const { command, config, group, device, threads, startedAt, leads, options } = run;
  if (!leads || options.dryRun) return;
  const description = {
    command,
    config,
    seed: config.seed,
    versions: { shardloop: version(), libtorch: libtorchVersion(), node: process.version },
    platform: `${process.platform}-${process.arch}`,
    ranks: group.size,
    device,
    threads,
    startedAt,
    launch: process.env.SHARDLOOP_LAUNCH_ID || undefined,
    ...(summary ? { finishedAt: new Date(), result: summary } : {}),
  };
  await writeFileAtomic(join(config.out, 'run.json'), `${JSON.stringify(description, null, 2)}\n`);
  if (summary) await drawLoss(metricsFile(run), join(config.out, 'loss.svg'), `${command} ${config.out}`);
}

/** How many runs of this process use a group: those that opened none of their own share the world's. */
const users = new WeakMap<Group, number>();

/** Give `out` free and, as its last user, leave the group of ranks. */
export async function closeRun(run: Run): Promise<void> {
  run.lock?.release();
  const others = (users.get(run.group) ?? 1) - 1;
  users.set(run.group, others);
  memory.trim(); // what the run has freed is of no use to whatever this process does next
  if (!run.options.group && others === 0) await run.group.destroy();
}
