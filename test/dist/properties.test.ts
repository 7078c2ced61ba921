// Random programs of collectives on 8 ranks, threads of one process over an in-process store: any dtype, shape, root,
// uneven rows, on the world and on a random subgroup; launched one behind the other, waited for in another order. Every
// result must be what the definition (definition.ts) says.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { outcome, SHARED, type Step } from './definition.js';

const SIZE = 8;

const OPS = ['all_reduce', 'reduce', 'reduce_scatter', 'broadcast', 'all_gather', 'all_gather_uneven'];
const MORE = ['all_to_all', 'all_to_all_uneven', 'gather', 'scatter', 'send'];
const REAL = ['float32', 'float64', 'float16', 'bfloat16'];
const REDUCED = [...REAL, 'int8', 'uint8', 'int32', 'int64', 'bool'];

interface Program {
  readonly ranks: readonly number[];
  readonly steps: readonly Step[];
  /** The order in which rank r waits: step i at place (i * orders[r]) mod a prime. */
  readonly orders: readonly number[];
}

const step: fc.Arbitrary<Step> = fc
  .record({
    op: fc.constantFrom(...OPS, ...MORE),
    dtype: fc.constantFrom(...REDUCED, 'int16'),
    shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }),
    reduceOp: fc.constantFrom('sum', 'avg', 'min', 'max', 'product'),
    root: fc.nat(SIZE - 1),
    peer: fc.nat(SIZE - 1),
    seed: fc.nat(1e6),
    rows: fc.array(fc.nat(3), { minLength: 1, maxLength: 11 }),
    inner: fc.boolean(),
  })
  .map((made) => {
    const dtype = made.op.includes('reduce') && made.dtype === 'int16' ? 'int32' : made.dtype;
    const means =
      dtype === 'bool' ? ['min', 'max'] : ['sum', 'min', 'max', 'product', ...(REAL.includes(dtype) ? ['avg'] : [])];
    const needsRows = made.op.includes('uneven') || made.op === 'all_to_all';
    return {
      ...made,
      dtype,
      shape: needsRows && made.shape.length === 0 ? [1] : made.shape,
      reduceOp: means.includes(made.reduceOp) ? made.reduceOp : 'max',
    };
  });

const program: fc.Arbitrary<Program> = fc.record({
  ranks: fc.shuffledSubarray([...Array(SIZE).keys()], { minLength: 1, maxLength: SIZE }),
  steps: fc.array(step, { minLength: 1, maxLength: 12 }),
  orders: fc.array(fc.integer({ min: 1, max: 12 }), { minLength: SIZE, maxLength: SIZE }),
});

const index = (name: string) => new URL(`../../dist/${name}/index.js`, import.meta.url).href;
const RANKS = `
  import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
  import * as core from '${index('core')}';
  import * as dist from '${index('dist')}';
  ${SHARED}
  core.setNumThreads(1);
  if (isMainThread) {
    const workers = Array.from({ length: ${SIZE} }, (_, rank) => new Worker(new URL(import.meta.url), { workerData: rank }));
    process.on('message', async (program) => {
      const answers = workers.map((worker) => new Promise((resolve) => worker.once('message', resolve)));
      for (const worker of workers) worker.postMessage(program);
      process.send(await Promise.all(answers));
    });
    process.on('disconnect', () => process.exit(0));
  } else {
    const world = await dist.createGroup({ rank: workerData, size: ${SIZE}, store: { inProcess: 'properties' }, backend: process.env.BACKEND, timeoutSeconds: 5 });
    parentPort.on('message', (program) => run(world, program).then((r) => parentPort.postMessage(r), (e) => parentPort.postMessage(String(e))));
  }
  function launch(group, step) {
    const { dtype, shape, reduceOp, root: anyRoot } = step;
    const me = group.rank, n = group.size, root = anyRoot % n, peer = step.peer % n;
    const make = (s) => core.tensor(Float64Array.from({ length: s.reduce((a, b) => a * b, 1) }, (_, i) => value(step, me, i))).to({ dtype }).view(s);
    const zeros = (s) => core.zeros(s, { dtype });
    const whole = shape.length ? [shape[0] * n, ...shape.slice(1)] : [n];
    const withRows = (count) => [count, ...shape.slice(1)];
    const mine = () => make(shape);
    const all = [...Array(n).keys()];
    const sum = (list) => list.reduce((a, b) => a + b, 0);
    switch (step.op) {
      case 'all_reduce': { const t = mine(); return [[t], group.allReduce(t, reduceOp)]; }
      case 'reduce': { const t = mine(); return [[t], group.reduce(t, root, reduceOp)]; }
      case 'broadcast': { const t = mine(); return [[t], group.broadcast(t, root)]; }
      case 'all_gather': { const t = zeros(whole); return [[t], group.allGather(t, mine())]; }
      case 'all_gather_uneven': {
        const outputs = all.map((r) => zeros(withRows(rowsOf(step, r))));
        return [outputs, group.allGatherUneven(outputs, make(withRows(rowsOf(step, me))))];
      }
      case 'reduce_scatter': { const t = zeros(shape); return [[t], group.reduceScatter(t, make(whole), reduceOp)]; }
      case 'all_to_all': { const t = zeros(whole); return [[t], group.allToAll(t, make(whole))]; }
      case 'all_to_all_uneven': {
        const inputRows = all.map((to) => rowsBetween(step, me, to)), outputRows = all.map((from) => rowsBetween(step, from, me));
        const t = zeros(withRows(sum(outputRows)));
        return [[t], group.allToAll(t, make(withRows(sum(inputRows))), { inputRows, outputRows })];
      }
      case 'gather': { const t = me === root ? zeros(whole) : null; return [t && [t], group.gather(t, mine(), root)]; }
      case 'scatter': { const t = zeros(shape); return [[t], group.scatter(t, me === root ? make(whole) : null, root)]; }
      default: {
        if (root === peer || (me !== root && me !== peer)) return [null, null];
        if (me === root) return [null, group.send(mine(), peer, step.seed)];
        const t = zeros(shape);
        return [[t], group.receive(t, root, step.seed)];
      }
    }
  }
  async function run(world, { ranks, steps, orders }) {
    const inner = await dist.subgroup(world, ranks, { name: 'inner' });
    const launched = steps.map((step) => {
      const group = step.inner ? inner : world;
      return group.rank < 0 ? [null, null] : launch(group, step);
    });
    const order = steps.map((_, i) => i).sort((a, b) => ((a + 1) * orders[world.rank]) % 13 - ((b + 1) * orders[world.rank]) % 13);
    for (const i of order) await launched[i][1]?.done();
    await world.barrier().done();
    await inner.destroy();
    return launched.map(([outputs]) => outputs && outputs.flatMap((t) => Array.from(t.dataSync(), Number)));
  }`;

let folder: string;
let ranks: ChildProcess;
let complaints = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'shardloop-test-properties-'));
  writeFileSync(join(folder, 'ranks.mjs'), RANKS);
});
afterEach(() => {
  ranks.kill('SIGKILL');
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function startRanks(backend: string): void {
  complaints = '';
  const env = { ...process.env, BACKEND: backend };
  ranks = spawn(process.execPath, [join(folder, 'ranks.mjs')], { env, stdio: ['ignore', 'ignore', 'pipe', 'ipc'] });
  ranks.stderr!.on('data', (chunk) => (complaints += chunk));
}

function run(what: Program): Promise<((number[] | null)[] | string)[]> {
  return new Promise((resolve, reject) => {
    const ended = (code: number | null, signal: string | null) =>
      reject(new Error(`the ranks ended with ${signal ?? code}: ${complaints}`));
    ranks.once('exit', ended);
    ranks.once('message', (message) => {
      ranks.off('exit', ended);
      resolve(message as ((number[] | null)[] | string)[]);
    });
    ranks.send(what);
  });
}

describe('every collective', () => {
  it.each(['gloo', 'shm'])('over %s is its definition, whatever is under way beside it', async (backend) => {
    startRanks(backend);
    let done = 0;
    await fc.assert(
      fc.asyncProperty(program, async (made) => {
        const results = await run(made);
        done += 1;

        for (const [rank, got] of results.entries()) {
          if (typeof got === 'string') throw new Error(`rank ${rank}: ${got}`);
          for (const [i, one] of made.steps.entries()) {
            const [me, size] = one.inner ? [made.ranks.indexOf(rank), made.ranks.length] : [rank, SIZE];
            const within = { ...one, root: one.root % size, peer: one.peer % size };
            const expected = me < 0 ? null : outcome(within, me, size);
            const slack = one.reduceOp === 'avg' && one.op.includes('reduce') ? 0.02 : 0;
            const close =
              got[i]?.every((x, k) => Math.abs(x - expected![k]!) <= slack) && got[i]!.length === expected!.length;
            if (!(close ?? expected === null)) {
              throw new Error(
                `rank ${rank}: ${JSON.stringify(one)} gave ${JSON.stringify(got[i])}, not ${JSON.stringify(expected)}`,
              );
            }
          }
        }
      }),
      {
        numRuns: 150,
        interruptAfterTimeLimit: 20_000,
        endOnFailure: true,
        seed: process.env.SEED ? Number(process.env.SEED) : undefined,
      },
    );
    expect(complaints).toBe('');
    expect(done).toBeGreaterThan(20); // a program that hangs ends with the time, and the property with it
  });
});
