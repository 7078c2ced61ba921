// Packed gradients between two real ranks against their definitions in Python (compress.py): blocks of int8 with a scale
// each, and the largest elements with error feedback, in one piece a shard and in several.
import { expect, it } from 'vitest';
import { runRanks } from '../dist/ranks.js';
import { type HostTensor, numbers, python } from './python.js';

const [RANKS, STEPS, N] = [2, 6, 1500];
const SHARD = 752; // 1500 over two, rounded up to a multiple of 16

// Numbers of very different size side by side, so that blocks and pieces differ; the same on both sides.
const gradient = (step: number, rank: number) =>
  Float32Array.from({ length: N }, (_, i) => {
    const hash = Math.imul(i + 1 + 7919 * (step * RANKS + rank), 2654435761) >>> 8;
    return (hash / 2 ** 23 - 1) * 10 ** ((i >> 7) % 4);
  });

it.each([
  ['int8', { kind: 'int8' }, SHARD],
  ['int8, in pieces of 300', { kind: 'int8' }, 300],
  ['topk', { kind: 'topk', ratio: 0.03 }, SHARD],
  ['topk, in pieces of 300', { kind: 'topk', ratio: 0.03 }, 300],
])('%s', async (_, compression, piece) => {
  const sent = new Map<string, HostTensor>();
  for (let step = 0; step < STEPS; step++) {
    for (let rank = 0; rank < RANKS; rank++) {
      const data = new Uint8Array(gradient(step, rank).buffer);
      sent.set(`g.${step}.${rank}`, { dtype: 'float32', shape: [N], data });
    }
  }
  const args = { ranks: RANKS, steps: STEPS, shard: SHARD, piece, ...compression };
  const { tensors } = await python('compress', args, sent);
  const expected = numbers(tensors.get('p')!);
  const runs = await runRanks(
    RANKS,
    `const gradient = ${gradient.toString().replace(/N\b/g, String(N)).replace(/RANKS/g, String(RANKS))};
     const group = await dist.init({ timeoutSeconds: 30 });
     const results = [];
     for (const stage of [1, 2, 3]) {
       const layer = new nn.Module();
       layer.p = nn.parameter(core.zeros([${N}]));
       const segments = [nn.segment('p', [layer], ([g]) => [core.ops.mul(layer.p, g)])];
       const strategy = parallel.zero(segments, group, { stage, bucketBytes: ${piece * 4 * RANKS}, compression: ${JSON.stringify(compression)} });
       const optimizer = new optim.SGD({ params: parallel.partsOf(strategy, [['p', layer.p]]), lr: 1 });
       for (let step = 0; step < ${STEPS}; step++) {
         core.scope(() => {
           const g = core.tensor(gradient(step, rank));
           parallel.runSegments(segments, [g], ([y]) => core.ops.sum(y), { strategy }).dispose();
         });
         await strategy.finish();
         optimizer.step();
         optimizer.zeroGrad();
         strategy.updated();
       }
       results.push(await strategy.whole(() => Array.from(layer.p.dataSync())));
     }
     if (rank === 0) report({ results });
     await group.destroy();`,
  );
  expect(runs.map(({ err }) => err).join('')).toBe('');
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const { results } = runs[0]!.reports[0] as { results: number[][] };
  expect(results).toHaveLength(3);
  for (const [i, ours] of results.entries()) {
    // The same float32 arithmetic; only the order in which a step's two ranks are added to the parameter differs.
    const apart = ours.reduce((most, value, j) => Math.max(most, Math.abs(value - expected[j]!)), 0);
    expect(apart / largest, `stage ${i + 1}`).toBeLessThan(1e-6);
  }
});
