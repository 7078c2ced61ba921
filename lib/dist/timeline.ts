// A timeline of all ranks: what each computed, each collective from launch to end, and each wait, merged into one file
// that Chrome's tracing page and Perfetto open, with the communication log beside it (communication-log.ts).
//
// States: off -> recording (startTimeline) -> taken (take: every rank sends its part to rank 0).
// The tracks of a rank are 'compute' and 'wait' (spans.ts) and one for each group's collectives. Clocks of one host agree;
// those of several are laid over each other at a barrier, which is as exact as the barrier's end is simultaneous.
import { hostname } from 'node:os';
import { raw } from '../core/binding.js';
import { ShardloopError } from '../core/errors.js';
import { now, type Span, startSpans, takeSpans } from '../core/spans.js';
import type { Member } from './checks.js';
import type { Group } from './group.js';
import type { Collective } from './traffic.js';

/** One collective on one rank. Times in nanoseconds on the timeline's common clock. */
export interface Launched {
  /** The group's name, with its ranks where it is not the world. */
  readonly group: string;
  readonly operation: Collective;
  /** With its detail: 'all_reduce (sum)'. */
  readonly name: string;
  /** The same on every rank of the group; 0 for an operation between two ranks. */
  readonly number: number;
  readonly bytes: number;
  readonly ranks: number;
  readonly start: number;
  readonly end: number;
}

/** What one rank did. */
export interface RankTimeline {
  readonly rank: number;
  readonly host: string;
  readonly spans: readonly Span[];
  readonly collectives: readonly Launched[];
}

interface Note extends Omit<Launched, 'start' | 'end'> {
  readonly id: number;
}

let notes: Map<string, Note> | null = null;
let betweenTwo = new Map<number, number>();

/** Internal: a collective was launched; its times come from the native side. */
export function noteLaunch(
  wire: Member & { readonly id: number | null },
  operation: Collective,
  name: string,
  number: number,
  bytes: number,
): void {
  if (notes === null || wire.id === null) return;
  let key = `${wire.id} ${number} 0`;
  if (number === 0) {
    const count = (betweenTwo.get(wire.id) ?? 0) + 1;
    betweenTwo.set(wire.id, count);
    key = `${wire.id} ${count} 1`;
  }
  const group = wire.within === undefined ? wire.name : `${wire.name} (${wire.within.ranks.join(', ')})`;
  notes.set(key, { id: wire.id, group, operation, name, number, bytes, ranks: wire.size });
}

/** A recording that is under way; see {@link startTimeline}. */
export class Timeline {
  #open = true;

  /**
   * Ends the recording. Collective over `group`: every rank of it calls, and rank 0 gets all parts by rank; the others
   * get null. Rejects with COLLECTIVE_FAILED.
   */
  async take(group: Group): Promise<RankTimeline[] | null> {
    if (!this.#open)
      throw new ShardloopError('BAD_ARGUMENT', 'timeline: expected an open recording; it was taken before');
    this.#open = false;
    const mine = this.#end(group.rank);
    await group.barrier().done();
    const zero = now();
    const parts = await group.gatherObject({ ...mine, zero });
    if (parts === null) return null;
    const reference = parts[0]!;
    return parts.map(({ zero: theirs, ...part }) => {
      const shift = part.host === reference.host ? 0 : reference.zero - theirs;
      const move = <T extends { start: number; end: number }>(one: T): T => ({
        ...one,
        start: one.start + shift,
        end: one.end + shift,
      });
      return { ...part, spans: part.spans.map(move), collectives: part.collectives.map(move) };
    });
  }

  /** Ends the recording and forgets it. Does nothing when it was taken. */
  cancel(): void {
    if (this.#open) this.#end(0);
    this.#open = false;
  }

  #end(rank: number): RankTimeline {
    const times = raw('shardloop::take_times') as readonly number[];
    raw('shardloop::record_times', false);
    const collectives: Launched[] = [];
    for (let i = 0; i < times.length; i += 5) {
      const note = notes?.get(`${times[i]} ${times[i + 1]} ${times[i + 2]}`);
      if (note === undefined) continue; // launched before the recording began
      const { id: _, ...rest } = note;
      collectives.push({ ...rest, start: times[i + 3]!, end: times[i + 4]! });
    }
    notes = null;
    return { rank, host: hostname(), spans: takeSpans(), collectives };
  }
}

/** Begins to record this process's timeline; one at a time. Throws BAD_ARGUMENT when one is under way. */
export function startTimeline(): Timeline {
  if (notes !== null) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      'startTimeline: expected no open recording; take the one that is under way',
    );
  }
  notes = new Map();
  betweenTwo = new Map();
  startSpans();
  raw('shardloop::record_times', true);
  return new Timeline();
}

/** The timeline as the text of a Chrome trace: a process a rank, a track a kind of work, times in microseconds. */
export function chromeTrace(ranks: readonly RankTimeline[]): string {
  const all = ranks.flatMap(({ spans, collectives }) => [...spans, ...collectives]);
  const origin = all.reduce((least, { start }) => Math.min(least, start), Number.POSITIVE_INFINITY);
  const events: object[] = [];
  for (const { rank, host, spans, collectives } of ranks) {
    const tracks = new Map<string, number>();
    const trackOf = (name: string): number => {
      let tid = tracks.get(name);
      if (tid === undefined) {
        tid = tracks.size;
        tracks.set(name, tid);
        events.push({ ph: 'M', name: 'thread_name', pid: rank, tid, args: { name } });
      }
      return tid;
    };
    events.push({ ph: 'M', name: 'process_name', pid: rank, args: { name: `rank ${rank} on ${host}` } });
    for (const track of ['compute', 'wait']) trackOf(track);
    const event = (track: string, name: string, { start, end }: { start: number; end: number }, args: object) => {
      const [ts, dur] = [(start - origin) / 1000, (end - start) / 1000];
      events.push({ ph: 'X', name, cat: track, pid: rank, tid: trackOf(track), ts, dur, args });
    };
    for (const one of spans) event(one.track, one.name, one, {});
    for (const one of collectives) {
      event(`collectives of ${one.group}`, one.name, one, { number: one.number, bytes: one.bytes, ranks: one.ranks });
    }
  }
  return JSON.stringify({ traceEvents: events, displayTimeUnit: 'ms' });
}
