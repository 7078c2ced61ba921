// Indexing and slicing against values worked out by Python's rules, and what is no index.
import { describe, expect, it } from 'vitest';
import { arange, memory, noGrad, ops, scope, slice, tensor, zeros } from '../../lib/index.js';
import { raises } from './raises.js';

const grid = () => arange(24).view([2, 3, 4]); // (2, 3, 4): 12a + 4b + c

describe('get', () => {
  it.each<[string, () => { toArray(): unknown }, unknown]>([
    ['a number', () => grid().get(1, 2, 3), 23],
    ['negative numbers', () => grid().get(-1, -3, -4), 12],
    ['fewer numbers than axes', () => grid().get(0, 1), [4, 5, 6, 7]],
    ['nothing', () => tensor([1, 2]).get(), [1, 2]],
    ['a slice', () => grid().get(0, 0, slice(1, 3)), [1, 2]],
    ['an open slice', () => grid().get(0, 0, slice(2)), [2, 3]],
    ['a slice from the end', () => grid().get(0, 0, slice(-3, -1)), [1, 2]],
    ['a slice past the end', () => grid().get(0, 0, slice(2, 100)), [2, 3]],
    ['an empty slice', () => grid().get(0, 0, slice(3, 1)), []],
    ['a step', () => grid().get(0, 0, slice(null, null, 2)), [0, 2]],
    ['everything', () => grid().get(slice(), 0, 0), [0, 12]],
    [
      "'...'",
      () => grid().get('...', 0),
      [
        [0, 4, 8],
        [12, 16, 20],
      ],
    ],
    ["'...' that stands for nothing", () => grid().get(0, 0, 0, '...'), 0],
    ['a new axis', () => grid().get(0, 0, null), [[0, 1, 2, 3]]],
    ['a new axis after', () => tensor([1, 2]).get(slice(), null), [[1], [2]]],
    ['positions', () => grid().get(0, 0, tensor([3n, 0n, 0n])), [3, 0, 0]],
    ['negative positions', () => grid().get(0, 0, tensor([-1n])), [3]],
    ['int32 positions', () => grid().get(0, 0, tensor([1], { dtype: 'int32' })), [1]],
    [
      'positions on two axes are paired',
      () => grid().get(tensor([0n, 1n]), tensor([2n, 0n])),
      [
        [8, 9, 10, 11],
        [12, 13, 14, 15],
      ],
    ],
    [
      'positions around a slice come first',
      () => grid().get(tensor([0n, 1n]), slice(0, 2), tensor([1n, 2n])),
      [
        [1, 5],
        [14, 18],
      ],
    ],
    ['positions behind a number', () => grid().get(1, tensor([0n, 2n]), 1), [13, 21]],
    [
      'a matrix of positions',
      () =>
        arange(4).get(
          tensor([
            [0n, 1n],
            [2n, 3n],
          ]),
        ),
      [
        [0, 1],
        [2, 3],
      ],
    ],
    ['a position without an axis', () => grid().get(tensor(1n), 0, 0), 12],
    ['a mask', () => tensor([1, 2, 3]).get(tensor([true, false, true])), [1, 3]],
    [
      'a mask over two axes',
      () =>
        grid().get(
          tensor([
            [true, false, false],
            [false, false, true],
          ]),
          1,
        ),
      [1, 21],
    ],
    [
      'a mask behind a slice',
      () => grid().get(0, slice(), tensor([true, false, false, true])),
      [
        [0, 3],
        [4, 7],
        [8, 11],
      ],
    ],
    ['a single true', () => tensor([1, 2]).get(tensor(true)), [[1, 2]]],
    ['a single false', () => tensor([1, 2]).get(tensor(false)), []],
    ['a comparison', () => arange(5).get(arange(5).gt(2)), [3, 4]],
  ])('%s', (_, body, expected) => {
    expect(scope(() => body().toArray())).toEqual(expected);
  });

  it('gives views where Python does', () => {
    const t = zeros([2, 2]);
    t.get(1, slice(0, 1)).fill_(5);
    expect(t.toArray()).toEqual([
      [0, 0],
      [5, 0],
    ]);
    const copy = t.get(tensor([0n]));
    copy.fill_(9);
    expect(t.get(0).toArray()).toEqual([0, 0]);
    const same = t.get();
    same.fill_(1);
    expect(t.get(0, 0).itemSync()).toBe(1);
    same.dispose();
    expect(t.isDisposed).toBe(false);
  });

  it('carries gradients', () => {
    const t = tensor([1, 2, 3], { requiresGrad: true });
    ops.add(t.get(0).mul(2), t.get(tensor([2n, 2n])).sum()).backward();
    expect(t.grad?.toArray()).toEqual([2, 0, 2]);
  });

  it('frees what it made on the way', () => {
    const t = grid();
    const before = memory.stats().handles;
    const part = t.get(0, slice(0, 2), null, slice(1, 3));
    expect(part.shape).toEqual([2, 1, 2]);
    expect(memory.stats().handles).toBe(before + 1);
    t.set([0, slice(0, 2)], 1);
    expect(memory.stats().handles).toBe(before + 1);
    expect(() => t.get(0, 99)).toThrow();
    expect(memory.stats().handles).toBe(before + 1);
  });
});

describe('set', () => {
  it.each<[string, (t: ReturnType<typeof zeros>) => void, unknown]>([
    [
      'a number at a place',
      (t) => t.set([1, 2], 5),
      [
        [0, 0, 0],
        [0, 0, 5],
      ],
    ],
    [
      'a number along a slice',
      (t) => t.set([slice(), slice(0, 3, 2)], 5),
      [
        [5, 0, 5],
        [5, 0, 5],
      ],
    ],
    [
      'everywhere',
      (t) => t.set(['...'], 1),
      [
        [1, 1, 1],
        [1, 1, 1],
      ],
    ],
    [
      'everywhere without an index',
      (t) => t.set([], 1),
      [
        [1, 1, 1],
        [1, 1, 1],
      ],
    ],
    [
      'a tensor, broadcast',
      (t) => t.set([slice()], tensor([1, 2, 3])),
      [
        [1, 2, 3],
        [1, 2, 3],
      ],
    ],
    [
      'a tensor with axes of size 1 in front',
      (t) => t.set([0], tensor([[[1, 2, 3]]])),
      [
        [1, 2, 3],
        [0, 0, 0],
      ],
    ],
    [
      'a tensor of another dtype',
      (t) => t.set([0], tensor([1n, 2n, 3n])),
      [
        [1, 2, 3],
        [0, 0, 0],
      ],
    ],
    [
      'a number at positions',
      (t) => t.set([slice(), tensor([0n, 2n])], 4),
      [
        [4, 0, 4],
        [4, 0, 4],
      ],
    ],
    [
      'a tensor at positions',
      (t) => t.set([1, tensor([2n, 0n])], tensor([1, 2])),
      [
        [0, 0, 0],
        [2, 0, 1],
      ],
    ],
    [
      'a tensor of another dtype at positions',
      (t) => t.set([0, tensor([1n])], tensor([7n])),
      [
        [0, 7, 0],
        [0, 0, 0],
      ],
    ],
    [
      'a number under a mask',
      (t) =>
        t.set(
          [
            tensor([
              [true, false, false],
              [false, true, false],
            ]),
          ],
          3,
        ),
      [
        [3, 0, 0],
        [0, 3, 0],
      ],
    ],
    [
      'a boolean',
      (t) => t.set([0, 0], true),
      [
        [1, 0, 0],
        [0, 0, 0],
      ],
    ],
    [
      'a bigint',
      (t) => t.set([0, 0], 2n),
      [
        [2, 0, 0],
        [0, 0, 0],
      ],
    ],
  ])('%s', (_, body, expected) => {
    const t = zeros([2, 3]);
    scope(() => body(t));
    expect(t.toArray()).toEqual(expected);
  });

  it('is refused on a leaf that records, as in Python, and allowed in noGrad', () => {
    const t = tensor([1, 2], { requiresGrad: true });
    raises('OP_FAILED', () => t.set([0], 5));
    noGrad(() => t.set([0], 5));
    expect(t.toArray()).toEqual([5, 2]);
  });
});

describe('refuses', () => {
  it.each<[string, () => unknown]>([
    ['a position past the end', () => grid().get(2)],
    ['a position before the beginning', () => grid().get(-3)],
    ['a fraction', () => grid().get(0.5)],
    ['NaN', () => grid().get(Number.NaN)],
    ['infinity', () => grid().get(Number.POSITIVE_INFINITY)],
    ['too many indices', () => grid().get(0, 0, 0, 0)],
    ["two '...'", () => grid().get('...', '...')],
    ['a string', () => grid().get('0' as never)],
    ['undefined', () => grid().get(undefined as never)],
    ['a boolean', () => grid().get(true as never)],
    ['an array', () => grid().get([0, 1] as never)],
    ['an index of a scalar tensor', () => tensor(1).get(0)],
    ['a float tensor', () => grid().get(tensor([0.5]))],
    ['a uint8 tensor', () => grid().get(tensor([1], { dtype: 'uint8' }))],
    ['a slice of step 0', () => slice(0, 1, 0)],
    ['a slice of step -1', () => slice(0, 1, -1)],
    ['a slice of fractions', () => slice(0.5, 1)],
    ['a slice of strings', () => slice('a' as never)],
    ['set without an array', () => grid().set(0 as never, 1)],
  ])('%s', (_, body) => {
    raises('BAD_ARGUMENT', body);
  });

  it('values that are no values', () => {
    raises('TENSOR_FOREIGN', () => grid().set([0], {} as never));
    raises('TENSOR_FOREIGN', () => grid().set([0], undefined as never));
    raises('BAD_ARGUMENT', () => grid().set([0], 'x' as never));
  });

  it('positions out of range, and masks and values that do not fit, in the words of libtorch', () => {
    raises('OP_FAILED', () => grid().get(tensor([5n])));
    raises('OP_FAILED', () => grid().get(tensor([true, true, true])));
    raises('OP_FAILED', () => grid().set([0, 0], tensor([1, 2, 3])));
  });
});
