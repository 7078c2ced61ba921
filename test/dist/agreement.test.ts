// SHARDLOOP_DEBUG=collectives: ranks that call unlike operations are told so, all of them, before anything hangs.
import { describe, expect, it } from 'vitest';
import { checksAgreement, verdict } from '../../lib/dist/agreement.js';
import { runRanks } from './ranks.js';

const member = { rank: 0, size: 4, name: 'world', backend: 'gloo' as const };

describe('the checking mode', () => {
  it.each([
    [undefined, false],
    ['', false],
    ['collectives', true],
    ['other, collectives', true],
    ['collective', false],
  ])('with SHARDLOOP_DEBUG=%j: %j', (value, on) => {
    expect(checksAgreement({ SHARDLOOP_DEBUG: value })).toBe(on);
  });

  it('names the larger camp first, and ranks as the world does', () => {
    expect(verdict(member, ['a', 'b', '', 'b'])).toBe('Ranks 1, 3: b; rank 0: a');
    const within = { rank: 7, size: 9, ranks: [7, 2, 5, 4] };
    expect(verdict({ ...member, within }, ['a', 'a', 'b', ''])).toBe('Ranks 7, 2: a; rank 5: b');
  });

  it('tells every rank which one differs, by operation, shape, dtype, reduction, root, and number of calls', async () => {
    const runs = await runRanks(
      3,
      `const { zeros } = core;
       const odd = rank === 1;
       const faults = {
         agree: () => world.allReduce(zeros([2])),
         operation: () => (odd ? world.broadcast(zeros([2])) : world.allReduce(zeros([2]))),
         shape: () => world.allReduce(zeros([odd ? 3 : 2])),
         dtype: () => world.allReduce(zeros([2], { dtype: odd ? 'float64' : 'float32' })),
         reduction: () => world.allReduce(zeros([2]), odd ? 'max' : 'sum'),
         root: () => world.broadcast(zeros([2]), odd ? 1 : 0),
         rows: () => world.allToAll(zeros([3]), zeros([3]), odd ? undefined : { inputRows: [1, 1, 1], outputRows: [1, 1, 1] }),
         apart: async () => { const w = rank === 0 ? world.send(zeros([2]), 1) : odd ? world.receive(zeros([2]), 0) : null; await w?.done(); },
         after: () => world.allReduce(zeros([2])),
       };
       const world = await dist.init({ timeoutSeconds: 20 });
       const texts = {}, times = {};
       for (const [name, fault] of Object.entries(faults)) {
         const started = Date.now();
         texts[name] = await failure(async () => await (await fault())?.done?.());
         times[name] = Date.now() - started;
       }
       // One rank comes with another call than the two that are there; and one does not come at all.
       const late = await dist.createGroup({ rank, size, store: { host: '127.0.0.1', port: Number(process.env.MASTER_PORT) }, name: 'late', timeoutSeconds: 6 });
       const started = Date.now();
       if (rank === 0) await new Promise((resolve) => setTimeout(resolve, 3000));
       texts.late = await failure(() => (odd ? late.barrier() : late.allReduce(zeros([2]))).done());
       times.late = Date.now() - started;
       const some = await dist.createGroup({ rank, size, store: { host: '127.0.0.1', port: Number(process.env.MASTER_PORT) }, name: 'some', timeoutSeconds: 2 });
       if (odd) await new Promise((resolve) => setTimeout(resolve, 3500));
       texts.missing = await failure(() => some.barrier().done());
       texts.refused = await failure(() => some.barrier().done());
       if (!odd) await new Promise((resolve) => setTimeout(resolve, 3000)); // the store is rank 0's
       report({ texts, times });
       await late.destroy();
       await some.destroy();
       await world.destroy();`,
      { SHARDLOOP_DEBUG: 'collectives' },
    );
    for (const [rank, run] of runs.entries()) {
      expect(run.err).toBe('');
      const { texts, times } = run.reports[0] as { texts: Record<string, string>; times: Record<string, number> };
      const mismatch = (others: string, odd: string) =>
        expect.stringMatching(
          new RegExp(
            `^COLLECTIVE_MISMATCH: \\[rank ${rank}/3\\] .* on group 'world': the ranks do not call the same\\. Ranks 0, 2: ${others}; rank 1: ${odd}\\. `,
          ),
        );
      expect(texts).toEqual({
        agree: 'no error',
        operation: mismatch('all_reduce \\(sum\\) of float32 \\(2\\)', 'broadcast \\(root 0\\) of float32 \\(2\\)'),
        shape: mismatch('all_reduce \\(sum\\) of float32 \\(2\\)', 'all_reduce \\(sum\\) of float32 \\(3\\)'),
        dtype: mismatch('.*float32 \\(2\\)', '.*float64 \\(2\\)'),
        reduction: mismatch('all_reduce \\(sum\\).*', 'all_reduce \\(max\\).*'),
        root: mismatch('broadcast \\(root 0\\).*', 'broadcast \\(root 1\\).*'),
        rows: mismatch('all_to_all', 'all_to_all of float32 \\(3\\)'),
        apart: 'no error',
        after: 'no error',
        late:
          `COLLECTIVE_MISMATCH: [rank ${rank}/3] ${rank === 1 ? 'barrier' : 'all_reduce (sum)'} #1 on group 'late': the ranks do ` +
          `not call the same. ${
            rank === 0
              ? 'Ranks 0, 2: all_reduce (sum) of float32 (2); rank 1: barrier'
              : 'Rank 1: barrier; rank 2: all_reduce (sum) of float32 (2); not here yet: rank 0'
          }. Every rank must call the same operations in the same order, with the same shapes and dtypes`,
        missing: expect.stringMatching(
          rank === 1
            ? /^COLLECTIVE_FAILED: .*rank [02] failed first, in barrier: rank 1 did not arrive within the timeout/
            : /^COLLECTIVE_FAILED: \[rank \d\/3\] barrier #1 on group 'some' failed: rank 1 did not arrive within the timeout/,
        ),
        refused: expect.stringMatching(/^COLLECTIVE_FAILED: .*the group failed earlier/),
      });
      for (const name of ['operation', 'shape', 'dtype', 'reduction', 'root', 'rows'])
        expect(times[name]).toBeLessThan(4000);
      if (rank > 0) expect(times.late).toBeLessThan(2900);
    }
  });
});
