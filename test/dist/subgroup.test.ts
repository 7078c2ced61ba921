// Groups within groups: apart from each other and from the one around, in any order, for members and others; and meshes,
// which are subgroups along named axes.
import { describe, expect, it } from 'vitest';
import { zeros } from '../../lib/core/index.js';
import { createGroup, mesh, subgroup } from '../../lib/dist/index.js';
import { runRanks } from './ranks.js';

const fake = (rank: number, size: number, timeoutSeconds?: number) =>
  createGroup({ rank, size, backend: 'fake', name: 'w', timeoutSeconds });

describe('a subgroup', () => {
  it.each([
    [[], /ranks as a list with at least one rank, received an array of 0/],
    [3 as never, /received 3/],
    [[0, 4], /each of ranks to be a rank from 0 to 3, received 4/],
    [[0, 1.5], /received 1\.5/],
    [[2, 1, 2], /expected each rank once, received \[2, 1, 2\]/],
  ])('refuses %j', async (ranks, message) => {
    const group = await fake(0, 4);
    await expect(subgroup(group, ranks)).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(/^\[rank 0\/4\] subgroup on group 'w'/),
    });
    await expect(subgroup(group, ranks)).rejects.toThrow(message);
    await expect(subgroup(group, [0, 1], { timeoutSeconds: 0 })).rejects.toThrow(/timeoutSeconds to be a positive/);
    await group.destroy();
    await expect(subgroup(group, [0])).rejects.toThrow('the group is destroyed');
  });

  it('has the order that is given, the names of the world, and the options', async () => {
    const world = await fake(5, 8, 33);
    const odd = await subgroup(world, [7, 5, 3, 1], { name: 'odd' });
    expect([odd.rank, odd.size, odd.name, odd.backend, odd.ranks]).toEqual([1, 4, 'odd', 'fake', [7, 5, 3, 1]]);
    const inner = await subgroup(odd, [3, 1]);
    expect([inner.rank, inner.ranks, inner.name]).toEqual([1, [1, 5], 'odd']);
    expect(() => inner.reduce(zeros([1]), 2)).toThrow(
      "[rank 5/8] reduce on group 'odd' of ranks 1, 5: expected root to be a rank from 0 to 1",
    );
    const others = await subgroup(world, [0, 1], { name: 'others' });
    expect([others.rank, others.size, others.backend]).toEqual([-1, 2, 'none']);
    for (const use of [() => others.barrier(), () => others.allReduce(zeros([1])), () => others.send(zeros([1]), 0)]) {
      expect(use).toThrow(/^\[rank 5\/8\] \w+ on group 'others' of ranks 0, 1: this rank is not a member of the group/);
    }
    await expect(others.sum(1)).rejects.toThrow('not a member');
    const nobody = await subgroup(world, [0]);
    await expect(nobody.sum(1)).rejects.toThrow('not a member');
    await expect(nobody.broadcastObject(1)).rejects.toThrow('not a member');
    await expect(mesh(others, { a: 2 })).rejects.toThrow('not a member');
    await others.destroy();
    await world.destroy();
    expect(odd.isDestroyed).toBe(false);
    odd.barrier().wait();
    await expect(subgroup(odd, [1])).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(/subgroup on group 'odd'.*the group that it came from is destroyed/),
    });
    await odd.destroy();
  });

  it('of a group of one is a group of one', async () => {
    const world = await createGroup({ rank: 0, size: 1 });
    const inner = await subgroup(world, [0], { name: 'same' });
    expect([inner.rank, inner.size, inner.name, inner.ranks]).toEqual([0, 1, 'same', [0]]);
    expect(await inner.sum(2)).toBe(2);
    expect((await mesh(world, { a: 1, b: 1 })).group('b').size).toBe(1);
  });

  it('is independent of the others, between four processes', async () => {
    const runs = await runRanks(
      4,
      `const world = await dist.init({ timeoutSeconds: 20 });
       const r = {};
       const low = await dist.subgroup(world, [1, 0], { name: 'low' });
       const high = await dist.subgroup(world, [2, 3], { name: 'high' });
       const mine = rank < 2 ? low : high;
       const again = await dist.subgroup(world, rank < 2 ? [1, 0] : [2, 3], { name: mine.name });
       r.place = [low.rank, high.rank];
       // Different numbers of operations in each, and interleaved in another order on each rank.
       const t = core.tensor([rank + 1]), u = core.tensor([10 * (rank + 1)]), w = core.tensor([100 * (rank + 1)]);
       const order = [() => mine.allReduce(t), () => again.allReduce(u), () => world.allReduce(w)];
       if (rank % 2) order.reverse();
       await Promise.all(order.map((start) => start().done()));
       if (rank < 2) for (let i = 0; i < 5; i++) low.barrier().wait();
       r.sums = [t, u, w].map((x) => x.itemSync());
       const b = core.tensor([rank]);
       mine.broadcast(b, 1).wait();
       r.root = b.itemSync();
       r.object = await mine.allGatherObject(rank);
       r.single = await (await dist.subgroup(world, [rank])).sum(rank);
       await world.destroy();
       r.after = await mine.sum(1);
       await mine.destroy();
       r.twin = await again.sum(2);
       await again.destroy();
       report(r);`,
    );
    for (const [rank, run] of runs.entries()) {
      expect(run.err).toBe('');
      expect(run.reports[0]).toEqual({
        place: [
          [1, -1],
          [0, -1],
          [-1, 0],
          [-1, 1],
        ][rank],
        sums: [rank < 2 ? 3 : 7, rank < 2 ? 30 : 70, 1000],
        root: rank < 2 ? 0 : 3,
        object: rank < 2 ? [1, 0] : [2, 3],
        single: rank,
        after: 2,
        twin: 4,
      });
    }
  });

  it('fails by itself, within its own timeout, with ranks of the world in the message', async () => {
    const runs = await runRanks(
      3,
      `const world = await dist.init({ timeoutSeconds: 30 });
       if (rank > 0) {
         const inner = await dist.subgroup(world, [2, 1], { name: 'inner', timeoutSeconds: 1 });
         if (rank === 2) {
           const started = Date.now();
           report({ text: await failure(() => inner.barrier().done()), ms: Date.now() - started });
         } else await new Promise((resolve) => setTimeout(resolve, 3000));
         await inner.destroy();
       }
       report({ sum: await world.sum(1) });
       if (rank === 2) report({ text: await failure(() => dist.subgroup(world, [1, 2], { timeoutSeconds: 1 })) });
       await world.destroy();`,
    );
    expect(runs.map((run) => run.err)).toEqual(['', '', '']);
    expect(runs[2]!.reports[0]!.text).toMatch(
      /^COLLECTIVE_FAILED: \[rank 2\/3\] barrier #1 on group 'inner' of ranks 2, 1 failed: Timed out.*Arrived: rank 2\. Rank 1 is alive and has not arrived/,
    );
    expect(runs[2]!.reports[0]!.ms).toBeLessThan(4000);
    expect(runs.map((run) => run.reports.find((one) => 'sum' in one)!.sum)).toEqual([3, 3, 3]);
    expect(runs[2]!.reports[2]!.text).toMatch(
      /^BAD_LAUNCH: \[rank 2\/3\] subgroup on group 'world' of ranks 1, 2: the 2 ranks did not find each other within 1 s/,
    );
  });
});

describe('a mesh', () => {
  it.each([
    [{}, /received \{ {2}\}/],
    [{ a: 3 }, /multiply to its 4 ranks, received \{ a: 3 \}/],
    [{ a: 2, b: 3 }, /received \{ a: 2, b: 3 \}/],
    [{ a: 8, b: 0.5 }, /received/],
    [{ a: -2, b: -2 }, /received/],
    [null as never, /received/],
  ])('refuses %j', async (shape, message) => {
    const group = await fake(0, 4);
    await expect(mesh(group, shape)).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
    await expect(mesh(group, shape)).rejects.toThrow(message);
  });

  it.each(Array.from({ length: 24 }, (_, rank) => rank))(
    'lays 24 ranks out along three axes: rank %i',
    async (rank) => {
      const world = await fake(rank, 24);
      const shape = { pipeline: 2, replicate: 3, shard: 4 };
      const m = await mesh(world, shape, { timeoutSeconds: 9 });
      expect(m.shape).toEqual(shape);
      const { pipeline, replicate, shard } = m.coordinates;
      expect(pipeline * 12 + replicate * 4 + shard).toBe(rank);
      expect(m.group('pipeline').ranks).toEqual([0, 1].map((i) => i * 12 + replicate * 4 + shard));
      expect(m.group('replicate').ranks).toEqual([0, 1, 2].map((i) => pipeline * 12 + i * 4 + shard));
      expect(m.group('shard').ranks).toEqual([0, 1, 2, 3].map((i) => pipeline * 12 + replicate * 4 + i));
      expect(m.group('shard').rank).toBe(shard);
      expect(m.group('replicate').name).toBe('replicate');
      expect(() => m.group('tensor' as never)).toThrow(/one of the axes pipeline, replicate, shard, received "tensor"/);
      await m.destroy();
      expect(m.group('shard').isDestroyed).toBe(true);
      expect(world.isDestroyed).toBe(false);
      await world.destroy();
    },
  );

  it('communicates along its axes, and takes a timeout', async () => {
    const runs = await runRanks(
      4,
      `const world = await dist.init({ timeoutSeconds: 20 });
       const m = await dist.mesh(world, { replicate: 2, shard: 2 }, { timeoutSeconds: 1 });
       const r = { at: m.coordinates };
       for (const axis of ['replicate', 'shard']) r[axis] = await m.group(axis).sum(10 ** rank);
       if (rank === 0) {
         const started = Date.now();
         r.late = await failure(() => m.group('shard').barrier().done());
         r.ms = Date.now() - started;
       } else if (rank === 1) await new Promise((resolve) => setTimeout(resolve, 2500));
       await m.destroy();
       r.world = await world.sum(1);
       report(r);
       await world.destroy();`,
    );
    expect(runs.map((run) => run.err)).toEqual(['', '', '', '']);
    expect(runs.map((run) => run.reports[0]!.at)).toEqual([
      { replicate: 0, shard: 0 },
      { replicate: 0, shard: 1 },
      { replicate: 1, shard: 0 },
      { replicate: 1, shard: 1 },
    ]);
    expect(runs.map((run) => run.reports[0]!.replicate)).toEqual([101, 1010, 101, 1010]);
    expect(runs.map((run) => run.reports[0]!.shard)).toEqual([11, 11, 1100, 1100]);
    expect(runs[0]!.reports[0]!.late).toMatch(/barrier #2 on group 'shard' of ranks 0, 1 failed/);
    expect(runs[0]!.reports[0]!.ms).toBeLessThan(4000);
    expect(runs.map((run) => run.reports[0]!.world)).toEqual([4, 4, 4, 4]);
  });
});
