// ZeRO over real processes: ten AdamW steps of every stage give the parameters of one process that sees the whole batch,
// whatever the split into ranks, micro-batches, buckets and replicas.
import { describe, expect, it } from 'vitest';
import { createGroup } from '../../lib/dist/index.js';
import { Linear, segment } from '../../lib/nn/index.js';
import { alone, zero } from '../../lib/parallel/index.js';
import { runRanks } from '../dist/ranks.js';
import { MODEL } from './small-model.js';

const STEPS = `
/** AdamW steps over all records, shared out over the ranks; the whole parameters at the end. */
async function train(options, { dtype = 'float64', micro = 1, clip = 0, checkpointing = 'none', steps = 10 } = {}) {
  const model = build(options === null ? 0 : rank, dtype); // rank 0's parameters count
  const strategy = options === null ? parallel.alone : parallel.zero(model.segments, options.group ?? group, options);
  const named = model.parameters.map((p, i) => ['p' + i, p]);
  const own = parallel.partsOf(strategy, [...named, ['unused', model.unused], ['empty', model.empty]]);
  const optimizer = new optim.AdamW({ params: own, lr: 0.05, weightDecay: 0.1 });
  const mine = options === null ? records : records.filter((_, i) => i % (size + 1) % size === rank); // uneven
  const per = Math.ceil(records.length / micro);
  for (let i = 0; i < steps; i++) {
    for (let m = 0; m < micro; m++) {
      run(model, mine.slice(m * per, (m + 1) * per), { strategy, checkpointing, last: m === micro - 1 });
    }
    await strategy.finish();
    if (clip > 0) {
      const parts = own.map(([, t]) => t);
      const norm = Math.sqrt(await strategy.sumOverParts(optim.gradNorm(parts) ** 2));
      optimizer.step({ gradScale: optim.clipCoefficient(norm, clip) });
    } else optimizer.step();
    optimizer.zeroGrad();
    strategy.updated();
  }
  const values = await strategy.whole(() => [...model.parameters, model.unused, model.empty].map((p) => p.dataSync()));
  optimizer.dispose();
  strategy.dispose();
  return values;
}
const apart = (a, b) => Math.max(...a.flatMap((values, i) => Array.from(values, (v, j) => Math.abs(v - b[i][j]))));
`;

describe('zero', () => {
  it.each([1, 2, 3, 4])('equals one process on %i ranks in float64, for every stage and recipe', async (ranks) => {
    const runs = await runRanks(
      ranks,
      `${MODEL}${STEPS}
       const r = {};
       const recipes = { plain: {}, micro: { micro: 2 }, clip: { clip: 0.1 }, checkpointed: { checkpointing: 'full' },
         all: { micro: 3, clip: 0.1, checkpointing: 1 } };
       for (const [name, recipe] of Object.entries(recipes)) {
         const expected = await train(null, recipe);
         for (const stage of [1, 2, 3]) r[name + ' ' + stage] = apart(await train({ stage }, recipe), expected);
       }
       const expected = await train(null);
       for (const stage of [1, 3]) for (const bucketBytes of [1, 200])
         r['buckets of ' + bucketBytes + ' ' + stage] = apart(await train({ stage, bucketBytes }), expected);
       for (const prefetch of [0, 5]) r['prefetch ' + prefetch] = apart(await train({ stage: 3, prefetch }), expected);
       for (const [stage, offload] of [[1, 'optimizer'], [2, 'optimizer'], [3, 'optimizer'], [3, 'parameters']])
         for (const micro of [1, 2])
           r['offload ' + offload + stage + micro] = apart(await train({ stage, offload }, { micro }), await train(null, { micro }));
       report(r);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      const results = Object.entries(reports[0] as Record<string, number>);
      expect(results).toHaveLength(29);
      // float64, ten steps: only the order of sums differs, magnified by Adam's division where a gradient is near zero.
      for (const [name, distance] of results) expect(distance, name).toBeLessThan(1e-9);
    }
  });

  it('shards within and replicates between: hybrid, on a mesh', async () => {
    const runs = await runRanks(
      4,
      `${MODEL}${STEPS}
       const r = {};
       const expected = await train(null, { micro: 2, clip: 0.1 });
       for (const shape of [{ replicate: 2, shard: 2 }, { replicate: 4, shard: 1 }, { replicate: 1, shard: 4 }]) {
         const mesh = await dist.mesh(group, shape);
         for (const stage of [1, 2, 3]) {
           const options = { stage, group: mesh.group('shard'), replicas: mesh.group('replicate'), bucketBytes: 100 };
           r[JSON.stringify(shape) + stage] = apart(await train(options, { micro: 2, clip: 0.1 }), expected);
         }
         await mesh.destroy();
       }
       report(r);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      const results = Object.entries(reports[0] as Record<string, number>);
      expect(results).toHaveLength(9);
      for (const [name, distance] of results) expect(distance, name).toBeLessThan(1e-9);
    }
  });

  it('holds a share of the parameters under stage 3, frozen ones included, and says so when one is read', async () => {
    const runs = await runRanks(
      2,
      `const { ops } = core;
       class Layer extends nn.Module {
         constructor() { super(); this.base = nn.parameter(core.ones([64, 64])); this.base.requiresGrad = false;
           this.down = nn.parameter(core.ones([64, 2])); }
         forward(x) { return ops.add(ops.matmul(x, this.base), ops.matmul(ops.matmul(x, this.down), ops.t(this.down))); }
       }
       const group = await dist.init({ timeoutSeconds: 30 });
       const layers = Array.from({ length: 8 }, () => new Layer());
       const segments = layers.map((l, i) => nn.segment('l' + i, [l], ([x]) => [l.forward(x)]));
       const whole = core.memory.stats().bytes;
       const strategy = parallel.zero(segments, group, { stage: 3 });
       const held = core.memory.stats().bytes;
       const unreadable = refusal(() => layers[0].base.dataSync());
       const most = [];
       const watch = { ...strategy, reduce(k, last) { most.push(core.memory.stats().bytes - held); strategy.reduce(k, last); } };
       const x = core.ones([1, 64]);
       parallel.runSegments(segments, [x], ([y]) => ops.sum(y), { strategy: watch }).dispose();
       await strategy.finish();
       const parts = layers.map((l) => strategy.part(l.down));
       const grads = parts.map(({ tensor }) => tensor.grad?.numel);
       const readable = await strategy.whole(() => layers[3].base.dataSync().length);
       const after = core.memory.stats().bytes;
       report({ whole, held, unreadable, most: Math.max(...most), grads, starts: parts.map((p) => p.start), readable,
         frozen: strategy.part(layers[0].base).tensor.numel, base: layers[0].base.grad });
       await group.destroy();`,
    );
    for (const [rank, { err, reports }] of runs.entries()) {
      expect(err).toBe('');
      const { whole, held, most, ...rest } = reports[0]! as Record<string, number>;
      expect(rest).toEqual({
        unreadable: expect.stringContaining('storage'),
        grads: Array(8).fill(64),
        starts: Array(8).fill(64 * rank),
        readable: 64 * 64,
        frozen: 32 * 64,
        base: null,
      });
      expect(held).toBe(whole! / 2);
      // Two segments' parameters are there at a time: the one that runs and the one that is fetched.
      expect(most).toBeLessThan(2.5 * (whole! / 8));
    }
  });

  it.each([1, 2])('keeps what the optimizer updates apart from the model with offload, on %i ranks', async (ranks) => {
    const runs = await runRanks(
      ranks,
      `const { ops } = core;
       const group = await dist.init({ timeoutSeconds: 30 });
       const report1 = {};
       for (const [stage, offload] of [[1, 'optimizer'], [3, 'optimizer'], [3, 'parameters']]) {
         const layers = Array.from({ length: 4 }, () => new nn.Linear({ in: 64, out: 64, bias: false }));
         const segments = layers.map((l, i) => nn.segment('l' + i, [l], ([x]) => [l.forward(x)]));
         for (const l of layers) core.noGrad(() => ops.fill_(l.weight, 1));
         const before = core.memory.stats().bytes;
         const strategy = parallel.zero(segments, group, { stage, offload, prefetch: 0 });
         const held = core.memory.stats().bytes - before;
         for (const l of layers) ops.fill_(strategy.part(l.weight).tensor, 2);
         const read = () => strategy.whole(() => layers.map((l) => l.weight.dataSync()[0]));
         const old = await read();
         strategy.updated();
         report1[stage + offload] = { held: held / (4 * 64 * 64 * 4), old, now: await read() };
         strategy.dispose();
       }
       report(report1);
       await group.destroy();`,
    );
    const [old, now] = [Array(4).fill(1), Array(4).fill(2)];
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      // In models beside the one that was there; a shard is 1 / ranks. A device would hold all but one shard of it.
      expect(reports[0]).toEqual({
        '1optimizer': { held: 1 / ranks, old, now },
        '3optimizer': { held: 2 / ranks - 1, old, now },
        '3parameters': { held: 1 / ranks - 1, old: now, now }, // gathers read the host's values at once
      });
    }
  });

  it('fills a model that was made without memory, one unit at a time, under every stage', async () => {
    const runs = await runRanks(
      2,
      `class Layer extends nn.Module {
         constructor() { super(); this.weight = nn.parameter(core.empty([64, 64], { device: 'meta' })); }
         forward(x) { return core.ops.matmul(x, this.weight); }
       }
       const group = await dist.init({ timeoutSeconds: 30 });
       const results = {};
       for (const stage of [1, 2, 3]) {
         const layers = Array.from({ length: 8 }, () => new Layer());
         const tied = layers[7].weight; layers[0].weight = tied; // another field that holds the same tensor
         const segments = layers.map((l, i) => nn.segment('l' + i, [l], ([x]) => [l.forward(x)]));
         const order = [];
         const names = new Map(layers.map((l, i) => [l.weight, i]));
         core.memory.resetPeak();
         const before = core.memory.allocatorStats().allocated;
         const strategy = parallel.zero(segments, group, { stage, device: 'cpu', fill(t, into) {
           order.push(names.get(t));
           core.ops.fill_(into, names.get(t));
         } });
         const { allocated, peak } = core.memory.allocatorStats();
         const x = core.ones([1, 64]);
         const loss = parallel.runSegments(segments, [x], ([y]) => core.ops.sum(y), { strategy });
         await strategy.finish();
         const values = await strategy.whole(() => layers.map((l) => l.weight.get(0, 0).itemSync()));
         results[stage] = { order, values, held: (allocated - before) / 16384, most: (peak - before) / 16384,
           device: layers[3].weight.device, trains: layers[3].weight.requiresGrad, tied: layers[0].weight === layers[7].weight,
           gradients: layers.map((l) => strategy.part(l.weight).tensor).every((part) => part.numel === 0 || part.grad !== null) };
         for (const t of [x, loss, ...layers.map((l) => l.weight)]) t[Symbol.dispose]();
         strategy.dispose();
       }
       report(results);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      for (const [stage, result] of Object.entries(reports[0] as Record<string, Record<string, number>>)) {
        const { held, most, order, ...rest } = result as Record<string, number> & { order: number[] };
        // Under stage 3 in the order of the model; the tied one is the first segment's.
        expect(stage === '3' ? order : order.sort((a, b) => (a % 7) - (b % 7))).toEqual([7, 1, 2, 3, 4, 5, 6]);
        const filled = { values: [7, 1, 2, 3, 4, 5, 6, 7] };
        expect(rest).toEqual({ ...filled, device: 'cpu', trains: true, tied: true, gradients: true });
        expect(held).toBeCloseTo(stage === '3' ? 3.5 : 7, 1); // in matrices
        expect(most).toBeLessThan(stage === '3' ? 3.5 + 1.1 : 7.1);
      }
    }
  });

  it('assembles matrices from their parts: Muon is the same under every stage', async () => {
    const runs = await runRanks(
      3,
      `${MODEL}
       async function train(stage) {
         const model = build(0);
         const strategy = stage === 0 ? parallel.alone : parallel.zero(model.segments, group, { stage });
         const matrices = model.parameters.filter((p) => p.ndim === 2 && p.shape[0] === 4);
         const parts = matrices.map((p) => strategy.part(p).tensor);
         const optimizer = new optim.Muon({ params: parts, lr: 0.05 }, (values, use) => strategy.assemble(matrices, values, use));
         for (let i = 0; i < 5; i++) {
           run(model, stage === 0 ? records : records.filter((_, i) => i % size === rank), { strategy });
           await strategy.finish();
           optimizer.step();
           optimizer.zeroGrad();
           for (const p of model.parameters) strategy.part(p).tensor.grad = null;
           strategy.updated();
         }
         return strategy.whole(() => model.parameters.map((p) => p.dataSync()));
       }
       const expected = await train(0);
       const r = {};
       for (const stage of [1, 2, 3])
         r[stage] = Math.max(...(await train(stage)).flatMap((values, i) => Array.from(values, (v, j) => Math.abs(v - expected[i][j]))));
       report(r);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      // The iterations run in bfloat16: a gradient that rounds otherwise moves an element by a step of it, 5 times.
      for (const distance of Object.values(reports[0]!)) expect(distance).toBeLessThan(5 * 0.05 * 2 ** -6);
    }
  });

  it('reduces in the dtype that is asked for, and averages', async () => {
    const runs = await runRanks(
      2,
      `${MODEL}
       const r = {};
       const gradients = async (dtype, options) => {
         const model = build(0, dtype);
         const strategy = parallel.zero(model.segments, group, { stage: 2, ...options });
         const before = group.traffic.get('reduce_scatter')?.bytes ?? 0;
         for (const p of model.parameters) p.grad = core.full(p.shape, 1 + 2 ** -7 + rank * 2 ** -8, { dtype });
         parallel.skipSegments(model.segments, strategy);
         await strategy.finish();
         const { tensor } = model.parameters.map((p) => strategy.part(p)).find((part) => part.tensor.numel > 0);
         const result = [tensor.dtype, tensor.grad?.dtype, tensor.grad && core.noGrad(() => ops._to_copy(tensor.grad, { dtype: 'float64' })).toArray()[0],
           group.traffic.get('reduce_scatter').bytes - before];
         strategy.dispose();
         return result;
       };
       r.own = await gradients('float32', {});
       r.half = await gradients('float32', { reduceDtype: 'bfloat16' });
       r.bf16 = await gradients('bfloat16', {});
       r.up = await gradients('bfloat16', { reduceDtype: 'float32' });
       r.avg = await gradients('float32', { op: 'avg' });
       report(r);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      const { own, half, bf16, up, avg } = reports[0] as Record<string, [string, string, number, number]>;
      const sum = 2 + 2 ** -6 + 2 ** -8;
      expect(own!.slice(0, 3)).toEqual(['float32', 'float32', sum]);
      // In bfloat16 rank 1's value is 1 + 2^-6 already (ties go to even), and so is the sum rounded.
      expect(half!.slice(0, 3)).toEqual(['float32', 'float32', 2 + 2 ** -5]);
      expect(bf16!.slice(0, 3)).toEqual(['bfloat16', 'bfloat16', 2 + 2 ** -5]);
      expect(up!.slice(0, 3)).toEqual(['bfloat16', 'float32', 2 + 3 * 2 ** -7]);
      expect(avg![2]).toBe(sum / 2);
      expect(half![3]).toBe(own![3] / 2);
      expect(up![3]).toBe(bf16![3] * 2);
    }
  });

  it('takes parameters of several dtypes, leaves memory flat, and refuses what makes no sense', async () => {
    const runs = await runRanks(
      2,
      `${MODEL}
       const grown = {};
       const collected = async () => { // what nobody holds any more does not count, whenever it is collected
         for (let i = 0; i < 3; i++) { gc(); await new Promise((resolve) => setTimeout(resolve, 10)); }
         return core.memory.stats();
       };
       for (const stage of [1, 2, 3]) {
         const model = build(0);
         const extra = nn.parameter(core.ones([3], { dtype: 'float64' }));
         model.segments[1].modules.push(new Part({ extra }));
         const strategy = parallel.zero(model.segments, group, { stage });
         const once = async () => {
           core.scope(() => { extra.grad = core.ones([3], { dtype: 'float64' }); });
           run(model, records.slice(rank * 3, rank * 3 + 3), { strategy });
           await strategy.finish();
           for (const p of model.parameters) strategy.part(p).tensor.grad = null;
           strategy.updated();
         };
         await once();
         await once();
         const { handles, bytes } = await collected();
         for (let i = 0; i < 10; i++) await once();
         const after = await collected();
         grown[stage] = [after.handles - handles, after.bytes - bytes, strategy.part(extra).tensor.dtype];
         strategy.dispose();
       }
       const { segments } = build(0);
       const refused = (options) => refusal(() => parallel.zero(segments, group, options));
       const refusals = [{ stage: 4 }, { stage: 1, bucketBytes: 0 }, { stage: 1, prefetch: -1 }, { stage: 1, op: 'max' },
         { stage: 1, reduceDtype: 'int8' }, { stage: 2, replicas: group }, { stage: 2, offload: 'parameters' }, { stage: 1, offload: 'nvme' }].map(refused);
       const model = build(0);
       if (rank === 1) model.frozen.requiresGrad = true;
       refusals.push(refusal(() => parallel.zero(model.segments, group, { stage: 3 })));
       const repeated = [];
       for (const stage of [1, 3]) {
         const again = build(0);
         const strategy = parallel.zero(again.segments, group, { stage });
         strategy.gather(0, 'forward');
         for (const k of [3, 2]) strategy.reduce(k, true); // the backward of segment 1 fails
         repeated.push(refusal(() => strategy.gather(0, 'forward')));
         await strategy.finish();
         run(again, records.slice(rank * 3, rank * 3 + 3), { strategy });
         await strategy.finish();
         strategy.dispose();
       }
       report({ grown, refusals, repeated });
       await group.destroy();`,
      { NODE_OPTIONS: '--expose-gc' },
    );
    for (const [rank, { err, reports }] of runs.entries()) {
      expect(err).toBe('');
      const flat = [0, 0, 'float64'];
      const repeated = expect.stringMatching(
        /received a forward behind that of segment 2; await begin\(segments\) where/,
      );
      expect(reports[0]!.repeated).toEqual([repeated, repeated]);
      expect(reports[0]!.grown).toEqual({ 1: flat, 2: flat, 3: flat });
      expect(reports[0]!.refusals).toEqual([
        'BAD_ARGUMENT: zero: expected stage to be 1, 2 or 3, received 4',
        'BAD_ARGUMENT: zero: expected bucketBytes to be positive, received 0',
        'BAD_ARGUMENT: zero: expected prefetch to be a whole number from 0, received -1',
        "BAD_ARGUMENT: zero: expected op to be 'sum' or 'avg', received \"max\"",
        "BAD_ARGUMENT: zero: expected reduceDtype to be 'float32' or 'bfloat16', received \"int8\"",
        'BAD_ARGUMENT: zero: expected replicas to be another group than that of the shards, received the same',
        "BAD_ARGUMENT: zero: expected stage 3 beside offload 'parameters', received stage 2",
        "BAD_ARGUMENT: zero: expected offload to be 'optimizer' or 'parameters', received \"nvme\"",
        expect.stringContaining(`[rank ${rank}/2] zero on group 'world': expected the same trainable parameters`),
      ]);
    }
  });
});

describe('a group of one', () => {
  it('needs no sharding', async () => {
    const group = await createGroup({ rank: 0, size: 1 });
    const layer = new Linear({ in: 2, out: 2 });
    const segments = [segment('layer', [layer], ([x]) => [layer.forward(x!)])];
    expect(zero(segments, group, { stage: 3 })).toBe(alone);
    expect(alone.part(layer.weight)).toEqual({ tensor: layer.weight, start: 0 });
  });
});
