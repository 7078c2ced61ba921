// Packed gradients: what a piece becomes on the wire, and what training makes of it.
import { describe, expect, it } from 'vitest';
import { noGrad, ops, randn, scope, zeros } from '../../lib/core/index.js';
import { codecOf } from '../../lib/parallel/compress.js';
import { runRanks } from '../dist/ranks.js';
import { MODEL } from './small-model.js';

const largest = (t: Parameters<typeof ops.abs>[0]) => Number(ops.max(ops.abs(t)).itemSync());

describe('int8', () => {
  const codec = codecOf({ kind: 'int8' });
  it.each([1, 255, 256, 257, 1000])('keeps %i elements within half a step of their block', (n) => {
    scope(() => {
      const pieces = ops.mul(randn([2, n]), 100);
      const packed = codec.pack(pieces, null);
      expect(packed.shape).toEqual([2, Math.ceil(n / 256) * 260]);
      const error = ops.sub(codec.unpack(packed, n), ops.sum(pieces, [0]));
      expect(largest(error)).toBeLessThanOrEqual((2 * 0.5 * largest(pieces)) / 127 + 1e-4);
    });
  });
  it('keeps zeros, and a block’s size does not touch the next one', () => {
    scope(() => {
      const pieces = zeros([1, 512]);
      pieces.set([0, 0], 1e6);
      pieces.set([0, 300], 1e-6);
      const back = codec.unpack(codec.pack(pieces, null), 512);
      expect(back.get(300).itemSync()).toBeCloseTo(1e-6, 10);
      expect(back.get(1).itemSync()).toBe(0);
    });
  });
});

describe('topk', () => {
  it('sends the largest and owes the rest, until all of it has arrived', () => {
    scope(() => {
      const codec = codecOf({ kind: 'topk', ratio: 0.1 });
      const pieces = randn([2, 40]);
      const memory = zeros([2, 40]);
      const received = zeros([40]);
      noGrad(() => {
        for (let i = 0; i < 10; i++) {
          const packed = codec.pack(i === 0 ? pieces : zeros([2, 40]), memory);
          expect(packed.shape).toEqual([2, 4 * 8]);
          ops.add_(received, codec.unpack(packed, 40));
        }
      });
      expect(largest(memory)).toBe(0);
      expect(largest(ops.sub(received, ops.sum(pieces, [0])))).toBeLessThan(1e-6);
    });
  });
});

it('trains with fewer bytes, near the loss of whole gradients', async () => {
  const runs = await runRanks(
    2,
    `${MODEL}
     async function train(options, dtype = 'float32') {
       const model = build(0, dtype);
       const strategy = parallel.zero(model.segments, group, { stage: 2, ...options });
       const own = parallel.partsOf(strategy, model.parameters.map((p, i) => ['p' + i, p]));
       const optimizer = new optim.MasterWeights({ groups: [{ params: own }], optimizer: (groups) => new optim.AdamW({ groups, lr: 0.02 }) });
       const before = [...group.traffic].reduce((sum, [kind, t]) => sum + (/scatter|all_to_all/.test(kind) ? t.bytes : 0), 0);
       let loss;
       for (let i = 0; i < 60; i++) {
         const input = ids(records.slice(rank * 3, rank * 3 + 3));
         const share = parallel.runSegments(model.segments, [input], ([logits]) =>
           ops.div(nn.crossEntropy(ops.view(logits, [-1, 7]), ops.view(input, [-1]), { reduction: 'sum' }), 18), { strategy });
         await strategy.finish();
         loss = await group.sum(Number(share.itemSync()));
         for (const t of [input, share]) t.dispose();
         optimizer.step(); optimizer.zeroGrad(); strategy.updated();
       }
       const after = [...group.traffic].reduce((sum, [kind, t]) => sum + (/scatter|all_to_all/.test(kind) ? t.bytes : 0), 0);
       strategy.dispose();
       return { loss, bytes: after - before };
     }
     const r = { whole: await train({}), int8: await train({ compression: { kind: 'int8' } }),
       topk: await train({ compression: { kind: 'topk', ratio: 0.25 } }), all: await train({ compression: { kind: 'topk', ratio: 1 } }),
       avg: await train({ compression: { kind: 'int8' }, op: 'avg' }), plainAvg: await train({ op: 'avg' }),
       half: await train({ compression: { kind: 'int8' } }, 'bfloat16') };
     const refused = (compression, more) => refusal(() => parallel.zero(build(0).segments, group, { stage: 1, compression, ...more }));
     report({ ...r, refusals: [refused({ kind: 'zip' }), refused({ kind: 'topk', ratio: 0 }), refused({ kind: 'int8' }, { reduceDtype: 'bfloat16' })] });
     await group.destroy();`,
  );
  for (const { err, reports } of runs) {
    expect(err).toBe('');
    type Result = { loss: number; bytes: number };
    const { whole, int8, topk, all, avg, plainAvg, half } = reports[0] as Record<string, Result>;
    expect(Math.abs(all!.loss / whole!.loss - 1)).toBeLessThan(1e-4);
    expect(Math.abs(int8!.loss / whole!.loss - 1)).toBeLessThan(0.05);
    expect(Math.abs(avg!.loss / plainAvg!.loss - 1)).toBeLessThan(0.05);
    expect(Math.abs(half!.loss / whole!.loss - 1)).toBeLessThan(0.2);
    expect(topk!.loss).toBeLessThan(1.5 * whole!.loss + 0.1);
    expect(topk!.bytes / whole!.bytes).toBeCloseTo(0.5, 1); // a quarter of the elements, each with its place
    expect(reports[0]!.refusals).toEqual([
      "BAD_ARGUMENT: zero: expected compression.kind to be 'int8' or 'topk', received \"zip\"",
      'BAD_ARGUMENT: zero: expected compression.ratio to be above 0 and at most 1, received 0',
      'BAD_ARGUMENT: zero: expected reduceDtype or compression, received both',
    ]);
  }
});
