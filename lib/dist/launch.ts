// Starts N ranks of a program on this host under torchrun's environment contract, and ends when they have: tags their
// output, forwards signals, stops all when one fails, and says which failed first and why. A companion process
// (keeper.ts) serves the rendezvous store and ends the ranks should this process be killed.
//
// States of a launch: running -> stopping (a rank failed: SIGTERM to the others, SIGKILL after the grace) -> ended.
// A signal from outside is passed on and changes no state: the ranks decide, as when one Ctrl-C means "save and stop".
import { type ChildProcess, fork } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, ShardloopError } from '../core/errors.js';
import type { FromKeeper, ToKeeper } from './keeper.js';
import { type OutputMode, type RankEnd, RankProcess } from './rank-process.js';

/** What {@link launch} takes. */
export interface LaunchOptions {
  /** The program and its first arguments, such as `[process.execPath, 'train.js']`. */
  readonly command: readonly string[];
  /** Further arguments. */
  readonly args?: readonly string[];
  /** Ranks on this host. */
  readonly nprocPerNode: number;
  /** Hosts; this function is then called once on each. Default 1. */
  readonly nnodes?: number;
  /** The number of this host, from 0. Default 0. */
  readonly nodeRank?: number;
  /** The host of node 0. Default 127.0.0.1, which suits one host only. */
  readonly masterAddr?: string;
  /** The port of the rendezvous. Default: a free one, which suits one host only. */
  readonly masterPort?: number;
  /** A folder for `rank-R.out` and `rank-R.err`, beside what is shown. */
  readonly logDir?: string;
  /** Default 'tagged'. */
  readonly output?: OutputMode;
  /** Variables for the ranks, over this process's own. */
  readonly env?: Readonly<Record<string, string>>;
  /** After a failure, seconds between SIGTERM and SIGKILL for the other ranks. Default 10. */
  readonly graceSeconds?: number;
  /** Stops the ranks as SIGTERM would when it is aborted. */
  readonly abort?: AbortSignal;
}

/** How a launch went. */
export interface LaunchResult {
  /** 0; or the code of the rank that failed first; or 128 + the signal that stopped all. */
  readonly exitCode: number;
  /** The rank that failed first, with its cause; null when none did. */
  readonly failure: RankEnd | null;
}

const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR2'] as const;
const STOPPING: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'];

/**
 * Runs `nprocPerNode` ranks of a command to their end. Resolves also when ranks fail: see {@link LaunchResult}; the
 * report of the first failure goes to stderr.
 * Throws BAD_ARGUMENT for unusable options, BAD_LAUNCH when the store cannot be served.
 */
export async function launch(options: LaunchOptions): Promise<LaunchResult> {
  const plan = planOf(options);
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-launch-'));
  const keeper = new Keeper();
  try {
    // A single process needs no store, and whatever it runs may serve one of its own.
    const hosts = plan.size > 1 && plan.nodeRank === 0;
    const port = hosts ? await keeper.serve(plan.masterAddr, plan.masterPort) : plan.masterPort;
    if (options.logDir !== undefined) mkdirSync(options.logDir, { recursive: true });
    const ranks = Array.from({ length: plan.local }, (_, localRank) => {
      const rank = plan.nodeRank * plan.local + localRank;
      const process = new RankProcess({
        rank,
        localRank,
        command: [...options.command, ...(options.args ?? [])],
        environment: environmentOf(plan, rank, localRank, port, options.env),
        errorFile: join(folder, `rank-${rank}.json`),
        output: options.output ?? 'tagged',
        logDir: options.logDir,
      });
      keeper.watch(process.child);
      return process;
    });
    return await supervise(ranks, options);
  } finally {
    await keeper.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

interface Plan {
  readonly local: number;
  readonly nnodes: number;
  readonly nodeRank: number;
  readonly size: number;
  readonly masterAddr: string;
  readonly masterPort: number;
}

function planOf(options: LaunchOptions): Plan {
  const { nprocPerNode: local, nnodes = 1, nodeRank = 0, masterAddr = '127.0.0.1', masterPort = 0 } = options;
  const need = (right: boolean, expected: string, received: unknown): void => {
    if (!right)
      throw new ShardloopError('BAD_ARGUMENT', `launch: expected ${expected}, received ${describe(received)}`);
  };
  const whole = (n: unknown, least: number) => Number.isInteger(n) && (n as number) >= least;
  need(options.command.length > 0, 'a command', options.command);
  need(whole(local, 1), 'nprocPerNode to be 1 or more', local);
  need(whole(nnodes, 1), 'nnodes to be 1 or more', nnodes);
  need(whole(nodeRank, 0) && nodeRank < nnodes, `nodeRank to be from 0 to ${nnodes - 1}`, nodeRank);
  need(whole(masterPort, 0) && masterPort < 65_536, 'masterPort to be a port', masterPort);
  need(nnodes === 1 || masterPort > 0, 'masterPort, the same on every host, for several hosts', options.masterPort);
  need(
    nnodes === 1 || options.masterAddr !== undefined,
    'masterAddr, the host of node 0, for several hosts',
    options.masterAddr,
  );
  return { local, nnodes, nodeRank, size: local * nnodes, masterAddr, masterPort };
}

/** The variables of torchrun for one rank, over this process's own. */
function environmentOf(
  plan: Plan,
  rank: number,
  localRank: number,
  port: number,
  extra: LaunchOptions['env'],
): Record<string, string | undefined> {
  const threads = Math.max(1, Math.floor(availableParallelism() / plan.local));
  return {
    OMP_NUM_THREADS: String(threads),
    ...process.env,
    ...extra,
    RANK: String(rank),
    LOCAL_RANK: String(localRank),
    WORLD_SIZE: String(plan.size),
    LOCAL_WORLD_SIZE: String(plan.local),
    GROUP_RANK: String(plan.nodeRank),
    GROUP_WORLD_SIZE: String(plan.nnodes),
    ROLE_RANK: String(rank),
    ROLE_WORLD_SIZE: String(plan.size),
    ROLE_NAME: 'default',
    MASTER_ADDR: plan.masterAddr,
    MASTER_PORT: String(port),
    TORCHELASTIC_RUN_ID: 'shardloop',
    TORCHELASTIC_RESTART_COUNT: '0',
    TORCHELASTIC_MAX_RESTARTS: '0',
    TORCHELASTIC_USE_AGENT_STORE: plan.size > 1 ? 'True' : 'False',
  };
}

/** Waits for all ranks; stops the others when one fails; passes signals on. */
async function supervise(ranks: readonly RankProcess[], options: LaunchOptions): Promise<LaunchResult> {
  const started = Date.now();
  let asked: NodeJS.Signals | null = null;
  let asks = 0;
  let stopping = false;
  let timer: NodeJS.Timeout | undefined;

  const forward = (signal: NodeJS.Signals): void => {
    if (STOPPING.includes(signal)) {
      asked = signal;
      asks += 1;
    }
    // The first asks, the second insists; whoever asks a third time is not answered by anything else.
    for (const rank of ranks) rank.signal(asks > 2 ? 'SIGKILL' : signal, asks > 2);
  };
  const stop = (): void => {
    if (stopping) return;
    stopping = true;
    for (const rank of ranks) rank.signal('SIGTERM');
    const insist = () => {
      for (const rank of ranks) rank.signal('SIGKILL', true);
    };
    timer = setTimeout(insist, (options.graceSeconds ?? 10) * 1000);
  };
  const onAbort = (): void => forward('SIGTERM');

  for (const signal of FORWARDED) process.on(signal, forward);
  options.abort?.addEventListener('abort', onAbort);
  if (options.abort?.aborted) onAbort();
  const failed: RankEnd[] = [];
  try {
    const ends = await Promise.all(
      ranks.map(async (rank) => {
        const end = await rank.ended;
        const byUs = stopping && (end.signal === 'SIGTERM' || end.signal === 'SIGKILL' || end.exitCode === 143);
        const asAsked = asked !== null && (end.exitCode === 128 + constants.signals[asked] || end.signal === 'SIGKILL');
        if (end.exitCode !== 0 && !byUs && !asAsked) {
          failed.push(end);
          stop();
        }
        return end;
      }),
    );
    const failure = failed.sort(byCause)[0] ?? null;
    if (failure !== null) {
      process.stderr.write(reportOf(failure, started));
      return { exitCode: failure.exitCode, failure };
    }
    const stopped = asked !== null && ends.some((end) => end.exitCode !== 0);
    return { exitCode: stopped ? 128 + constants.signals[asked!] : 0, failure: null };
  } finally {
    clearTimeout(timer);
    options.abort?.removeEventListener('abort', onAbort);
    for (const signal of FORWARDED) process.off(signal, forward);
  }
}

/** The root cause first: a rank that only lost its peers comes after all others, then the earliest. */
function byCause(a: RankEnd, b: RankEnd): number {
  const lostPeers = (end: RankEnd) => (end.report?.code === 'COLLECTIVE_FAILED' ? 1 : 0);
  return lostPeers(a) - lostPeers(b) || (a.report?.time ?? a.time) - (b.report?.time ?? b.time);
}

function reportOf(end: RankEnd, started: number): string {
  const how = end.signal === null ? `exit code ${end.exitCode}` : `signal ${end.signal}`;
  const seconds = ((end.time - started) / 1000).toFixed(1);
  const cause = end.report?.message ?? (end.lastWords.length > 0 ? end.lastWords.join('\n') : 'it left no message');
  const head = `[launch] rank ${end.rank} (local rank ${end.localRank}, pid ${end.pid ?? 'none'}) failed first: ${how} after ${seconds} s`;
  return `${head}\n${cause.replace(/^/gm, '[launch]   ')}\n`;
}

/** The companion process, and the channel to it. */
class Keeper {
  readonly #child: ChildProcess;

  constructor() {
    // From the sources (tests) the built keeper is taken: plain Node must be able to run it.
    const built = import.meta.url.endsWith('.ts') ? '../../dist/dist/keeper.js' : './keeper.js';
    this.#child = fork(fileURLToPath(new URL(built, import.meta.url)), {
      detached: true,
      execArgv: [],
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    this.#child.on('error', () => {});
    this.#child.unref();
    this.#child.channel?.unref();
  }

  /** Serves the store; resolves with its port. */
  async serve(host: string, port: number): Promise<number> {
    this.#child.channel?.ref();
    const answer = await new Promise<FromKeeper>((resolve) => {
      this.#child.once('message', (message) => resolve(message as FromKeeper));
      this.#child.once('exit', (code, signal) =>
        resolve({ kind: 'failed', text: `its process ended (${signal ?? code})` }),
      );
      this.#send({ kind: 'serve', host, port });
    });
    this.#child.channel?.unref();
    if (answer.kind === 'serving') return answer.port;
    const where = port === 0 ? `a free port of ${host}` : `${host}:${port}`;
    throw new ShardloopError(
      'BAD_LAUNCH',
      `launch: could not serve the rendezvous store on ${where}: ${answer.text.split('\n', 1)[0]}; ` +
        'choose another --master-port, or leave it out to get a free one',
    );
  }

  /** Puts a rank under its care. */
  watch(rank: ChildProcess): void {
    if (rank.pid === undefined) return;
    const pid = rank.pid;
    this.#send({ kind: 'started', pid });
    rank.once('exit', () => this.#send({ kind: 'ended', pid }));
  }

  /** Ends it, and the store with it. */
  async close(): Promise<void> {
    if (!this.#child.connected) return;
    this.#child.ref();
    const ended = new Promise<void>((resolve) => this.#child.once('exit', () => resolve()));
    this.#send({ kind: 'close' });
    await ended;
  }

  #send(message: ToKeeper): void {
    if (this.#child.connected) this.#child.send(message, () => {});
  }
}
