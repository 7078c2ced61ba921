// Starts N ranks of a program on this host under torchrun's environment contract, and ends when they have; after a
// failure, if asked to, it starts all of them again. One attempt, with its signals and its stopping, is supervise.ts; the
// agreement with the launchers of other hosts is hosts.ts. A companion process (keeper.ts) serves the rendezvous store
// and ends the ranks should this process be killed.
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, ShardloopError } from '../core/errors.js';
import { makeFolder } from '../core/folders.js';
import { forCommand, named } from '../core/option-names.js';
import { requireOptions } from '../core/options.js';
import { announceFailure } from './failure-report.js';
import { Hosts, type Verdict } from './hosts.js';
import { Keeper } from './keeper-process.js';
import { type OutputMode, type RankEnd, RankProcess } from './rank-process.js';
import { causeOf, headOf, lostPeers, OutsideSignals, reasonNotToRestart, supervise } from './supervise.js';

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
  /** One host and a free port, whatever happens: the options about other hosts are refused. */
  readonly standalone?: boolean;
  /**
   * How often all ranks, of all hosts, are started again when one failed; the same on every host. Default 0. Not after a
   * signal from outside, a usage error (exit code 2) or bad data (3).
   */
  readonly maxRestarts?: number;
  /** How many seconds to wait for the launcher of node 0, and at a restart (60 at most) for all. Default 600. */
  readonly joinSeconds?: number;
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
  /** 0; or the code of the rank that failed first, on any host; or 128 + the signal that stopped all. */
  readonly exitCode: number;
  /** The rank that failed first, with its cause; null when none did, or one of another host. */
  readonly failure: RankEnd | null;
}

/** How long a rank that only lost its peers waits for the verdict of their host, in milliseconds. */
const ROOT_CAUSE = 2000;

/**
 * Runs `nprocPerNode` ranks of a command to their end. Resolves also when ranks fail: see {@link LaunchResult}; the
 * report of the first failure goes to stderr. With several hosts it ends when all have.
 * Throws BAD_ARGUMENT for unusable options, BAD_LAUNCH when the store cannot be served or reached.
 */
export async function launch(options: LaunchOptions): Promise<LaunchResult> {
  const plan = planOf(options);
  if (options.logDir !== undefined) makeLogFolder(options.logDir); // before other hosts are waited for
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-launch-'));
  const keeper = new Keeper(folder);
  let outside: OutsideSignals | undefined;
  try {
    // A single process needs no store, and whatever it runs may serve one of its own.
    const serves = plan.size > 1 && plan.nodeRank === 0;
    const port = serves ? await keeper.serve(plan.masterAddr, plan.masterPort) : plan.masterPort;
    const hosts = plan.nnodes > 1 ? await joinHosts(keeper, plan, port, options) : null;
    outside = new OutsideSignals(options.abort);
    const start: Start = { plan, options, port, folder, keeper, id: randomUUID() };
    for (let attempt = 0; ; attempt++) {
      const { verdict, failure } = await attemptOnce(start, attempt, outside, hosts);
      if (verdict !== null && mayRestart(verdict, attempt, plan)) {
        const missed = hosts ? await hosts.gather(attempt + 1, gatherSeconds(options)) : null;
        if (missed === null) continue;
        process.stderr.write(`[launch] no restart: ${missed.text}\n`);
      }
      await hosts?.leave(verdict !== null, options.joinSeconds ?? 600, () => outside?.asked !== null);
      return { exitCode: verdict?.exitCode ?? 0, failure };
    }
  } finally {
    outside?.close();
    await keeper.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

function makeLogFolder(path: string): void {
  try {
    makeFolder(path);
  } catch (cause) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      named(
        `launch: --log-dir: expected a folder, received ${describe(path)}: ${(cause as Error).message}; name another one`,
      ),
      { cause },
    );
  }
}

/** What all attempts of a launch have in common. */
interface Start {
  readonly plan: Plan;
  readonly options: LaunchOptions;
  readonly port: number;
  readonly folder: string;
  readonly keeper: Keeper;
  readonly id: string;
}

/** Starts the ranks and waits for their end; says on stderr what failed. */
async function attemptOnce(
  start: Start,
  attempt: number,
  outside: OutsideSignals,
  hosts: Hosts | null,
): Promise<{ verdict: Verdict | null; failure: RankEnd | null }> {
  const { plan, options } = start;
  const started = Date.now();
  const ranks = startRanks(start, attempt);
  const over = new AbortController();
  const elsewhere = hosts?.verdict(attempt, over.signal);
  const grace = options.graceSeconds ?? 10;
  const tell = () => announceFailure(failureFile(start, attempt));
  const { failure, stoppedBy } = await supervise(ranks, outside, grace, elsewhere, tell);
  const own = ownVerdict(plan.nodeRank, failure, outside.asked, stoppedBy, started);
  const patience = failure !== null && lostPeers(failure) ? ROOT_CAUSE : 0;
  const known = elsewhere ? await Promise.race([elsewhere, sleep(patience, null)]) : null;
  over.abort();
  const asked = () => ownVerdict(plan.nodeRank, null, outside.asked, outside.asked, started);
  const verdict = known ?? (hosts ? await hosts.settle(attempt, own, asked) : own);
  if (verdict === null) return { verdict, failure: null };
  if (verdict.node !== plan.nodeRank) {
    process.stderr.write(`[launch] node ${verdict.node}: ${indented(verdict.text)}\n`);
    return { verdict, failure: null };
  }
  if (failure) process.stderr.write(`[launch] ${headOf(failure, started)}\n[launch]   ${indented(causeOf(failure))}\n`);
  return { verdict, failure };
}

/** Where the ranks of an attempt see why they get SIGTERM. */
const failureFile = ({ folder }: Start, attempt: number) => join(folder, `attempt-${attempt}-failed`);

function startRanks(start: Start, attempt: number): RankProcess[] {
  const { plan, options, port, folder, keeper, id } = start;
  return Array.from({ length: plan.local }, (_, localRank) => {
    const rank = plan.nodeRank * plan.local + localRank;
    const process = new RankProcess({
      rank,
      localRank,
      command: [...options.command, ...(options.args ?? [])],
      environment: {
        ...environmentOf(plan, rank, localRank, port, options.env),
        TORCHELASTIC_RESTART_COUNT: String(attempt),
        SHARDLOOP_LAUNCH_ID: id,
        SHARDLOOP_FAILURE_FILE: failureFile(start, attempt),
      },
      errorFile: join(folder, `attempt-${attempt}-rank-${rank}.json`),
      output: options.output ?? 'tagged',
      logDir: options.logDir,
      appendLogs: attempt > 0,
    });
    keeper.watch(process.child);
    return process;
  });
}

/** What this host says of an attempt; null when it ended well here, or was ended because of another host. */
function ownVerdict(
  node: number,
  failure: RankEnd | null,
  asked: NodeJS.Signals | null,
  stoppedBy: NodeJS.Signals | null,
  started: number,
): Verdict | null {
  if (failure !== null) {
    const final = asked === null ? reasonNotToRestart(failure) : `${asked} came from outside`;
    return { node, exitCode: failure.exitCode, text: `${headOf(failure, started)}\n${causeOf(failure)}`, final };
  }
  if (stoppedBy === null) return null;
  const text = `stopped by ${stoppedBy}`;
  return { node, exitCode: 128 + constants.signals[stoppedBy], text, final: `${stoppedBy} came from outside` };
}

/** Whether all ranks start again, and says so. */
function mayRestart(verdict: Verdict, attempt: number, { maxRestarts, size }: Plan): boolean {
  if (maxRestarts === 0) return false;
  const again = verdict.final === null && attempt < maxRestarts;
  const why = verdict.text.split('\n', 1)[0];
  const text = again
    ? `restart ${attempt + 1} of ${maxRestarts}: all ${size} ranks start again, because ${why}`
    : `no restart: ${verdict.final ?? `all ${maxRestarts} are used up`}`;
  process.stderr.write(`[launch] ${text}\n`);
  return again;
}

async function joinHosts(keeper: Keeper, plan: Plan, port: number, options: LaunchOptions): Promise<Hosts> {
  const { nodeRank, nnodes, local, maxRestarts, masterAddr } = plan;
  const hosts = new Hosts(keeper, nodeRank, { nnodes, nprocPerNode: local, maxRestarts }, masterAddr, port);
  await hosts.join(masterAddr, port, options.joinSeconds ?? 600);
  return hosts;
}

/** Hosts come to a restart when their ranks have ended: they may use up the grace. */
const gatherSeconds = ({ joinSeconds = 600, graceSeconds = 10 }: LaunchOptions) =>
  Math.min(joinSeconds, 60) + graceSeconds;

const indented = (text: string): string => text.replace(/\n/g, '\n[launch]   ');

interface Plan {
  readonly local: number;
  readonly nnodes: number;
  readonly nodeRank: number;
  readonly size: number;
  readonly masterAddr: string;
  readonly masterPort: number;
  readonly maxRestarts: number;
}

const OPTIONS = [
  ...['command', 'args', 'nprocPerNode', 'nnodes', 'nodeRank', 'masterAddr', 'masterPort', 'standalone', 'maxRestarts'],
  ...['joinSeconds', 'logDir', 'output', 'env', 'graceSeconds', 'abort'],
];

function planOf(options: LaunchOptions): Plan {
  requireOptions('launch', options, OPTIONS);
  const { nprocPerNode: local, nnodes = 1, nodeRank = 0, masterAddr = '127.0.0.1', masterPort = 0 } = options;
  const { maxRestarts = 0, joinSeconds = 600 } = options;
  const need = (right: boolean, expected: string, received: unknown): void => {
    if (right) return;
    const what = received === undefined ? forCommand('none', 'undefined') : describe(received);
    throw new ShardloopError('BAD_ARGUMENT', `launch: expected ${named(expected)}, received ${what}`);
  };
  const whole = (n: unknown, least: number) => Number.isInteger(n) && (n as number) >= least;
  const { command, args = [] } = options as { command: unknown; args?: unknown };
  const texts = (list: unknown) => Array.isArray(list) && list.every((text) => typeof text === 'string');
  need(texts(command) && options.command.length > 0, 'a command as an array of texts', command);
  need(texts(args), 'args to be an array of texts', args);
  need(whole(local, 1), '--nproc-per-node to be 1 or more', local);
  need(whole(nnodes, 1), '--nnodes to be 1 or more', nnodes);
  need(whole(nodeRank, 0) && nodeRank < nnodes, `--node-rank to be from 0 to ${nnodes - 1}`, nodeRank);
  need(whole(masterPort, 0) && masterPort < 65_536, '--master-port to be a port', masterPort);
  if (options.standalone) {
    const alone = (right: boolean, flag: string, received: unknown) =>
      need(
        right,
        `no --${flag} beside --standalone, which is one host and a free port; leave one of them out`,
        received,
      );
    alone(nnodes === 1, 'nnodes above 1', nnodes);
    alone(options.masterAddr === undefined, 'master-addr', options.masterAddr);
    alone(options.masterPort === undefined, 'master-port', options.masterPort);
  }
  need(nnodes === 1 || masterPort > 0, '--master-port, the same on every host, for several hosts', options.masterPort);
  need(
    nnodes === 1 || options.masterAddr !== undefined,
    '--master-addr, the host of node 0, for several hosts',
    options.masterAddr,
  );
  need(whole(maxRestarts, 0), '--max-restarts to be 0 or more', maxRestarts);
  need(joinSeconds > 0, 'joinSeconds to be a positive number', joinSeconds);
  return { local, nnodes, nodeRank, size: local * nnodes, masterAddr, masterPort, maxRestarts };
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
    TORCHELASTIC_MAX_RESTARTS: String(plan.maxRestarts),
    TORCHELASTIC_USE_AGENT_STORE: plan.size > 1 ? 'True' : 'False',
  };
}
