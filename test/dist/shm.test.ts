// The shm backend: what it shares with no other. Sizes around its slots, the bits on all ranks, when it is chosen, and
// what it leaves behind. Faults over it are in faults.test.ts, Python beside it in test/oracle, any mixture of operations
// in properties.test.ts.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createGroup } from '../../lib/dist/index.js';
import { runRanks } from './ranks.js';

const OPEN = `const group = await dist.init({ backend: 'shm', timeoutSeconds: 20 });`;

/** Element i of what `rank` gives: small whole numbers, which every dtype adds up exactly. */
const VALUES = `
  const numbers = core.arange(0, 700_000).remainder(5).sub(2);
  const give = (n, rank, dtype) => numbers.narrow(0, rank, n).to({ dtype }).clone();
  const total = (n, dtype, from = 0) => {
    let sum = give(n + from, 0, 'float64');
    for (let r = 1; r < size; r++) sum = sum.add(give(n + from, r, 'float64'));
    return sum.narrow(0, from, n).to({ dtype });
  };`;

describe('between slots', () => {
  it.each([2, 3, 8])('every operation is exact at every edge on %i ranks', { timeout: 60_000 }, async (size) => {
    const runs = await runRanks(
      size,
      `${OPEN}${VALUES}
       const wrong = [];
       let checked = 0;
       for (const dtype of ['float32', 'bfloat16', 'int64', 'uint8']) {
         const width = core.dtypeBytes(dtype), slot = 131072 / width, whole = 16384 / width;
         for (const edge of [0, 1, size, whole, whole * 2, slot / size, slot, 2 * slot, 4 * slot, 4.5 * slot]) {
           for (const n of [edge - 1, edge, edge + 1].map(Math.floor)) {
             if (n < 0 || n > 160_000 || (size > 3 && n > 70_000)) continue;
             core.scope(() => {
               const check = (what, got, want) => {
                 checked++;
                 if (!got.equal(want)) wrong.push([what, dtype, n]);
               };
               const mine = give(n, rank, dtype);
               const root = n % size;
               const [reduced, sent, gathered, part] = [mine.clone(), mine.clone(), core.zeros([n * size], { dtype }), core.zeros([n], { dtype })];
               const small = Math.min(n, Math.floor(700_000 / size) - size);
               const works = [
                 group.allReduce(reduced),
                 group.broadcast(sent, root),
                 group.allGather(gathered, mine),
                 group.reduceScatter(part.narrow(0, 0, small), give(small * size, rank, dtype)),
               ];
               for (const i of n % 2 ? [3, 1, 0, 2] : [0, 2, 1, 3]) works[i].wait();
               check('all_reduce', reduced, total(n, dtype));
               check('broadcast', sent, give(n, root, dtype));
               for (let r = 0; r < size; r++) check('all_gather', gathered.narrow(0, r * n, n), give(n, r, dtype));
               check('reduce_scatter', part.narrow(0, 0, small), total(small, dtype, rank * small));
             });
           }
         }
       }
       report({ wrong, checked });
       await group.destroy();`,
    );
    for (const run of runs) {
      expect(run.err).toBe('');
      expect(run.reports[0]!.wrong).toEqual([]);
      expect(run.reports[0]!.checked).toBeGreaterThan(300);
    }
  });

  it('sums are rounded once and have the same bits on every rank', async () => {
    const runs = await runRanks(
      3,
      `${OPEN}
       const results = [];
       for (const dtype of ['float32', 'bfloat16', 'float16']) {
         for (const n of [1000, 50_001]) {
           const mine = core.arange(0, n).mul(0.37 * (rank + 1)).sin().to({ dtype });
           const exact = core.zeros([n], { dtype: 'float64' });
           for (let r = 0; r < size; r++) exact.add_(core.arange(0, n).mul(0.37 * (r + 1)).sin().to({ dtype }).to({ dtype: 'float64' }));
           await group.allReduce(mine).done();
           const all = core.zeros([n * size], { dtype });
           await group.allGather(all, mine).done();
           const same = [1, 2].every((r) => all.narrow(0, 0, n).equal(all.narrow(0, r * n, n)));
           const off = mine.ne(exact.to({ dtype })).to({ dtype: 'float64' }).mean().itemSync();
           results.push([dtype, same, off]);
         }
       }
       report({ results });
       await group.destroy();`,
    );
    for (const run of runs) {
      for (const [dtype, same, off] of run.reports[0]!.results as [string, boolean, number][]) {
        expect(same).toBe(true);
        // Two float32 sums may each be rounded; the shorter dtypes are added up in float32 and rounded at the end.
        expect(off, dtype).toBeLessThan(dtype === 'float32' ? 0.5 : 0.01);
      }
    }
  });

  it('launched together, operations run in their order while nobody waits', async () => {
    const runs = await runRanks(
      2,
      `${OPEN}
       const t = core.tensor([rank + 1]), large = core.ones([400_000]);
       const works = [];
       for (let i = 0; i < 10; i++) works.push(group.allReduce(t), group.allReduce(large, 'max'), group.broadcast(t, i % 2));
       const end = Date.now() + 5000;
       while (!works.at(-1).isCompleted && Date.now() < end); // no wait(), no turn of the event loop
       report({ completed: works.map((work) => work.isCompleted).every(Boolean), t: t.itemSync(), sum: large.sum().itemSync() });
       await Promise.all(works.map((work) => work.done()));
       await group.destroy();`,
    );
    for (const run of runs) expect(run.reports).toEqual([{ completed: true, t: 3 * 2 ** 9, sum: 400_000 }]);
  });
});

describe('reading where it lies', () => {
  // How much of the shared memory this process has touched tells whether the slots were used.
  const TOUCHED = `
    const { readFileSync } = await import('node:fs');
    const touched = () => Number(/memfd:shardloop[^]*?Rss: +(\\d+) kB/.exec(readFileSync('/proc/self/smaps', 'utf8'))[1]);`;

  it.each([
    ['on all ranks', 'true', false],
    ['refused on all', 'false', true],
    ['refused on one', 'rank !== 1', true],
  ])('%s, large gathers and broadcasts are exact', async (_, on, slots) => {
    const runs = await runRanks(
      3,
      `core.call('shardloop::use_single_copy', ${on});
       ${OPEN}${TOUCHED}
       let right = true;
       for (const n of [4097, 50_001, 300_000]) {
         const of = (r) => core.arange(0, n).mul(r + 2).to({ dtype: 'float32' });
         for (let i = 0; i < 5; i++) {
           const mine = of(rank), whole = core.zeros([3 * n]);
           group.allGather(whole, mine).wait();
           mine.fill_(-1); // nobody reads it any more
           const sent = of(rank);
           const work = group.broadcast(sent, i % 3);
           group.barrier().wait();
           work.wait();
           for (let r = 0; r < 3; r++) right &&= whole.narrow(0, r * n, n).equal(of(r));
           right &&= sent.equal(of(i % 3));
         }
       }
       report({ right, kB: touched() });
       const sum = core.ones([100_003]).mul(rank + 1);
       group.allReduce(sum).wait();
       report({ sum: sum.eq(6).all().itemSync() });
       await group.destroy();`,
    );
    for (const run of runs) {
      expect(run.err).toBe('');
      const [{ right, kB }, sum] = run.reports as [{ right: boolean; kB: number }, unknown];
      expect(right).toBe(true);
      expect(sum).toEqual({ sum: true });
      if (slots) expect(kB).toBeGreaterThan(1000);
      else expect(kB).toBeLessThan(500);
    }
  });

  it.each(['killed', 'gone'])('a peer that is %s in the middle ends it on all', async (how) => {
    const runs = await runRanks(
      3,
      `${OPEN}
       const whole = core.zeros([3 * 4_000_000]), mine = core.ones([4_000_000]);
       group.allGather(whole, mine).wait();
       if (rank === 1) setTimeout(() => ${how === 'killed' ? `process.kill(process.pid, 'SIGKILL')` : 'process.exit(7)'}, 300);
       const text = await failure(async () => { for (let i = 0; i < 2000; i++) await group.allGather(whole, mine).done(); });
       report({ text, still: mine.sum().itemSync() });
       process.exit(0);`,
    );
    for (const rank of [0, 2]) {
      const { text, still } = runs[rank]!.reports[0]!;
      expect(text).toMatch(/^COLLECTIVE_FAILED: \[rank \d\/3\] all_gather #\d+ on group 'world'/);
      expect(still).toBe(4_000_000);
    }
  });
});

describe('what goes to Gloo', () => {
  it('is waited for here as well', async () => {
    const runs = await runRanks(
      2,
      `${OPEN}
       const t = core.tensor([rank + 1, 2]), whole = core.zeros([4]), got = core.zeros([2]), part = core.zeros([2]);
       for (let i = 0; i < 20; i++) {
         (rank === 0 ? group.send(t, 1, 3) : group.receive(got, 0, 3)).wait();
         (rank === 1 ? group.send(t, 0, 4) : group.receive(got, 1, 4)).wait();
         group.gather(rank === 0 ? whole : null, t, 0).wait();
         group.scatter(part, rank === 0 ? whole : null, 0).wait();
         group.allReduce(part, 'max').wait();
         group.reduce(got, 1).wait();
         group.allToAll(whole.clone(), whole).wait();
       }
       report({ whole: whole.toArray(), part: part.toArray(), got: got.toArray() });
       await group.destroy();`,
    );
    expect(runs.map(({ err, reports }) => [err, reports[0]])).toEqual([
      ['', { whole: [1, 2, 2, 2], part: [2, 2], got: [2, 2] }],
      ['', { whole: [0, 0, 0, 0], part: [2, 2], got: [3, 4] }],
    ]);
  });
});

describe('the choice', () => {
  const report = `report({ backend: group.backend, sum: await group.sum(rank + 1) });
    const inner = await dist.subgroup(group, [1, 0]);
    if (rank < 2) report({ backend: inner.backend, sum: await inner.sum(1) });
    await inner.destroy(); await group.destroy();`;

  it('is shm on one host, and Gloo by its name or over several hosts', async () => {
    const backends = async (options: string, env = {}) =>
      (await runRanks(2, `const group = await dist.init(${options}); ${report}`, env)).map(({ reports }) => reports);
    const both = (backend: string) =>
      Array(2).fill([
        { backend, sum: 3 },
        { backend, sum: 2 },
      ]);
    expect(await backends('{}')).toEqual(both('shm'));
    expect(await backends(`{ backend: 'gloo' }`)).toEqual(both('gloo'));
    expect(await backends('{}', { LOCAL_WORLD_SIZE: '1', LOCAL_RANK: '0' })).toEqual(both('gloo'));
  });

  const isolated = ['unshare', '--pid', '--fork', '--kill-child', '--mount-proc'];
  const canIsolate = spawnSync(isolated[0]!, [...isolated.slice(1), 'true']).status === 0;
  if (!canIsolate) console.warn('shm.test.ts: no process namespaces here; the fall back to Gloo is not tested');

  it.skipIf(!canIsolate)('is Gloo on all ranks where one cannot share memory, unless shm was named', async () => {
    const alone = (rank: number) => (rank === 1 ? isolated : []);
    const fallen = await runRanks(3, `const group = await dist.init({ timeoutSeconds: 20 }); ${report}`, {}, alone);
    for (const [rank, run] of fallen.entries()) {
      expect(run.err).toBe('');
      expect(run.reports[0]).toEqual({ backend: 'gloo', sum: 6 });
      if (rank < 2) expect(run.reports[1]).toEqual({ backend: 'gloo', sum: 2 });
    }
    const named = await runRanks(
      3,
      `report({ text: await failure(() => dist.init({ backend: 'shm', timeoutSeconds: 20 })) });`,
      {},
      alone,
    );
    for (const run of named) {
      expect(run.reports[0]!.text).toMatch(
        /^BAD_LAUNCH: \[rank \d\/3\] init on group 'world': backend 'shm' is not possible; leave backend out, or name 'gloo': the ranks cannot share memory: rank 1: /,
      );
    }
  });

  it('needs ranks: a group of one has none', async () => {
    const group = await createGroup({ rank: 0, size: 1, backend: 'shm', store: { inProcess: 'one' } });
    expect(group.backend).toBe('none');
  });
});

describe('the memory', () => {
  it('has no name and goes with the ranks, even killed ones', async () => {
    const before = readdirSync('/dev/shm');
    const runs = await runRanks(
      2,
      `${OPEN}
       await group.barrier().done();
       const { readFileSync, readlinkSync, readdirSync } = await import('node:fs');
       const maps = readFileSync('/proc/self/maps', 'utf8').split('\\n').filter((line) => line.includes('memfd:shardloop'));
       const open = readdirSync('/proc/self/fd').flatMap((fd) => { try { return [readlinkSync('/proc/self/fd/' + fd)]; } catch { return []; } });
       report({ maps: maps.length, open: open.filter((to) => to.includes('memfd:shardloop')) });
       group.allReduce(core.ones([100_000]));
       process.kill(process.pid, 'SIGKILL');`,
    );
    for (const run of runs) {
      expect(run.signal).toBe('SIGKILL');
      expect(run.reports[0]).toEqual({ maps: 1, open: [] });
    }
    expect(readdirSync('/dev/shm')).toEqual(before);
  });

  it('is let go by destroy(), also of many groups and with operations under way', async () => {
    const [run] = await runRanks(
      2,
      `${OPEN}
       const { readFileSync, readdirSync } = await import('node:fs');
       const count = () => readFileSync('/proc/self/maps', 'utf8').split('memfd:shardloop').length - 1;
       const files = () => readdirSync('/proc/self/fd').length;
       const [maps, descriptors] = [count(), files()];
       const groups = [];
       for (let i = 0; i < 6; i++) groups.push(await dist.subgroup(group, [0, 1], { name: 'g' + i }));
       const many = count();
       const tensors = groups.map((_, i) => core.ones([30_000]).mul(i));
       const works = groups.map((g, i) => g.allReduce(tensors[i]));
       await Promise.all(groups.map((g) => g.destroy())); // which does not wait for what is under way
       await Promise.all(works.map((work) => work.done()));
       for (let i = 0; i < 300 && (count() > maps || files() > descriptors); i++) await new Promise((resolve) => setTimeout(resolve, 10));
       report({ maps, many, after: count(), grown: files() - descriptors, sums: tensors.map((t) => t.sum().itemSync() / 30_000) });
       await group.destroy();`,
    );
    expect(run!.err).toBe('');
    const { maps, many, after, grown, sums } = run!.reports[0]!;
    expect([maps, many, after, sums]).toEqual([1, 7, 1, [0, 2, 4, 6, 8, 10]]);
    expect(grown).toBeLessThanOrEqual(0);
  });
});

describe('when it fails', () => {
  it('ranks that differ hear it at once, and a new group works', async () => {
    const runs = await runRanks(
      2,
      `${OPEN}
       const start = Date.now();
       const text = await failure(() => (rank ? group.allReduce(core.ones([5])) : group.allGather(core.zeros([8]), core.ones([4]))).done());
       const ms = Date.now() - start;
       const later = refusal(() => group.barrier());
       await group.destroy();
       const again = await dist.init({ backend: 'shm', timeoutSeconds: 20 });
       report({ text, ms, later, sum: await again.sum(1) });
       await again.destroy();`,
    );
    for (const run of runs) {
      const { text, ms, later, sum } = run.reports[0]!;
      expect(text).toMatch(
        /The operations of the ranks differ: rank \d of the group called all_\w+ of \d+ bytes( \(dtype 6, operation 0\))?, rank \d all_\w+ of \d+ bytes/,
      );
      expect(text).toMatch(/Rank \d called all_(gather|reduce \(sum\)) of float32 \(\d\) as #1\. The ranks differ/);
      expect(ms).toBeLessThan(5000);
      expect(later).toMatch(/^COLLECTIVE_FAILED: .*the group failed earlier/);
      expect(sum).toBe(2);
    }
  });

  it('a synchronous wait ends at the deadline, and by a failure elsewhere in the group', async () => {
    const runs = await runRanks(
      3,
      `const group = await dist.init({ backend: 'shm', timeoutSeconds: 2 });
       group.barrier().wait();
       const start = Date.now();
       // Rank 2 fails in an operation of Gloo's, which rank 1 does not enter; rank 0 waits in shared memory.
       let text;
       try { if (rank === 0) group.barrier().wait(); else if (rank === 2) group.gather(null, core.ones([2]), 1).wait(); else await new Promise((r) => setTimeout(r, 4000)); text = 'nothing'; }
       catch (e) { text = e.code + ': ' + e.message; }
       report({ text, ms: Date.now() - start });
       process.exit(0);`,
    );
    const { text, ms } = runs[0]!.reports[0]!;
    expect(text).toMatch(/^COLLECTIVE_FAILED: \[rank 0\/3\] barrier #2 on group 'world' failed/);
    expect(ms).toBeLessThan(4500);
  });
});
