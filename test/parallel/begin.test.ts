// A step that fails on all ranks and is repeated behind begin(), wherever it fails, gives what an undisturbed one gives, bit for
// bit; without begin() it does not. Ranks that failed at different places say so.
import { describe, expect, it } from 'vitest';
import { runRanks } from '../dist/ranks.js';
import { distancesOf } from './small-model.js';

const PROGRAM = `
const { ops, tensor } = core;
const V = 200;
class Part extends nn.Module { constructor(fields) { super(); Object.assign(this, fields); } forward(x) { return x; } }
/** Segments 0 (embedding) to 3 (head), which share a table; the blocks have the same shapes. */
function build() {
  core.manualSeed(0);
  const wte = new nn.Embedding({ count: V, size: 4 });
  const hidden = [0, 1].map(() => new nn.Linear({ in: 4, out: 4 }));
  const segments = [
    nn.segment('embed', [wte], ([ids]) => [wte.forward(ids)]),
    ...hidden.map((h, i) => nn.segment('h.' + i, [h], ([x]) => [ops.tanh(h.forward(x))])),
    nn.segment('head', [new Part({ weight: wte.weight })], ([x]) => [ops.linear(x, wte.weight)]),
  ];
  return { segments, parameters: [wte.weight, ...hidden.flatMap((h) => [h.weight, h.bias])] };
}
const world = await dist.init({ timeoutSeconds: 30, ...(process.env.BACKEND ? { backend: process.env.BACKEND } : {}) });
// A short deadline is not for finding each other.
const group = process.env.DEADLINE ? await dist.subgroup(world, [0, 1], { timeoutSeconds: Number(process.env.DEADLINE) }) : world;
const records = (step, micro) => Array.from({ length: 2 }, (_, i) => [0, 1, 2].map((j) => (step * 31 + micro * 17 + rank * 7 + i * 5 + j * 3) % V));
/** How the model is spread: alone, 'replicate' or options of zero; hybrid ones get groups of their own. */
const strategyOf = (model, way) => way === 'alone' ? parallel.alone : way === 'replicate' ? parallel.replicate(model.segments, group, { bucketBytes: 80 })
  : parallel.zero(model.segments, way.group ?? group, way);
/**
 * Three steps of two micro-batches. In step \`at.step\` (default 1) micro-batch at.micro fails once, where segment at.k is about
 * to run in pass at.pass, and the step is repeated. The whole parameters at the end.
 */
async function train(way, at, { begins = true, steps = 3 } = {}) {
  const model = build();
  const strategy = strategyOf(model, way);
  const own = parallel.partsOf(strategy, model.parameters.map((p, i) => ['p' + i, p]));
  const optimizer = new optim.SGD({ params: own, lr: 0.5 });
  let now = {};
  let due = at !== null;
  const watched = { ...strategy, gather(k, pass) {
    strategy.gather(k, pass);
    if (!due || now.step !== (at.step ?? 1) || now.micro !== at.micro || k !== at.k || pass !== at.pass) return;
    due = false;
    throw new Error('this one fails');
  } };
  const once = async (step) => {
    if (begins) await strategy.begin(model.segments);
    for (const micro of [0, 1]) {
      now = { step, micro };
      const rows = records(step, micro);
      const input = tensor(BigInt64Array.from(rows.flat().map(BigInt)), { shape: [rows.length, 3] });
      try {
        parallel.runSegments(model.segments, [input], ([logits]) =>
          ops.div(nn.crossEntropy(ops.view(logits, [-1, V]), ops.view(input, [-1]), { reduction: 'sum' }), 24),
          { strategy: watched, last: micro === 1 }).dispose();
      } finally { input.dispose(); }
    }
    await strategy.finish();
    optimizer.step();
    optimizer.zeroGrad();
    strategy.updated();
  };
  for (let step = 0; step < steps; step++) {
    try { await once(step); } catch (error) {
      if (error.message !== 'this one fails') throw error;
      await once(step);
    }
  }
  const values = await strategy.whole(() => model.parameters.map((p) => p.dataSync()));
  optimizer.dispose();
  strategy.dispose();
  return values;
}
const apart = (a, b) => Math.max(...a.flatMap((values, i) => Array.from(values, (v, j) => Math.abs(v - b[i][j]))));
const forward = { micro: 1, pass: 'forward', k: 2 };
const ways = { alone: 'alone', replicate: 'replicate', 1: { stage: 1 }, 2: { stage: 2 }, 3: { stage: 3 } };
`;

describe('begin', () => {
  it.each([
    ['shm', 2],
    ['gloo', 2],
    ['shm', 3],
  ])('drops a step that failed anywhere, also with collectives on their way (%s, %i ranks)', async (backend, ranks) => {
    const runs = await runRanks(
      ranks,
      `${PROGRAM}
       const r = {};
       const all = process.env.BACKEND === 'gloo' ? ways : { ...ways, 'small buckets': { stage: 2, bucketBytes: 64 }, '1 offloaded': { stage: 1, offload: 'optimizer' },
         '3 offloaded': { stage: 3, offload: 'parameters' }, 'no prefetch': { stage: 3, prefetch: 0 } };
       for (const [name, way] of Object.entries(all)) {
         const expected = await train(way, null);
         for (const micro of [0, 1]) for (const pass of ['forward', 'backward']) for (const k of [0, 1, 2, 3])
           r[[name, micro, pass, k].join(' ')] = apart(await train(way, { micro, pass, k }), expected);
       }
       report(r);
       await group.destroy();`,
      { BACKEND: backend },
    );
    for (const run of runs) {
      for (const [name, distance] of distancesOf(run, (backend === 'gloo' ? 5 : 9) * 16))
        expect(distance, name).toBe(0);
    }
  });

  it('drops it in hybrid sharding, and what a codec kept of it', async () => {
    const runs = await runRanks(
      4,
      `${PROGRAM}
       const r = {};
       const mesh = await dist.mesh(group, { replicate: 2, shard: 2 });
       const hybrid = { group: mesh.group('shard'), replicas: mesh.group('replicate'), bucketBytes: 64 };
       const compression = { kind: 'topk', ratio: 0.1 };
       for (const [name, way, step] of [['1', { stage: 1, ...hybrid }], ['2', { stage: 2, ...hybrid }], ['3', { stage: 3, ...hybrid }],
         ['int8', { stage: 2, compression: { kind: 'int8' } }], ['topk', { stage: 2, compression }, 0]]) {
         const expected = await train(way, null);
         for (const at of [forward, { micro: 1, pass: 'backward', k: 0 }])
           r[name + ' ' + at.pass] = apart(await train(way, { step, ...at }), expected);
       }
       report(r);
       await mesh.destroy();
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      const results = Object.entries(reports[0] as Record<string, number>);
      expect(results).toHaveLength(10);
      for (const [name, distance] of results) expect(distance, name).toBe(0);
    }
  });

  it('is what makes the difference: without it the first micro-batch counts twice', async () => {
    const runs = await runRanks(
      2,
      `${PROGRAM}
       const r = {};
       for (const [name, way] of Object.entries(ways)) {
         const expected = await train(way, null);
         r[name] = [apart(await train(way, forward), expected), apart(await train(way, forward, { begins: false }), expected)];
       }
       report(r);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      const results = Object.entries(reports[0] as Record<string, number[]>);
      expect(results).toHaveLength(5);
      for (const [name, [withIt, without]] of results) {
        expect(withIt, name).toBe(0);
        expect(without, name).toBeGreaterThan(1e-3);
      }
    }
  });

  it('leaves no tensor behind, and costs an undisturbed step no collective', async () => {
    const runs = await runRanks(
      2,
      `${PROGRAM}
       const r = {};
       const collected = async () => {
         for (let i = 0; i < 3; i++) { gc(); await new Promise((resolve) => setTimeout(resolve, 10)); }
         return core.memory.stats().handles;
       };
       const operations = () => [...group.traffic.values()].reduce((sum, { count }) => sum + count, 0);
       for (const [name, way] of Object.entries(ways)) {
         const counts = [];
         for (const begins of [true, false]) {
           const before = operations();
           await train(way, null, { begins });
           counts.push(operations() - before);
         }
         await train(way, { micro: 1, pass: 'backward', k: 1 });
         const before = await collected();
         for (let i = 0; i < 5; i++) await train(way, { micro: 1, pass: 'backward', k: 1 });
         r[name] = [await collected() - before, counts[0] - counts[1]];
       }
       report(r);
       await group.destroy();`,
      { NODE_OPTIONS: '--expose-gc' },
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      const results = Object.entries(reports[0] as Record<string, number[]>);
      expect(results).toHaveLength(5);
      for (const [name, result] of results) expect(result, name).toEqual([0, 0]);
    }
  });

  it('releases what a segment that failed held under stage 3, in a step or an evaluation', async () => {
    const runs = await runRanks(
      2,
      `${PROGRAM}
       const model = build();
       const strategy = parallel.zero(model.segments, group, { stage: 3 });
       const read = () => refusal(() => model.parameters[1].dataSync()); // of segment 1
       const r = [];
       for (const pass of ['forward', 'evaluate']) {
         strategy.gather(1, pass); // and it fails
         r.push(read());
         await strategy.begin(model.segments);
         r.push(read());
       }
       report(r);
       await group.destroy();`,
    );
    const released = expect.stringContaining('storage');
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      expect(reports[0]).toEqual(['no error', released, 'no error', released]);
    }
  });

  it('drops it on one rank alone where none of its collectives had begun', async () => {
    const runs = await runRanks(
      2,
      `${PROGRAM}
       const r = {};
       for (const name of ['replicate', '1']) {
         const expected = await train(ways[name], null);
         r[name] = apart(await train(ways[name], rank === 0 ? forward : null), expected);
       }
       report(r);
       await group.destroy();`,
    );
    for (const { err, reports } of runs) {
      expect(err).toBe('');
      expect(reports[0]).toEqual({ replicate: 0, 1: 0 });
    }
  });

  it.each(['shm', 'gloo'].flatMap((backend) => ['replicate', '1', '2', '3'].map((way) => [backend, way])))(
    'fails on every rank where one alone failed behind a collective (%s, %s)',
    async (backend, way) => {
      const at = way === 'replicate' || way === '1' ? "{ micro: 1, pass: 'backward', k: 0 }" : 'forward';
      const runs = await runRanks(
        2,
        `${PROGRAM}
       report({ failed: await failure(() => train(ways[${JSON.stringify(way)}], rank === 0 ? ${at} : null)) });
       await group.destroy();`,
        { BACKEND: backend!, DEADLINE: '3' }, // Gloo waits for it; shared memory compares at once
      );
      expect(runs.map(({ err }) => err)).toEqual(['', '']);
      const [first, second] = runs.map(({ reports }) => reports[0]!.failed as string);
      expect(first).toMatch(
        /^COLLECTIVE_FAILED: \[rank 0\/2\] .*begin\(\) drops a step whose collectives had begun only where/,
      );
      expect(second).toMatch(/^COLLECTIVE_FAILED: \[rank 1\/2\]/);
    },
  );
});
