// Timelines: what is recorded on every rank, how it is merged, the Chrome trace, and what the communication log reads out
// of it: sums on made-up timelines, and a real one of two processes.
import { describe, expect, it } from 'vitest';
import {
  chromeTrace,
  communicationLog,
  formatCommunication,
  type Launched,
  type RankTimeline,
  startTimeline,
} from '../../lib/dist/index.js';
import { runRanks } from './ranks.js';

const MS = 1e6;
const call = (start: number, end: number, more: Partial<Launched> = {}): Launched => ({
  ...{ group: 'world', operation: 'all_reduce', name: 'all_reduce (sum)', number: 1, bytes: 1e6, ranks: 2 },
  ...{ start: start * MS, end: end * MS },
  ...more,
});
const span = (track: string, start: number, end: number) => ({ track, name: track, start: start * MS, end: end * MS });
const rank = (n: number, spans: RankTimeline['spans'], collectives: Launched[]): RankTimeline => ({
  ...{ rank: n, host: 'here', spans, collectives },
});

describe('communicationLog', () => {
  it('counts calls, bytes, time and bandwidth from the last arrival on', () => {
    // Rank 0 launches at 0, rank 1 at 6; both end at 10: 10 and 4 ms long, and 4 ms on the wire.
    const log = communicationLog([rank(0, [span('compute', 0, 20)], [call(0, 10)]), rank(1, [], [call(6, 10)])]);
    expect(log.seconds).toBeCloseTo(0.02);
    const [entry] = log.entries;
    expect(entry).toMatchObject({ group: 'world', operation: 'all_reduce (sum)', count: 1, bytes: 1e6 });
    expect(entry!.seconds).toBeCloseTo(0.007);
    expect(entry!.share).toBeCloseTo(0.35);
    expect(entry!.algbw).toBeCloseTo(0.25); // 1 MB in 4 ms
    expect(entry!.busbw).toBeCloseTo(0.25); // 2 (n - 1) / n = 1 for two ranks
  });

  it('says how much was hidden: communication during which the rank did not wait', () => {
    const waits = [span('wait', 5, 10), span('wait', 30, 40)]; // the second waits for nothing of ours
    expect(communicationLog([rank(0, waits, [call(0, 10, { ranks: 1 })])]).hidden).toBeCloseTo(0.5);
    const overlapping = [call(0, 10, { ranks: 1 }), call(5, 20, { ranks: 1, number: 2 })];
    expect(communicationLog([rank(0, [span('wait', 5, 10)], overlapping)]).hidden).toBeCloseTo(0.75);
    expect(communicationLog([rank(0, [], [])])).toMatchObject({ hidden: 1, entries: [], seconds: 0 });
  });

  it('names the rank that is mostly last, and nobody where ranks take turns or differ by little', () => {
    const rounds = (late: (i: number) => [number, number]) =>
      [0, 1].map((r) =>
        rank(
          r,
          [],
          Array.from({ length: 6 }, (_, i) => call(i * 100 + late(i)[r]!, i * 100 + 50, { number: i + 1 })),
        ),
      );
    const slow = communicationLog(rounds(() => [0, 20]));
    expect(slow.stragglers).toEqual([{ rank: 1, last: 6, lateMs: 20 }]);
    expect(formatCommunication(slow)).toContain('rank 1 arrived last 6 times, 20.0 ms behind the first');
    expect(communicationLog(rounds((i) => (i % 2 ? [0, 20] : [20, 0]))).stragglers).toEqual([]);
    expect(communicationLog(rounds(() => [0, 0.5])).stragglers).toEqual([]);
  });
});

describe('chromeTrace', () => {
  it('has a process a rank, named tracks, and times in microseconds from the first event', () => {
    const ranks = [rank(0, [span('compute', 100, 101)], []), rank(1, [], [call(102, 104)])];
    const { traceEvents } = JSON.parse(chromeTrace(ranks)) as { traceEvents: Record<string, unknown>[] };
    const complete = traceEvents.filter((event) => event.ph === 'X');
    expect(complete).toMatchObject([
      { name: 'compute', pid: 0, ts: 0, dur: 1000 },
      { name: 'all_reduce (sum)', pid: 1, ts: 2000, dur: 2000, args: { number: 1, bytes: 1e6, ranks: 2 } },
    ]);
    const names = traceEvents.filter((event) => event.name === 'thread_name').map((event) => event.args);
    expect(names).toContainEqual({ name: 'collectives of world' });
  });
});

describe('a recording', () => {
  it('is one at a time, and taken once', async () => {
    const timeline = startTimeline();
    expect(() => startTimeline()).toThrow('expected no open recording');
    timeline.cancel();
    timeline.cancel();
    const again = startTimeline();
    again.cancel();
  });

  it('holds all of many operations that are under way at once', async () => {
    const runs = await runRanks(
      2,
      `const group = await dist.init({ timeoutSeconds: 30 });
       await group.barrier().done();
       const timeline = dist.startTimeline();
       if (rank === 1) await new Promise((resolve) => setTimeout(resolve, 100)); // rank 0 has launched all by then
       const works = Array.from({ length: 40 }, () => group.allReduce(core.zeros([10])));
       for (const work of works) await work.done();
       const all = await timeline.take(group);
       if (all) report({ calls: all.map(({ collectives }) => collectives.map(({ number }) => number)) });
       await group.destroy();`,
    );
    for (const run of runs) expect(run.err).toBe('');
    const numbers = Array.from({ length: 40 }, (_, i) => i + 2);
    const { calls } = runs[0]!.reports[0] as { calls: number[][] };
    for (const of of calls) expect(of.sort((a, b) => a - b)).toEqual(numbers);
  });

  it('holds every rank’s collectives, waits and spans, and names the slow rank', async () => {
    const runs = await runRanks(
      2,
      `const group = await dist.init({ timeoutSeconds: 30 });
       const pair = await dist.subgroup(group, [1, 0], { name: 'pair' });
       await group.barrier().done();
       const timeline = dist.startTimeline();
       const t = core.zeros([1000]);
       for (let i = 0; i < 5; i++) {
         core.span('compute', 'work', i, () => { const end = Date.now() + (rank === 1 ? 40 : 1); while (Date.now() < end); });
         group.allReduce(t).wait();
       }
       await pair.broadcast(t).done();
       const work = rank === 0 ? group.send(t, 1, 3) : group.receive(t, 0, 3);
       work.wait();
       const all = await timeline.take(group);
       if (all) {
         const log = dist.communicationLog(all);
         report({
           ranks: all.map(({ rank, spans, collectives }) => ({
             rank,
             computed: spans.filter((s) => s.track === 'compute').map((s) => s.name),
             waits: spans.filter((s) => s.track === 'wait').length,
             calls: collectives.map((c) => [c.group, c.name, c.number, c.bytes, c.end > c.start].join()),
           })),
           stragglers: log.stragglers.map((s) => s.rank),
           entries: log.entries.map((e) => [e.operation, e.count, e.bytes]),
         });
       }
       await pair.destroy();
       await group.destroy();`,
    );
    for (const run of runs) expect(run.err).toBe('');
    const [{ ranks, stragglers, entries }] = runs[0]!.reports as [Record<string, unknown>];
    const reduces = [2, 3, 4, 5, 6].map((n) => `world,all_reduce (sum),${n},4000,true`);
    for (const [r, other] of (ranks as Record<string, unknown>[]).entries()) {
      expect(other).toMatchObject({ rank: r, computed: ['work 0', 'work 1', 'work 2', 'work 3', 'work 4'], waits: 7 });
      expect((other.calls as string[]).slice(0, 6)).toEqual([...reduces, 'pair (1, 0),broadcast (root 0),1,4000,true']);
      expect((other.calls as string[])[6]).toMatch(/^world,(send \(to 1|receive \(from 0), tag 3\),0,4000,true$/);
    }
    expect(stragglers).toEqual([1]);
    expect(entries).toContainEqual(['all_reduce (sum)', 5, 20_000]);
  });
});
