// Every collective beside Python's torch.distributed over Gloo: the same inputs on 2, 3 and 4 ranks, the same bytes out. Over
// Gloo both drive the same c10d, so everything is equal bit for bit, rounding included. Shared memory adds up in another
// order, and rounds the short floats once: its reductions of floats are equal but for roundings. One world of each per size.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { call, type Tensor, tensor } from '../../lib/core/index.js';
import { runRanks } from '../dist/ranks.js';
import { python } from './python.js';

interface Case {
  readonly op: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly reduceOp?: string;
  readonly root?: number;
  /** Bytes of an element, for what only moves. */
  readonly width?: number;
}

const WHOLE = ['int8', 'uint8', 'int32', 'int64'];
const REAL = ['float32', 'float64', 'float16', 'bfloat16'];
/** What Gloo reduces, and what we carry as bytes. */
const MOVED: Readonly<Record<string, number>> = {
  ...{ float32: 4, float64: 8, float16: 2, bfloat16: 2, int8: 1, uint8: 1, int32: 4, int64: 8, bool: 1 },
  ...{ int16: 2, complex64: 8, complex128: 16, float8_e4m3fn: 1, float8_e5m2: 1 },
};
const MOVES = ['broadcast', 'all_gather', 'all_gather_uneven', 'all_to_all', 'all_to_all_uneven', 'gather', 'scatter'];

function casesOf(size: number): Case[] {
  const cases: Case[] = [];
  for (const op of ['all_reduce', 'all_reduce_lists', 'reduce', 'reduce_scatter']) {
    for (const dtype of [...REAL, ...WHOLE, 'bool']) {
      const means = dtype === 'bool' ? ['min', 'max'] : ['sum', 'min', 'max', 'product'];
      for (const reduceOp of REAL.includes(dtype) ? [...means, 'avg'] : means) {
        cases.push({ op, dtype, shape: [3, 5], reduceOp, root: size - 1 });
      }
    }
  }
  for (const op of [...MOVES, 'ring']) {
    for (const [dtype, width] of Object.entries(MOVED)) cases.push({ op, dtype, width, shape: [2, 3], root: 1 });
  }
  // Large enough that Gloo cuts it into pieces.
  cases.push({ op: 'all_reduce', dtype: 'float32', shape: [301, 67], reduceOp: 'sum' });
  return cases;
}

/** What every rank of ours does with a case: the text of a module behind ranks.ts's own. */
const RANK = `
  import { readFileSync, writeFileSync } from 'node:fs';
  const { tensor, zeros, call } = core;
  const bytes = (seed, count) => {
    let state = (Math.imul(seed, 2654435761) + 12345) >>> 0;
    return Uint8Array.from({ length: count }, () => { state = (Math.imul(state, 1664525) + 1013904223) >>> 0; return (state >>> 16) & 255; });
  };
  const product = (shape) => shape.reduce((a, b) => a * b, 1);
  const numbers = (seed, shape, dtype) => {
    const data = bytes(seed, product(shape));
    if (dtype === 'bool') return tensor(data.map((b) => b & 1)).ne(0).view(shape);
    const scale = dtype === 'uint8' ? (b) => b / 50 : (b) => (b - 128) / 10;
    return tensor(Float64Array.from(data, scale)).to({ dtype }).view(shape);
  };
  const bits = (seed, shape, { dtype, width }) =>
    product(shape) === 0 ? zeros(shape, { dtype }) : call('aten::view.dtype', tensor(bytes(seed, product(shape) * width).map((b) => (dtype === 'bool' ? b & 1 : b))), dtype).view(shape);
  const hexadecimal = (t) =>
    t.numel === 0 ? '' : Buffer.from(call('aten::view.dtype', t.reshape([t.numel]), 'uint8').dataSync()).toString('hex');
  const group = await dist.init({ timeoutSeconds: 40, backend: process.env.BACKEND });
  const { cases, folder } = JSON.parse(readFileSync(process.env.CASES, 'utf8'));
  async function run(c, index) {
    const { op, shape, dtype, reduceOp, root } = c;
    const seed = index * 64;
    const wholeShape = [shape[0] * size, ...shape.slice(1)];
    if (op === 'all_reduce' || op === 'reduce') {
      const mine = numbers(seed + rank, shape, dtype);
      if (op === 'all_reduce') group.allReduce(mine, reduceOp).wait();
      else {
        const before = hexadecimal(mine);
        await group.reduce(mine, root, reduceOp).done();
        if (rank !== root) return before === hexadecimal(mine) ? [] : ['changed'];
      }
      return [mine];
    }
    if (op === 'all_reduce_lists') {
      const lists = [shape, [7], [2, 1]].map((s, i) => numbers(seed + 8 * i + rank, s, dtype));
      await group.allReduce(lists, reduceOp).done();
      return lists;
    }
    if (op === 'reduce_scatter') {
      const part = zeros(shape, { dtype });
      await group.reduceScatter(part, numbers(seed + rank, wholeShape, dtype), reduceOp).done();
      return [part];
    }
    const mine = bits(seed + rank, shape, c);
    const whole = zeros(wholeShape, { dtype });
    switch (op) {
      case 'broadcast':
        group.broadcast(mine, root).wait();
        return [mine];
      case 'all_gather':
        await group.allGather(whole, mine).done();
        return [whole];
      case 'all_gather_uneven': {
        const outputs = Array.from({ length: size }, (_, r) => zeros([r + 1, ...shape.slice(1)], { dtype }));
        await group.allGatherUneven(outputs, bits(seed + rank, [rank + 1, ...shape.slice(1)], c)).done();
        return outputs;
      }
      case 'all_to_all':
        group.allToAll(whole, bits(seed + rank, wholeShape, c)).wait();
        return [whole];
      case 'all_to_all_uneven': {
        const inputRows = Array.from({ length: size }, (_, b) => (rank + 2 * b) % 3);
        const outputRows = Array.from({ length: size }, (_, a) => (a + 2 * rank) % 3);
        const sum = (list) => list.reduce((a, b) => a + b, 0);
        const output = zeros([sum(outputRows), ...shape.slice(1)], { dtype });
        await group.allToAll(output, bits(seed + rank, [sum(inputRows), ...shape.slice(1)], c), { outputRows, inputRows }).done();
        return [output];
      }
      case 'gather':
        await group.gather(rank === root ? whole : null, mine, root).done();
        return rank === root ? whole.chunk(size) : [];
      case 'scatter':
        await group.scatter(mine, rank === root ? bits(seed + rank, wholeShape, c) : null, root).done();
        return [mine];
      default: {
        const got = zeros(shape, { dtype });
        const works = [group.send(mine, (rank + 1) % size, 5), group.receive(got, (rank + size - 1) % size, 5)];
        await Promise.all(works.map((work) => work.done()));
        return [got];
      }
    }
  }
  const results = [];
  for (const [index, c] of cases.entries()) {
    try { results.push((await run(c, index)).map((t) => (typeof t === 'string' ? t : hexadecimal(t)))); }
    catch (error) { console.error(JSON.stringify(c), error); process.exit(1); }
  }
  writeFileSync(folder + '/' + rank + '.json', JSON.stringify(results));
  await group.destroy();`;

const folder = mkdtempSync(join(tmpdir(), 'shardloop-test-collectives-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The numbers of a tensor's bytes. */
function numbersOf(hexadecimal: string, dtype: string): number[] {
  const bytes = new Uint8Array(Buffer.from(hexadecimal, 'hex'));
  return [...(call('aten::view.dtype', tensor(bytes), dtype) as Tensor).to({ dtype: 'float64' }).dataSync()].map(
    Number,
  );
}

/** Equal, or as far apart as sums in another order may be: `size` roundings of the largest partial result. */
function isClose(ours: string[], theirs: string[], { dtype, reduceOp }: Case, size: number): boolean {
  const epsilon = { float32: 2 ** -23, float64: 2 ** -52, float16: 2 ** -10, bfloat16: 2 ** -7 }[dtype]!;
  return ours.every((text, i) => {
    const [a, b] = [numbersOf(text, dtype), numbersOf(theirs[i]!, dtype)];
    const largest = (y: number) => (reduceOp === 'product' ? Math.abs(y) : 13 * size);
    return (
      a.length === b.length && a.every((x, k) => x === b[k] || Math.abs(x - b[k]!) <= size * epsilon * largest(b[k]!))
    );
  });
}

describe.each(['gloo', 'shm'])('every collective over %s', (backend) => {
  it.each([2, 3, 4])('gives the bytes of torch.distributed on %i ranks', async (size) => {
    const cases = casesOf(size);
    const file = join(folder, 'cases.json');
    writeFileSync(file, JSON.stringify({ cases, folder }));
    const runs = await runRanks(size, RANK, { CASES: file, BACKEND: backend });
    for (const run of runs) expect([run.err, run.code]).toEqual(['', 0]);
    const { value: theirs } = await python<string[][][]>('collectives', { size, cases });
    for (let rank = 0; rank < size; rank++) {
      const ours = JSON.parse(readFileSync(join(folder, `${rank}.json`), 'utf8')) as string[][];
      expect(ours).toHaveLength(cases.length);
      for (const [i, c] of cases.entries()) {
        const [mine, other] = [ours[i]!, theirs[rank]![i]!];
        const rounds =
          backend === 'shm' && REAL.includes(c.dtype) && ['sum', 'avg', 'product'].includes(c.reduceOp ?? '');
        if (rounds && mine.length === other.length && isClose(mine, other, c, size)) continue;
        expect(mine, `rank ${rank} of ${size}: ${JSON.stringify(c)}`).toEqual(other);
      }
    }
  });
});
