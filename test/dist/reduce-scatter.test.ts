// Reduce-scatter over Gloo, whose last part is ours (native/collectives.cc): lists, mixed dtypes, every reduction, in place,
// empty tensors, tensors that are let go early, and a fake group whose tensors have no memory.
import { describe, expect, it } from 'vitest';
import { empty, tensor, zeros } from '../../lib/core/index.js';
import { createGroup } from '../../lib/dist/index.js';
import { runRanks } from './ranks.js';

describe('reduce_scatter', () => {
  it('gives each rank its rows, and leaves the inputs', async () => {
    const runs = await runRanks(
      2,
      `const { tensor, zeros } = core;
       const group = await dist.init({ timeoutSeconds: 20 });
       const r = {};
       const whole = () => tensor([[1, 2], [3, 4]]).add(rank);
       for (const op of ['sum', 'avg', 'min', 'max', 'product']) {
         const out = zeros([1, 2]), input = whole();
         group.reduceScatter(out, input, op).wait();
         r[op] = out.toArray();
         r.kept = input.toArray();
       }
       const outs = [zeros([1, 2]), zeros([3])];
       await group.reduceScatter(outs, [whole(), tensor([1, 2, 3, 4, 5, 6])]).done();
       r.list = outs.map((t) => t.toArray());
       const mixed = [zeros([1, 2]), zeros([1], { dtype: 'int64' })];
       await group.reduceScatter(mixed, [whole(), tensor(BigInt64Array.of(7n, 8n))]).done();
       r.mixed = mixed.map((t) => t.toArray());
       const place = whole();
       group.reduceScatter(place.narrow(0, rank, 1), place).wait();
       r.inPlace = place.narrow(0, rank, 1).toArray();
       group.reduceScatter(zeros([0]), zeros([0])).wait();
       const early = whole(), into = zeros([1, 2]);
       const work = group.reduceScatter(into, early);
       early.dispose();
       await work.done();
       r.early = into.toArray();
       report(r);
       await group.destroy();`,
    );
    const rows = {
      sum: [
        [3, 5],
        [7, 9],
      ],
      avg: [
        [1.5, 2.5],
        [3.5, 4.5],
      ],
      min: [
        [1, 2],
        [3, 4],
      ],
    };
    const more = {
      max: [
        [2, 3],
        [4, 5],
      ],
      product: [
        [2, 6],
        [12, 20],
      ],
    };
    runs.forEach(({ reports: [r], err }, rank) => {
      expect(err).toBe('');
      for (const [op, expected] of Object.entries({ ...rows, ...more })) expect(r![op]).toEqual([expected[rank]]);
      expect(r!.kept).toEqual([
        [1 + rank, 2 + rank],
        [3 + rank, 4 + rank],
      ]);
      expect(r!.list).toEqual([
        [rows.sum[rank]],
        [
          [2, 4, 6],
          [8, 10, 12],
        ][rank],
      ]);
      expect(r!.mixed).toEqual([[rows.sum[rank]], [[14], [16]][rank]]);
      expect(r!.inPlace).toEqual([rows.sum[rank]]);
      expect(r!.early).toEqual([rows.sum[rank]]);
    });
  });

  it('becomes an error when the peer is gone', async () => {
    const [first] = await runRanks(
      2,
      `const group = await dist.init({ timeoutSeconds: 5 });
       group.barrier().wait();
       if (rank === 1) process.exit(0);
       report({ text: await failure(() => group.reduceScatter(core.zeros([1]), core.zeros([2])).wait()) });`,
    );
    expect(first!.reports[0]!.text).toMatch(/^COLLECTIVE_FAILED: \[rank 0\/2\] reduce_scatter \(sum\)/);
  });

  it('needs no memory in a fake group', async () => {
    const group = await createGroup({ rank: 0, size: 2, backend: 'fake' });
    const out = zeros([1]);
    group.reduceScatter(out, tensor([5, 6])).wait();
    expect(out.toArray()).toEqual([5]);
    group.reduceScatter(empty([2], { device: 'meta' }), empty([4], { device: 'meta' })).wait();
    await group.destroy();
  });
});
