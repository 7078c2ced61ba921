// Replication over real processes: the gradients are those of one process that sees the whole batch, tied weights, ranks
// without records and parameters without gradients included. And the plan of the buckets.
import { describe, expect, it } from 'vitest';
import { zeros } from '../../lib/core/index.js';
import { createGroup } from '../../lib/dist/index.js';
import { Linear, Module, type Parameter, parameter, segment } from '../../lib/nn/index.js';
import { planBuckets } from '../../lib/parallel/buckets.js';
import { alone, replicate } from '../../lib/parallel/index.js';
import { runRanks } from '../dist/ranks.js';
import { MODEL } from './small-model.js';

describe('replicate', () => {
  it('gives the gradients of the whole batch, whatever the buckets', async () => {
    const runs = await runRanks(
      2,
      `${MODEL}
       const r = {};
       for (const bucketBytes of [1, 100, undefined]) {
         const model = build(rank); // rank 0's parameters count
         const strategy = parallel.replicate(model.segments, group, { bucketBytes });
         for (let i = 0; i < 3; i++) {
           run(model, rank === 0 ? records.slice(0, 4) : records.slice(4), { strategy });
           await strategy.finish();
           if (i < 2) step(model);
         }
         r.unused = model.unused.grad;
         r.shapes = model.parameters.every((p) => String(p.grad.shape) === String(p.shape));
         step(model);
         r['apart' + bucketBytes] = distance(model.parameters, reference(3));
       }
       report(r);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      expect(reports[0]!.unused).toBe(null);
      expect(reports[0]!.shapes).toBe(true);
      for (const bytes of ['1', '100', 'undefined']) expect(reports[0]![`apart${bytes}`]).toBeLessThan(1e-6);
    }
  });

  it('accumulates before it reduces, and a rank without records only takes part', async () => {
    const runs = await runRanks(
      3,
      `${MODEL}
       const model = build(0);
       const strategy = parallel.replicate(model.segments, group);
       const share = [records.slice(0, 5), records.slice(5), []][rank];
       for (let i = 0; i < 3; i++) {
         if (share.length > 1) {
           run(model, share.slice(0, 2), { strategy, last: false });
           run(model, share.slice(2), { strategy });
         } else run(model, share, { strategy });
         await strategy.finish();
         step(model);
       }
       report({ apart: distance(model.parameters, reference(3)) });
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      expect(reports[0]!.apart).toBeLessThan(1e-6);
    }
  });

  it("averages with op 'avg', and keeps each rank's own parameters without broadcast", async () => {
    const [first] = await runRanks(
      2,
      `${MODEL}
       const model = build(rank);
       const before = model.parameters[0].toArray();
       const strategy = parallel.replicate(model.segments, group, { op: 'avg', broadcast: false });
       const kept = JSON.stringify(before) === JSON.stringify(model.parameters[0].toArray());
       core.noGrad(() => model.parameters.forEach((p) => { p.grad = core.full(p.shape, rank + 1); }));
       parallel.skipSegments(model.segments, strategy);
       await strategy.finish();
       report({ kept, mean: model.parameters[1].grad.toArray()[0][0] });
       await group.destroy();`,
    );
    expect(first!.reports[0]).toEqual({ kept: true, mean: 1.5 });
  });

  it('leaves memory flat, and says when finish() was left out or the ranks differ', async () => {
    const runs = await runRanks(
      2,
      `${MODEL}
       const model = build(0);
       const strategy = parallel.replicate(model.segments, group);
       const once = async () => { run(model, records.slice(rank * 3, rank * 3 + 3), { strategy }); await strategy.finish(); step(model); };
       await once();
       await once();
       const before = core.memory.stats().handles;
       for (let i = 0; i < 20; i++) await once();
       const grown = core.memory.stats().handles - before;
       parallel.skipSegments(model.segments, strategy);
       const twice = refusal(() => parallel.skipSegments(model.segments, strategy));
       await strategy.finish();
       if (rank === 1) model.frozen.requiresGrad = true;
       report({ grown, twice, differ: refusal(() => parallel.replicate(model.segments, group)) });
       await group.destroy();`,
    );
    for (const [rank, { err, reports }] of runs.entries()) {
      expect(err).toBe('');
      expect(reports[0]).toMatchObject({
        twice: expect.stringContaining('before finish() was awaited'),
        differ: expect.stringContaining(
          `[rank ${rank}/2] replicate on group 'world': expected the same trainable parameters`,
        ),
      });
      expect(reports[0]!.grown).toBeLessThanOrEqual(0);
    }
  });

  it('does nothing in a group of one, and refuses a bucket of no bytes', async () => {
    const group = await createGroup({ rank: 0, size: 1, store: { inProcess: 'unused' } });
    expect(replicate([], group)).toBe(alone);
    expect(() => replicate([], group, { bucketBytes: 0 })).toThrow('bucketBytes to be positive, received 0');
  });
});

describe('planBuckets', () => {
  class Tied extends Module {
    constructor(readonly shared: Parameter) {
      super();
    }
    forward(): never {
      throw new Error('not called');
    }
  }
  const shared = parameter(zeros([10, 10]));
  const linears = [0, 1, 2].map(() => new Linear({ in: 4, out: 4 })); // 64 + 16 bytes each
  const half = new Linear({ in: 4, out: 4, bias: false, dtype: 'bfloat16' });
  const parts = [[new Tied(shared)], [linears[0]!], [linears[1]!, half], [linears[2]!, new Tied(shared)]];
  const segments = parts.map((modules, k) => segment(`s${k}`, modules as Module[], (x) => x));

  it('fills buckets in the order of the backward, and a tied weight behind its last reader', () => {
    const plans = planBuckets(segments, { bytes: 160 });
    expect(plans.map((plan) => [plan.readyAt, plan.slots.length, plan.numel])).toEqual([
      [2, 4, 40],
      [2, 1, 16],
      [1, 2, 20],
      [0, 1, 100],
    ]);
    expect(plans.at(-1)!.slots[0]!.parameter).toBe(shared);
    expect(plans[0]!.slots.map((slot) => slot.offset)).toEqual([0, 16, 20, 36]);
  });

  it('leaves out what does not train', () => {
    for (const linear of linears) linear.requiresGrad(false);
    expect(planBuckets(segments, { bytes: 1e9 }).map((plan) => [plan.readyAt, plan.numel])).toEqual([
      [2, 16],
      [0, 100],
    ]);
  });
});
