// What is said when ranks part ways without the checking mode: unlike shapes and calls, ranks that stop, leave, or are busy
// elsewhere; how soon the others hear of it; and that the same processes may start anew.
import { describe, expect, it } from 'vitest';
import { parseStatus, whoArrived } from '../../lib/dist/diagnosis.js';
import { runRanks } from './ranks.js';

const OPEN = `
  const { zeros } = core;
  const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  const group = await dist.init({ timeoutSeconds: Number(process.env.SECONDS ?? 20) });
  const pids = await group.allGatherObject(process.pid);
  await sleep(0.3);
  const began = Date.now();
  const tell = async (fn) => report({ text: await failure(fn), ms: Date.now() - began });`;

const reports = (runs: { reports: Record<string, unknown>[] }[]) =>
  runs.map((run) => run.reports as { text: string; ms: number }[]);

describe('the sentences', () => {
  const member = { rank: 0, size: 3, name: 'g', backend: 'gloo' as const };
  const operation = { name: 'all_reduce (sum)', number: 3, shapes: 'float32 (2)' };
  const status = (text: object, alive = '+') => parseStatus(alive + JSON.stringify(text));

  it('tell who arrived, who called something else, and who did not come', () => {
    const arrived = status({
      launched: 3,
      left: false,
      operations: [[3, 'all_reduce (sum)', 'float32 (2)', 'running', 5, false]],
    });
    const other = status({ launched: 4, left: false, operations: [[3, 'barrier', '', 'done', 5, false]] });
    const gone = status({ launched: 2, left: true, operations: [[1, 'send (to 1, tag 0)', '', 'done', 1500, true]] });
    const dead = status({ launched: 0, left: false, operations: [] }, '-');
    expect(whoArrived(member, operation, [arrived, other, gone])).toEqual([
      'Arrived: rank 0',
      'Rank 1 called barrier as #3',
      'Rank 2 has left the group; its last operation was send (to 1, tag 0) #1, done, launched 1.5 s before',
    ]);
    expect(whoArrived(member, operation, [arrived, dead, null])).toEqual([
      'Arrived: rank 0',
      'Rank 1 does not answer (dead or stopped); it had not called anything',
      'Rank 2 never opened the group',
    ]);
    const within = { rank: 4, size: 9, ranks: [4, 7, 8] };
    expect(whoArrived({ ...member, within }, operation, [arrived, arrived, dead])[0]).toBe('Arrived: ranks 4, 7');
    expect(whoArrived(member, { ...operation, number: 0 }, [arrived, dead, arrived])).toHaveLength(2);
    expect(whoArrived(member, operation, [])).toEqual([expect.stringContaining('is not known')]);
    expect(whoArrived({ ...member, backend: 'fake' }, operation, [])).toEqual([]);
  });
});

describe('three processes', () => {
  it('name both shapes on all ranks when they differ, and nobody is aborted', async () => {
    const runs = await runRanks(
      3,
      `${OPEN}
       await tell(() => group.allReduce(zeros([rank === 1 ? 3000 : 2])).done());
       await sleep(1.5); // rank 0 holds the store, in which the others still ask
       process.exit(0);`,
      { SECONDS: '4' },
    );
    for (const [rank, run] of runs.entries()) {
      expect([run.err, run.code, run.signal]).toEqual(['', 0, null]);
      const { text, ms } = reports(runs)[rank]![0]!;
      expect(text).toMatch(
        /^COLLECTIVE_FAILED: \[rank \d\/3\] all_reduce \(sum\) #3 on group 'world' of float32 \((2|3000)\) failed/,
      );
      expect(text).toContain(rank === 1 ? 'as #3' : 'Rank 1 called all_reduce (sum) of float32 (3000) as #3');
      expect(text).toContain('float32 (2)');
      expect(ms).toBeLessThan(7000);
    }
  });

  it('name the call that differs, and the one that is missing', async () => {
    const runs = await runRanks(
      3,
      `${OPEN}
       if (rank === 2) await tell(() => group.broadcast(zeros([2]), 2).done());
       else await tell(() => group.allReduce(zeros([2])).done());
       await tell(() => group.barrier().done());
       await group.destroy();
       const again = await dist.createGroup({ rank, size, store: { host: '127.0.0.1', port: Number(process.env.MASTER_PORT) + 0, serve: rank === 0 }, timeoutSeconds: 3 });
       report({ text: String(await again.sum(1)), ms: 0 });
       if (rank === 1) { await sleep(4.5); await tell(() => again.barrier().done()); }
       else await tell(() => again.barrier().done());
       process.exit(0);`,
      { SECONDS: '2' },
    );
    expect(runs.map((run) => [run.err, run.code])).toEqual([
      ['', 0],
      ['', 0],
      ['', 0],
    ]);
    for (const [rank, [first, second, sum, missing]] of reports(runs).entries()) {
      if (rank < 2) {
        expect(first!.text).toMatch(
          /all_reduce \(sum\) #3 .*Arrived: ranks 0, 1\. Rank 2 called broadcast \(root 2\) of float32 \(2\) as #3/,
        );
      }
      expect(second!.text).toMatch(
        /^COLLECTIVE_FAILED: .*(the group failed earlier|rank [01] failed first, in all_reduce)/,
      );
      expect(sum!.text).toBe('3'); // the same processes, a new group
      if (rank === 1) expect(missing!.text).toMatch(/barrier #2 .*rank [02] failed first, in barrier #2: Timed out/i);
      else
        expect(missing!.text).toMatch(
          /barrier #2 .*Arrived: ranks 0, 2\. Rank 1 is alive and has not arrived; its last operation was all_reduce \(sum\) #1/,
        );
    }
  });

  it('tell one that is stopped from one that left', async () => {
    const runs = await runRanks(
      3,
      `${OPEN}
       const inner = await dist.subgroup(group, [0, 2], { name: 'inner', timeoutSeconds: 20 });
       if (rank === 2) await inner.destroy();
       if (rank === 0) { await sleep(0.3); await tell(() => inner.allReduce(zeros([2])).done()); }
       if (rank === 0) await sleep(0.2);
       if (rank === 1) process.kill(process.pid, 'SIGSTOP');
       await tell(() => group.allReduce(zeros([5]), 'max').done());
       try { process.kill(pids[1], 'SIGKILL'); } catch {}
       process.exit(0);`,
      { SECONDS: '2' },
    );
    const [[left, stopped], , [alsoStopped]] = reports(runs) as [
      { text: string; ms: number }[],
      unknown,
      { text: string }[],
    ];
    expect(left!.text).toMatch(
      /all_reduce \(sum\) #1 on group 'inner' of ranks 0, 2 .*Rank 2 has left the group; it had not called anything/,
    );
    expect(left!.ms).toBeLessThan(5000);
    for (const one of [stopped, alsoStopped]) {
      expect(one!.text).toMatch(
        /all_reduce \(max\) #3 .*Arrived: ranks? [02, ]+\. Rank 1 does not answer \(dead or stopped\); its last operation was all_gather #2/,
      );
    }
  });

  it('hear of a failure within a second, also where they do not communicate, and start anew', async () => {
    const runs = await runRanks(
      3,
      `${OPEN}
       if (rank === 0) await tell(() => group.receive(zeros([2]), 1, 7).done());
       else if (rank === 1) { await sleep(1.2); await group.destroy(); }
       else { // not in any operation when it happens
         await sleep(3.5);
         await tell(() => group.barrier().done());
         await tell(() => group.sum(1));
       }
       await group.destroy();
       await sleep(rank === 0 ? 0 : 0.5);
       const next = await dist.init({ timeoutSeconds: 10 });
       report({ text: String(await next.sum(1)), ms: 0 });
       await next.destroy();`,
      { SECONDS: '15' },
    );
    expect(runs.map((run) => [run.err, run.code])).toEqual([
      ['', 0],
      ['', 0],
      ['', 0],
    ]);
    const [[received, ...zero], one, [refused, later, two]] = reports(runs) as [
      { text: string; ms: number }[],
      { text: string }[],
      { text: string; ms: number }[],
    ];
    expect(received!.text).toMatch(
      /^COLLECTIVE_FAILED: \[rank 0\/3\] receive \(from 1, tag 7\) on group 'world' of float32 \(2\) failed: .*Rank 1 has left the group/,
    );
    expect(received!.ms).toBeLessThan(3400);
    expect(refused!.text).toMatch(
      /^COLLECTIVE_FAILED: \[rank 2\/3\] barrier #3 on group 'world' failed: rank 0 failed first, in receive \(from 1, tag 7\) of float32 \(2\)/,
    );
    expect(refused!.ms).toBeLessThan(3500 + 2000);
    expect(later!.text).toContain('the group failed earlier');
    expect([zero[0]!.text, one[0]!.text, two!.text]).toEqual(['3', '3', '3']);
  });
});
