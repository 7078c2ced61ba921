// One attempt of a launch: from ranks that run to ranks that have all ended, with the others stopped when one fails and
// with signals from outside passed on; and the words about a failure. Whether there is another attempt is launch.ts's.
//
// States of an attempt: running -> stopping (a rank failed, here or on another host: SIGTERM to the others, SIGKILL after
// the grace) -> ended. A signal from outside changes no state: the ranks decide, as when one Ctrl-C means "save and stop".
import { constants } from 'node:os';
import type { RankEnd, RankProcess } from './rank-process.js';

const FORWARDED = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR2'] as const;
const STOPPING: readonly NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'];

/** The signals that this process gets, for the whole launch: they reach the ranks of the current attempt. */
export class OutsideSignals {
  #asked: NodeJS.Signals | null = null;
  #asks = 0;
  #ranks: readonly RankProcess[] = [];
  readonly #abort: AbortSignal | undefined;

  /** Listens until `close`. An abort counts as SIGTERM. */
  constructor(abort?: AbortSignal) {
    this.#abort = abort;
    for (const signal of FORWARDED) process.on(signal, this.#forward);
    abort?.addEventListener('abort', this.#onAbort);
    if (abort?.aborted) this.#onAbort();
  }

  /** The last signal that asked to stop. */
  get asked(): NodeJS.Signals | null {
    return this.#asked;
  }

  /** From now on these ranks get the signals; what asked before, asks them too. */
  reach(ranks: readonly RankProcess[]): void {
    this.#ranks = ranks;
    if (this.#asked !== null) for (const rank of ranks) rank.signal(this.#asked);
  }

  close(): void {
    this.#abort?.removeEventListener('abort', this.#onAbort);
    for (const signal of FORWARDED) process.off(signal, this.#forward);
  }

  readonly #forward = (signal: NodeJS.Signals): void => {
    if (STOPPING.includes(signal)) {
      this.#asked = signal;
      this.#asks += 1;
    }
    // The first asks, the second insists; whoever asks a third time is not answered by anything else.
    for (const rank of this.#ranks) rank.signal(this.#asks > 2 ? 'SIGKILL' : signal, this.#asks > 2);
  };

  readonly #onAbort = (): void => this.#forward('SIGTERM');
}

/** How an attempt ended on this host. */
export interface AttemptEnd {
  /** The rank that failed first. */
  readonly failure: RankEnd | null;
  /** The signal from outside that ended ranks, if no rank failed. */
  readonly stoppedBy: NodeJS.Signals | null;
}

/** Waits for all ranks; stops the others when one fails, and all when `elsewhere` resolves. `onFailure` is called before. */
export async function supervise(
  ranks: readonly RankProcess[],
  outside: OutsideSignals,
  graceSeconds: number,
  elsewhere?: Promise<unknown>,
  onFailure?: () => void,
): Promise<AttemptEnd> {
  let stopping = false;
  let timer: NodeJS.Timeout | undefined;
  const stop = (): void => {
    if (stopping) return;
    stopping = true;
    onFailure?.();
    for (const rank of ranks) rank.signal('SIGTERM');
    const insist = () => {
      for (const rank of ranks) rank.signal('SIGKILL', true);
    };
    timer = setTimeout(insist, graceSeconds * 1000);
  };
  void elsewhere?.then(stop);

  outside.reach(ranks);
  const failed: RankEnd[] = [];
  const ends = await Promise.all(
    ranks.map(async (rank) => {
      const end = await rank.ended;
      const { asked } = outside;
      const byUs = stopping && (end.signal === 'SIGTERM' || end.signal === 'SIGKILL' || end.exitCode === 143);
      const asAsked = asked !== null && (end.exitCode === 128 + constants.signals[asked] || end.signal === 'SIGKILL');
      if (end.exitCode !== 0 && !byUs && !asAsked) {
        failed.push(end);
        stop();
      }
      return end;
    }),
  );
  stopping = true;
  clearTimeout(timer);
  outside.reach([]);
  const failure = failed.sort(byCause)[0] ?? null;
  const stopped = failure === null && ends.some((end) => end.exitCode !== 0);
  return { failure, stoppedBy: stopped ? outside.asked : null };
}

/** The root cause first: a rank that only lost its peers comes after all others, then the earliest. */
function byCause(a: RankEnd, b: RankEnd): number {
  return Number(lostPeers(a)) - Number(lostPeers(b)) || (a.report?.time ?? a.time) - (b.report?.time ?? b.time);
}

/** Whether a rank failed only because another one did. */
export function lostPeers(end: RankEnd): boolean {
  return end.report?.code === 'COLLECTIVE_FAILED';
}

/** Why another attempt would fail in the same way, or must not be made; null when it may help. */
export function reasonNotToRestart(end: RankEnd): string | null {
  if (end.pid === undefined) return 'the program cannot be started';
  if (end.report?.code === 'INTERRUPTED') return 'it was asked to stop';
  if (end.exitCode === 2) return 'exit code 2 is a usage error';
  return end.exitCode === 3 ? 'exit code 3 is bad data' : null;
}

/** The rank and how it ended, in one line. */
export function headOf(end: RankEnd, started: number): string {
  const how = end.signal === null ? `exit code ${end.exitCode}` : `signal ${end.signal}`;
  const seconds = ((end.time - started) / 1000).toFixed(1);
  return `rank ${end.rank} (local rank ${end.localRank}, pid ${end.pid ?? 'none'}) failed first: ${how} after ${seconds} s`;
}

/** What it said of itself. */
export function causeOf(end: RankEnd): string {
  return end.report?.message ?? (end.lastWords.length > 0 ? end.lastWords.join('\n') : 'it left no message');
}
