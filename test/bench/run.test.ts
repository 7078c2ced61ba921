// Measuring: the patterns and their exact results, wrong elements that are counted, and how often an operation is called.
import { describe, expect, it } from 'vitest';
import { elementsFor, OPERATIONS, type Operation } from '../../lib/bench/operations.js';
import { planBench } from '../../lib/bench/options.js';
import { runBench } from '../../lib/bench/run.js';
import { bytesOf, countWrong, fill, from, moved, reduced, reducible } from '../../lib/bench/values.js';
import { empty, type Tensor, tensor } from '../../lib/core/index.js';
import { createGroup, type Group } from '../../lib/dist/index.js';

const alone = () => createGroup({ rank: 0, size: 1, store: { inProcess: 'unused' } });

/** A group whose all-reduce is replaced; everything else is the group's own. */
function withAllReduce(group: Group, allReduce: (tensor: Tensor) => void): Group {
  return new Proxy(group, {
    get: (target, name) => {
      const value = Reflect.get(target, name, target) as unknown;
      if (name !== 'allReduce') return typeof value === 'function' ? value.bind(target) : value;
      return (t: Tensor) => {
        if (t.dtype !== 'float64') allReduce(t); // the numbers of the measurement itself travel as float64
        return target.barrier();
      };
    },
  });
}

describe('values', () => {
  it('repeats patterns end to end', () => {
    const parts = [
      { pattern: moved(0), count: 300 },
      { pattern: from(moved(1), 50), count: 3 },
    ];
    const expected = [
      ...Array.from({ length: 300 }, (_, i) => moved(0).at(i)),
      ...[50, 51, 52].map((i) => moved(1).at(i)),
    ];
    expect([...bytesOf(parts)]).toEqual(expected);
    expect(bytesOf([{ pattern: moved(0), count: 0 }])).toHaveLength(0);
  });

  it.each(['sum', 'product', 'min', 'max', 'avg'] as const)(
    '%s stays in int8 on many ranks, and differs by rank',
    (op) => {
      for (const size of [1, 2, 3, 42, 43, 127]) {
        const whole = reduced(op, size);
        for (let i = 0; i < whole.period; i++) {
          expect(whole.at(i)).toBeGreaterThanOrEqual(0);
          expect(whole.at(i)).toBeLessThanOrEqual(127);
          expect(whole.at(i + whole.period)).toBe(whole.at(i));
        }
      }
      expect([...bytesOf([{ pattern: reducible(op, 0, 2), count: 61 }])]).not.toEqual([
        ...bytesOf([{ pattern: reducible(op, 1, 2), count: 61 }]),
      ]);
    },
  );

  it('counts what is wrong, NaN too, and allows an average its roundings', () => {
    const parts = [{ pattern: reduced('sum', 3), count: 8 }];
    const right = empty([8]);
    fill(right, parts);
    expect(countWrong(right, { parts })).toBe(0);
    const numbers = right.toArray() as number[];
    expect(countWrong(tensor([...numbers.slice(0, 6), Number.NaN, 99]), { parts })).toBe(2);
    const third = right.div(3);
    expect(countWrong(third, { parts, divisor: 3 })).toBe(0);
    expect(countWrong(third.add(2 ** -23), { parts, divisor: 3 })).toBe(0);
    expect(countWrong(third.add(0.01), { parts, divisor: 3 })).toBe(8);
    expect(countWrong(third.mul(Number.NaN), { parts, divisor: 3 })).toBe(8);
  });

  it('makes at least one element a part, and sizes that are whole parts', () => {
    const gather: Operation = OPERATIONS.all_gather;
    expect(elementsFor(gather, 8, 'float64', 3)).toEqual({ count: 1, size: 24 });
    expect(elementsFor(gather, 100, 'float32', 3)).toEqual({ count: 8, size: 96 });
    expect(elementsFor(OPERATIONS.all_reduce, 100, 'bfloat16', 3)).toEqual({ count: 50, size: 100 });
  });
});

describe('runBench', () => {
  const sizes = { minBytes: '8', maxBytes: '32' };

  it('measures every operation on a group of one', async () => {
    const group = await alone();
    for (const operation of Object.keys(OPERATIONS).filter((name) => name !== 'sendrecv')) {
      const plan = planBench({ operation, ...sizes, iters: 2, warmupIters: 0, datatype: 'half' });
      const { rows, outOfBounds } = await runBench(group, 'cpu', plan);
      expect(rows.map(({ size, count }) => [size, count])).toEqual([
        [8, 4],
        [16, 8],
        [32, 16],
      ]);
      expect(outOfBounds).toBe(0);
      expect(rows.every(({ outOfPlace }) => outOfPlace.timeUs > 0 && outOfPlace.wrong === 0)).toBe(true);
      expect(rows[0]!.inPlace === null).toBe(operation === 'alltoall');
    }
  });

  it('counts the wrong elements of an operation that is faulty', async () => {
    const group = withAllReduce(await alone(), (t) => {
      t.narrow(0, 1, 1).add_(1);
    });
    const plan = planBench({ operation: 'all_reduce', ...sizes, iters: 1, warmupIters: 0 });
    const { rows, outOfBounds } = await runBench(group, 'cpu', plan);
    expect(rows.map(({ outOfPlace, inPlace }) => [outOfPlace.wrong, inPlace!.wrong])).toEqual([
      [1, 1],
      [1, 1],
      [1, 1],
    ]);
    expect(outOfBounds).toBe(6);
  });

  it.each([
    [{ iters: 3, warmupIters: 0, check: 0 }, 3],
    [{ iters: 3, warmupIters: 4, check: 0 }, 7],
    [{ iters: 3, warmupIters: 4, check: 2 }, 9],
  ])('%j: %d calls a place', async (options, calls) => {
    let called = 0;
    const group = withAllReduce(await alone(), () => {
      called += 1;
    });
    const plan = planBench({ operation: 'all_reduce', minBytes: '8', maxBytes: '8', ...options });
    const { rows } = await runBench(group, 'cpu', plan);
    expect(called).toBe(2 * calls);
    expect(rows[0]!.outOfPlace.wrong).toBe(options.check === 0 ? null : 0);
  });

  it('reports each row as it comes, and a size once', async () => {
    const seen: number[] = [];
    const plan = planBench({ operation: 'all_reduce', minBytes: '4', maxBytes: '8', stepBytes: '1', iters: 1 });
    const { rows } = await runBench(await alone(), 'cpu', plan, ({ size }) => seen.push(size));
    expect(seen).toEqual([4, 8]);
    expect(rows).toHaveLength(2);
  });
});
