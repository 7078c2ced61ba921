// The communication log of a timeline: for each kind of operation how often, how many bytes, how fast, and its share of the
// time; how much of the communication was hidden behind compute; and which ranks the others wait for.
import type { Launched, RankTimeline } from './timeline.js';
import { busFactor } from './traffic.js';

/** One kind of operation on one group, over all ranks. */
export interface CommunicationEntry {
  readonly group: string;
  /** With its detail: 'all_reduce (sum)'. */
  readonly operation: string;
  /** How often each rank called it. */
  readonly count: number;
  /** Bytes of all calls of one rank, by nccl-tests' size. */
  readonly bytes: number;
  /** Seconds from launch to end, of all calls, on the mean rank. Calls that overlap count each. */
  readonly seconds: number;
  /** GB/s, as nccl-tests has them: bytes / seconds, from the last rank's launch, and times the bus factor. */
  readonly algbw: number;
  readonly busbw: number;
  /** Seconds over the length of the timeline. */
  readonly share: number;
}

/** A rank for which others waited. */
export interface Straggler {
  readonly rank: number;
  /** In how many of the collectives it was the last to arrive. */
  readonly last: number;
  /** By how many milliseconds it then came behind the first, in the median. */
  readonly lateMs: number;
}

/** What a timeline says about communication. */
export interface CommunicationLog {
  readonly seconds: number;
  readonly entries: readonly CommunicationEntry[];
  /** The share of the communication's time in which the rank did not wait for it; 1 when all of it was hidden. */
  readonly hidden: number;
  /** Ranks that were last far more often than chance has it, the worst first. */
  readonly stragglers: readonly Straggler[];
}

/** Reads the log out of the ranks' timelines. */
export function communicationLog(ranks: readonly RankTimeline[]): CommunicationLog {
  const all = ranks.flatMap(({ spans, collectives }) => [...spans, ...collectives]);
  const first = all.reduce((least, { start }) => Math.min(least, start), Number.POSITIVE_INFINITY);
  const last = all.reduce((most, { end }) => Math.max(most, end), Number.NEGATIVE_INFINITY);
  const seconds = all.length === 0 ? 0 : (last - first) / 1e9;
  const rounds = roundsOf(ranks);
  const communicating = sum(ranks.map(({ collectives }) => covered(collectives)));
  const waiting = sum(
    ranks.map(({ spans, collectives }) =>
      overlap(
        spans.filter(({ track }) => track === 'wait'),
        collectives,
      ),
    ),
  );
  return {
    seconds,
    entries: entriesOf(ranks, rounds, seconds),
    hidden: communicating === 0 ? 1 : 1 - waiting / communicating,
    stragglers: stragglersOf(rounds),
  };
}

type Round = { readonly rank: number; readonly call: Launched }[];

/** The calls that belong together: same group, same number. */
function roundsOf(ranks: readonly RankTimeline[]): Round[] {
  const rounds = new Map<string, Round>();
  for (const { rank, collectives } of ranks) {
    for (const call of collectives) {
      if (call.number === 0) continue;
      const key = `${call.group}\0${call.number}`;
      rounds.set(key, [...(rounds.get(key) ?? []), { rank, call }]);
    }
  }
  return [...rounds.values()].filter((round) => round.length === round[0]!.call.ranks);
}

function entriesOf(ranks: readonly RankTimeline[], rounds: readonly Round[], total: number): CommunicationEntry[] {
  const kinds = new Map<string, Launched[]>();
  for (const { collectives } of ranks) {
    for (const call of collectives) {
      const key = `${call.group}\0${call.name}`;
      kinds.set(key, [...(kinds.get(key) ?? []), call]);
    }
  }
  return [...kinds.values()]
    .map((calls): CommunicationEntry => {
      const { group, name, operation, ranks: size } = calls[0]!;
      const callers = Math.max(
        1,
        ranks.filter((r) => r.collectives.some((c) => c.group === group && c.name === name)).length,
      );
      const bytes = sum(calls.map((call) => call.bytes)) / callers;
      const seconds = sum(calls.map(({ start, end }) => end - start)) / callers / 1e9;
      // On the wire an operation is from the last arrival on; before that the early ranks only wait.
      const mine = rounds.filter((round) => round[0]!.call.group === group && round[0]!.call.name === name);
      const busy = sum(
        mine.map((round) => {
          const arrived = Math.max(...round.map(({ call }) => call.start));
          return sum(round.map(({ call }) => Math.max(0, call.end - arrived))) / round.length / 1e9;
        }),
      );
      const algbw = bytes === 0 ? 0 : bytes / 1e9 / (busy > 0 ? busy : seconds);
      return {
        ...{ group, operation: name, count: calls.length / callers, bytes, seconds },
        ...{ algbw, busbw: algbw * busFactor(operation, size), share: total === 0 ? 0 : seconds / total },
      };
    })
    .sort((a, b) => b.seconds - a.seconds);
}

/** A rank is named when it was last in more than half of at least four rounds, and more than twice as often as its share. */
function stragglersOf(rounds: readonly Round[]): Straggler[] {
  const lateness = new Map<number, number[]>();
  const took = new Map<number, number>();
  for (const round of rounds) {
    const sorted = [...round].sort((a, b) => a.call.start - b.call.start);
    const slowest = sorted.at(-1)!;
    const late = slowest.call.start - sorted[0]!.call.start;
    for (const { rank } of round) took.set(rank, (took.get(rank) ?? 0) + 1);
    if (late < MIN_LATE_NS) continue;
    lateness.set(slowest.rank, [...(lateness.get(slowest.rank) ?? []), late]);
  }
  return [...lateness]
    .filter(([rank, list]) => took.get(rank)! >= 4 && list.length > took.get(rank)! / 2)
    .map(([rank, list]) => ({ rank, last: list.length, lateMs: median(list) / 1e6 }))
    .sort((a, b) => b.lateMs * b.last - a.lateMs * a.last);
}

const MIN_LATE_NS = 1e6; // below a millisecond ranks only jitter

/** The log as a table for people. */
export function formatCommunication(log: CommunicationLog): string {
  const head = ['group', 'operation', 'count', 'MB', 'ms each', 'algbw GB/s', 'busbw GB/s', 'of the time'];
  const rows = log.entries.map((entry) => [
    entry.group,
    entry.operation,
    String(Math.round(entry.count)),
    (entry.bytes / 1e6).toFixed(2),
    ((entry.seconds / entry.count) * 1e3).toFixed(3),
    entry.algbw.toFixed(2),
    entry.busbw.toFixed(2),
    `${(entry.share * 100).toFixed(1)}%`,
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]!.length)));
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ');
  const stragglers = log.stragglers.map(
    ({ rank, last, lateMs }) => `rank ${rank} arrived last ${last} times, ${lateMs.toFixed(1)} ms behind the first`,
  );
  return [
    line(head),
    ...rows.map(line),
    `hidden behind compute: ${(log.hidden * 100).toFixed(0)}% of the communication; timeline of ${log.seconds.toFixed(3)} s`,
    stragglers.length > 0 ? `stragglers: ${stragglers.join('; ')}` : 'stragglers: none',
    '',
  ].join('\n');
}

interface Stretch {
  readonly start: number;
  readonly end: number;
}

/** Sorted and without overlaps. */
function merged(stretches: readonly Stretch[]): Stretch[] {
  const result: { start: number; end: number }[] = [];
  for (const { start, end } of [...stretches].sort((a, b) => a.start - b.start)) {
    const top = result.at(-1);
    if (top !== undefined && start <= top.end) top.end = Math.max(top.end, end);
    else result.push({ start, end });
  }
  return result;
}

function covered(stretches: readonly Stretch[]): number {
  return sum(merged(stretches).map(({ start, end }) => end - start));
}

/** How long both are under way at once. */
function overlap(a: readonly Stretch[], b: readonly Stretch[]): number {
  return covered(a) + covered(b) - covered([...a, ...b]);
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, n) => total + n, 0);
}

function median(numbers: readonly number[]): number {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)]!;
}
