// A tied table whose large gradient leaves behind the head, and whose rows follow behind the embedding: the parameters of one
// process that sees the whole batch, for every strategy and recipe, and what goes over the wire when.
import { describe, expect, it } from 'vitest';
import { runRanks } from '../dist/ranks.js';
import { distancesOf } from './small-model.js';

const PROGRAM = `
const { ops, tensor, noGrad } = core;
const V = 200;
class Part extends nn.Module { constructor(fields) { super(); Object.assign(this, fields); } forward(x) { return x; } }
/** Segments 0 (embedding) to 3 (head); 'extra' uses the table otherwise too, where it is looked up; 'headless' has a head that does not. */
function build(seed, { dtype = 'float64', extra = false, headless = false } = {}) {
  core.manualSeed(seed);
  const wte = new nn.Embedding({ count: V, size: 4, dtype });
  const hidden = [0, 1].map(() => new nn.Linear({ in: 4, out: 4, dtype }));
  const segments = [
    nn.segment('embed', [wte], ([ids]) => {
      const x = wte.forward(ids);
      return [extra ? ops.add(x, ops.mean(wte.weight)) : x];
    }),
    ...hidden.map((h, i) => nn.segment('h.' + i, [h], ([x]) => [ops.tanh(h.forward(x))])),
    nn.segment('head', [new Part({ weight: wte.weight })], ([x]) => [headless ? x : ops.linear(x, wte.weight)]),
  ];
  return { segments, parameters: [wte.weight, ...hidden.flatMap((h) => [h.weight, h.bias])] };
}
const records = Array.from({ length: 6 }, (_, i) => [i % 7, (i * 3 + 1) % 7, (i * 50 + 2) % V]);
const run = (model, rows, options) => {
  if (rows.length === 0) return parallel.skipSegments(model.segments, options.strategy, options.last);
  const input = tensor(BigInt64Array.from(rows.flat().map(BigInt)), { shape: [rows.length, 3] });
  const loss = parallel.runSegments(model.segments, [input], ([logits]) =>
    ops.div(nn.crossEntropy(ops.view(logits, [-1, V]), ops.view(input, [-1]), { reduction: 'sum', fused: false }), 18), options);
  for (const t of [input, loss]) t.dispose();
};
const strategyOf = (model, { way, group: ranks = group, ...options }) =>
  way === null ? parallel.alone : way === 0 ? parallel.replicate(model.segments, ranks, options)
    : parallel.zero(model.segments, ranks, { stage: way, ...options });
/** AdamW steps over all records, shared out over the ranks; the whole parameters at the end. */
async function train(options, { micro = 1, clip = 0, checkpointing = 'none', steps = 10, dtype } = {}) {
  const model = build(options.way === null ? 0 : rank, { dtype });
  const strategy = strategyOf(model, options);
  const own = parallel.partsOf(strategy, model.parameters.map((p, i) => ['p' + i, p]));
  const optimizer = new optim.AdamW({ params: own, lr: 0.05, weightDecay: 0.1 });
  const mine = options.way === null ? records : records.filter((_, i) => i % (size + 1) % size === rank); // uneven
  const per = Math.ceil(records.length / micro);
  for (let i = 0; i < steps; i++) {
    for (let m = 0; m < micro; m++) {
      run(model, mine.slice(m * per, (m + 1) * per), { strategy, checkpointing, last: m === micro - 1 });
    }
    await strategy.finish();
    if (clip > 0) {
      const norm = Math.sqrt(await strategy.sumOverParts(optim.gradNorm(own.map(([, t]) => t)) ** 2));
      optimizer.step({ gradScale: optim.clipCoefficient(norm, clip) });
    } else optimizer.step();
    optimizer.zeroGrad();
    strategy.updated();
  }
  const values = await strategy.whole(() => model.parameters.map((p) => ops._to_copy(p, { dtype: 'float64' }).dataSync()));
  optimizer.dispose();
  strategy.dispose();
  return values;
}
const apart = (a, b) => Math.max(...a.flatMap((values, i) => Array.from(values, (v, j) => Math.abs(v - b[i][j]))));
const group = await dist.init({ timeoutSeconds: 30, ...(process.env.BACKEND ? { backend: process.env.BACKEND } : {}) });
`;

describe('a tied table', () => {
  it.each([
    [2, ''],
    [2, 'gloo'],
    [3, ''],
    [4, ''],
  ])('equals one process on %i ranks in float64, for every way and recipe (backend %s)', async (ranks, backend) => {
    const runs = await runRanks(
      ranks,
      `${PROGRAM}
       const r = {};
       const recipes = { plain: {}, micro: { micro: 2 }, clip: { clip: 0.1 }, checkpointed: { checkpointing: 'full' },
         all: { micro: 3, clip: 0.1, checkpointing: 1 } };
       for (const [name, recipe] of Object.entries(recipes)) {
         const expected = await train({ way: null }, recipe);
         for (const way of [0, 1, 2, 3]) r[name + ' ' + way] = apart(await train({ way }, recipe), expected);
       }
       const expected = await train({ way: null });
       for (const way of [0, 1, 3]) for (const bucketBytes of [1, 700])
         r['buckets of ' + bucketBytes + ' ' + way] = apart(await train({ way, bucketBytes }), expected);
       for (const [way, offload] of [[1, 'optimizer'], [3, 'parameters']])
         r['offload ' + offload] = apart(await train({ way, offload }, { micro: 2 }), await train({ way: null }, { micro: 2 }));
       if (size === 4) for (const shape of [{ replicate: 2, shard: 2 }, { replicate: 4, shard: 1 }]) {
         const mesh = await dist.mesh(group, shape);
         const groups = { group: mesh.group('shard'), replicas: mesh.group('replicate') };
         r['hybrid ' + shape.shard] = apart(await train({ way: 2, ...groups }, { micro: 2 }), await train({ way: null }, { micro: 2 }));
         await mesh.destroy();
       }
       report(r);
       await group.destroy();`,
      { BACKEND: backend },
    );
    for (const run of runs) {
      // As in zero.test.ts: the order of sums differs, magnified by Adam's division where a gradient is near zero.
      for (const [name, distance] of distancesOf(run, ranks === 4 ? 30 : 28)) expect(distance, name).toBeLessThan(1e-9);
    }
  });

  it('sends its large gradient behind the segment before the head, and rows at the end, where they are few and travel as they are', async () => {
    const runs = await runRanks(
      2,
      `${PROGRAM}
       const r = {};
       const bytes = () => [...group.traffic.values()].reduce((n, t) => n + t.bytes, 0);
       const few = [[1, 2, 3], [4, 3, 2], [1, 1, 1]];
       const cases = {
         few: [few, {}, [0, 1, 2, 3]],
         'a dtype that is its own': [few, { reduceDtype: 'float32' }, [0, 2]],
         many: [Array.from({ length: 9 }, () => [1, 2, 3]), {}, [0, 1, 2, 3]],
         rounded: [few, { reduceDtype: 'bfloat16' }, [0, 1, 2, 3]],
         packed: [few, { compression: { kind: 'int8' } }, [1, 2, 3]],
         none: [[], {}, [0, 1, 2, 3]],
       };
       for (const [name, [rows, options, ways]] of Object.entries(cases)) for (const way of ways) {
         const model = build(0, { dtype: 'float32' });
         const strategy = strategyOf(model, { way, ...options });
         const sent = [];
         const watch = { ...strategy, reduce(k, last) {
           const before = bytes();
           strategy.reduce(k, last);
           sent[k] = bytes() - before;
         } };
         run(model, rows, { strategy: watch });
         await strategy.finish();
         r[name + ' ' + way] = sent;
         strategy.dispose();
       }
       report(r);
       await group.destroy();`,
    );
    const table = 200 * 4;
    const rows = 2 * 9 * (8 + 4 * 4); // of two ranks: an id and four numbers each
    const ids = 4; // the number of them
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      for (const [name, [embedding, , , head]] of Object.entries(reports[0] as Record<string, number[]>)) {
        const wire = name.startsWith('rounded') ? 2 : name.startsWith('packed') ? 1.02 : 4;
        const isEarly = name.startsWith('few') || name.startsWith('a dtype');
        expect(head, name).toBe(/rounded|packed/.test(name) ? 0 : ids);
        if (isEarly) expect(embedding, name).toBe(rows);
        else expect(embedding, name).toBeGreaterThanOrEqual(table * wire);
      }
      const sent = reports[0] as Record<string, number[]>;
      for (const way of [0, 1, 2, 3]) expect(sent[`few ${way}`]![2]).toBeGreaterThanOrEqual(table * 4);
      for (const way of [0, 1, 2, 3]) expect(sent[`many ${way}`]![2]).toBeLessThan(table);
    }
  });

  it('has the same bits on every rank, and in half precision is rounded once more at most', async () => {
    const runs = await runRanks(
      2,
      `${PROGRAM}
       const r = {};
       for (const way of [0, 1, 2, 3]) {
         const values = await train({ way }, { dtype: 'bfloat16', steps: 3 });
         const all = await group.allGatherObject(values.map((v) => Array.from(v)));
         r[way] = JSON.stringify(all[0]) === JSON.stringify(all[1]) && all[0].flat().every(Number.isFinite);
         // One gradient, before any optimizer: of one process in float64, and of the ranks in bfloat16.
         const gradient = async (options, dtype, mine) => {
           const model = build(0, { dtype });
           const same = build(0, { dtype: 'bfloat16' }); // other random numbers in float64
           noGrad(() => model.parameters.forEach((p, i) => ops.copy_(p, same.parameters[i])));
           const strategy = strategyOf(model, options);
           run(model, mine, { strategy });
           await strategy.finish();
           const { tensor: part, start } = strategy.part(model.parameters[0]);
           const values = [Array.from(ops._to_copy(ops.view(part.grad, [-1]), { dtype: 'float64' }).dataSync()), start];
           strategy.dispose();
           return values;
         };
         const mine = records.filter((_, i) => i % 2 === rank);
         const [half, start] = await gradient({ way }, 'bfloat16', mine);
         const [wide] = await gradient({ way: null }, 'float64', records);
         const largest = Math.max(...wide.map(Math.abs));
         r['off ' + way] = Math.max(...half.map((v, i) => Math.abs(v - wide[start + i]))) / largest;
       }
       report(r);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      for (const way of [0, 1, 2, 3]) {
        expect(reports[0]![way], `way ${way}`).toBe(true);
        // Forward and backward in bfloat16: a few roundings of 2^-8, as without rows.
        expect(reports[0]![`off ${way}`], `way ${way}`).toBeLessThan(0.02);
      }
    }
  });

  it('takes rows where no head has a gradient and ranks without records, and leaves no tensor behind', async () => {
    const runs = await runRanks(
      2,
      `${PROGRAM}
       const r = {};
       const input = tensor([1n, 5n, 1n], { shape: [1, 3] });
       const gradient = async (model, strategy) => {
         if (rank === 1 && strategy !== parallel.alone) parallel.skipSegments(model.segments, strategy);
         else parallel.runSegments(model.segments, [input], ([x]) => ops.sum(x), { strategy }).dispose();
         await strategy.finish();
         const { tensor: part, start } = strategy.part(model.parameters[0]);
         const found = core.scope(() => Array.from(ops.view(part.grad, [-1]).dataSync()));
         for (const p of model.parameters) { p.grad = null; strategy.part(p).tensor.grad = null; }
         return [found, start];
       };
       const [expected] = await gradient(build(0, { headless: true }), parallel.alone);
       for (const way of [0, 1, 2, 3]) {
         const model = build(0, { headless: true });
         const strategy = strategyOf(model, { way });
         const [found, start] = await gradient(model, strategy);
         const before = core.memory.stats().handles;
         for (let i = 0; i < 5; i++) await gradient(model, strategy);
         const more = core.memory.stats().handles - before;
         const off = Math.max(...found.map((v, i) => Math.abs(v - expected[start + i])));
         r[way] = { more: Math.max(0, more), off, some: expected.some((v) => v !== 0) }; // fewer where others were collected
         strategy.dispose();
       }
       report(r);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      for (const way of [0, 1, 2, 3]) expect(reports[0]![way], `way ${way}`).toEqual({ more: 0, off: 0, some: true });
    }
  });

  it("averages with op 'avg'", async () => {
    const runs = await runRanks(
      2,
      `${PROGRAM}
       const r = {};
       const mine = records.filter((_, i) => i % 2 === rank);
       for (const way of [0, 1, 2, 3]) {
         const parts = [];
         for (const op of ['sum', 'avg']) {
           const model = build(0);
           const strategy = strategyOf(model, { way, op });
           run(model, mine, { strategy });
           await strategy.finish();
           parts.push(Array.from(ops.view(strategy.part(model.parameters[0]).tensor.grad, [-1]).dataSync()));
           strategy.dispose();
         }
         r[way] = Math.max(...parts[0].map((v, i) => Math.abs(v / 2 - parts[1][i])));
       }
       report(r);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      for (const way of [0, 1, 2, 3]) expect(reports[0]![way]).toBeLessThan(1e-15);
    }
  });

  it('says so where a table is used otherwise, where it is looked up', async () => {
    const runs = await runRanks(
      2,
      `${PROGRAM}
       const model = build(0, { extra: true });
       const strategy = strategyOf(model, { way: 0 });
       report({ message: refusal(() => run(model, records.slice(0, 2), { strategy })) });
       await group.destroy();`,
    );
    for (const { reports } of runs) expect(reports[0]!.message).toMatch(/Give the other use a segment of its own/);
  });
});
