// The gradient of a table lookup where the table has one already: the rows are added to it in place. Against a gradient of the
// table's size that is added, in every dtype and way of asking for gradients.
import { beforeEach, describe, expect, it } from 'vitest';
import {
  backward,
  call,
  type DType,
  grad,
  manualSeed,
  memory,
  ops,
  randn,
  scope,
  type Tensor,
  tensor,
} from '../../lib/core/index.js';
import { Embedding } from '../../lib/nn/index.js';
import { values } from './compare.js';

beforeEach(() => manualSeed(11));

const leafOf = (t: Tensor): Tensor => {
  const x = t.detach().clone();
  x.requiresGrad = true;
  return x;
};
/** Ids of which most come several times. */
const idsOf = (count: number, rows: number, dtype: DType = 'int64') =>
  tensor(BigInt64Array.from({ length: count }, (_, i) => BigInt((i * i * 7 + 3 * i) % rows))).to({ dtype });
const ours = (table: Tensor, ids: Tensor) => call('shardloop::embedding', table, ids) as Tensor;

// (rows, width, ids): one of each; odd ones; and so many elements that several threads share them.
const CASES = [
  [1, 1, 1],
  [7, 3, 20],
  [300, 33, 500],
  [200, 300, 400],
  [5, 4, 0],
] as const;

/** Table, gradient that it has, gradient of the looked-up rows, ids. */
const made = ([rows, width, count]: readonly [number, number, number], dtype: DType) =>
  [
    ...[randn([rows, width]), randn([rows, width]), randn([count, width])].map((t) => t.to({ dtype })),
    idsOf(count, rows),
  ] as [Tensor, Tensor, Tensor, Tensor];

/** The table's gradient after a backward, when it was `there` before. */
function added(lookup: typeof ours, table: Tensor, there: Tensor | null, gradient: Tensor, ids: Tensor): Tensor {
  const leaf = leafOf(table);
  leaf.grad = there?.clone() ?? null;
  const before = leaf.grad;
  backward([lookup(leaf, ids)], [gradient]);
  if (before !== null) expect(ops.equal(leaf.grad!, before)).toBe(true); // in place, as autograd does
  return leaf.grad!;
}

describe.each(['float32', 'float64'] as const)('in %s', (dtype) => {
  it('has the bits of a gradient of its own that is added', () => {
    for (const sizes of CASES) {
      scope(() => {
        const [table, there, gradient, ids] = made(sizes, dtype);
        for (const known of [null, there]) {
          const expected = values(added(ops.embedding, table, known, gradient, ids));
          const got = values(added(ours, table, known, gradient, ids));
          expect([...got.filter((v, i) => v !== expected[i])], String(sizes)).toEqual([]);
        }
        expect(values(ours(table, ids))).toEqual(values(ops.embedding(table, ids)));
      });
    }
  });
});

// Half a unit in the last place, of a number's size, and what sums of up to a hundred numbers in float32 are off.
describe.each([
  ['bfloat16', 2 ** -8],
  ['float16', 2 ** -11],
] as const)('in %s', (dtype, half) => {
  it('is rounded once, where sums by libtorch are rounded at each row', () => {
    for (const sizes of CASES) {
      scope(() => {
        const [table, there, gradient, ids] = made(sizes, dtype);
        const wide = [table, there, gradient].map((t) => t.to({ dtype: 'float64' })) as [Tensor, Tensor, Tensor];
        const exact = values(added(ops.embedding, ...wide, ids));
        const got = values(added(ours, table, there, gradient, ids));
        const tooFar = got.filter((v, i) => Math.abs(v - exact[i]!) > half * 1.01 * Math.abs(exact[i]!) + 2e-5);
        expect([...tooFar], String(sizes)).toEqual([]);
      });
    }
  });
});

it('makes nothing of the size of the table but its first gradient', () => {
  const [rows, width] = [5000, 16];
  const table = leafOf(randn([rows, width]));
  const ids = idsOf(10, rows);
  const peak = () => {
    const output = ours(table, ids);
    const before = memory.allocatorStats('cpu').allocated;
    memory.resetPeak('cpu');
    backward([output], [randn([10, width])]);
    return memory.allocatorStats('cpu').peak - before;
  };
  const size = rows * width * 4;
  expect(peak()).toBeGreaterThanOrEqual(size);
  expect(peak()).toBeLessThan(size / 10);
});

it('takes ids of any shape in int32 and int64, and gradients that do not lie row by row', () => {
  const [table, there, gradient] = made([7, 4, 6], 'float32');
  const ids = idsOf(6, 7);
  const expected = values(added(ops.embedding, table, there, gradient, ids));
  for (const dtype of ['int32', 'int64'] as const) {
    const square = ids.to({ dtype }).reshape([2, 3]);
    const turned = gradient.reshape([2, 3, 4]).transpose(0, 2).contiguous().transpose(0, 2);
    expect(values(added(ours, table, there, turned, square))).toEqual(expected);
  }
});

describe('where autograd must see the gradient, it does', () => {
  const setup = () => {
    const [table, there, gradient, ids] = made([7, 3, 20], 'float64');
    const alone = values(added(ops.embedding, table, null, gradient, ids));
    const leaf = leafOf(table);
    leaf.grad = there.clone();
    return { leaf, there, gradient, ids, alone, sum: values(there).map((v, i) => v + alone[i]!) };
  };

  it('for values: the gradient that is there stays', () => {
    const { leaf, there, gradient, ids, alone } = setup();
    const [found] = grad([ours(leaf, ids)], [leaf], { gradients: [gradient] });
    expect(values(found!)).toEqual(alone);
    expect(values(leaf.grad!)).toEqual(values(there));
  });

  it('for some leaves alone', () => {
    const { leaf, there, gradient, ids, sum } = setup();
    const other = leafOf(randn([20, 3], { dtype: 'float64' }));
    const both = () => ops.add(ours(leaf, ids), other);
    backward([both()], [gradient], { inputs: [other] });
    expect(values(leaf.grad!)).toEqual(values(there));
    backward([both()], [gradient], { inputs: [leaf] });
    expect(values(leaf.grad!)).toEqual(sum);
  });

  it('for a table that is made of something else', () => {
    const { leaf, gradient, ids, alone, there } = setup();
    backward([ours(ops.mul(leaf, 2), ids)], [gradient]);
    expect(values(leaf.grad!)).toEqual(values(there).map((v, i) => v + 2 * alone[i]!));
  });

  it('for gradients of gradients', () => {
    const twice = (lookup: typeof ours) => {
      manualSeed(5);
      const { leaf, ids } = setup();
      const rows = lookup(leaf, ids);
      const [first] = grad([ops.sum(ops.mul(rows, ops.mul(rows, rows)))], [leaf], { createGraph: true });
      backward([ops.sum(ops.mul(first!, first!))]);
      return values(leaf.grad!);
    };
    const [got, expected] = [twice(ours), twice(ops.embedding as typeof ours)];
    for (const [i, value] of expected.entries()) expect(got[i]).toBeCloseTo(value, 9);
    const { leaf, gradient, ids, sum } = setup();
    backward([ours(leaf, ids)], [gradient], { createGraph: true });
    expect(values(leaf.grad!)).toEqual(sum);
  });
});

it('a table used twice in one graph, and beside a head, has the sum of all, whether or not one was there', () => {
  const [table, there, gradient, ids] = made([7, 3, 20], 'float64');
  const others = ops.sub(ops.full_like(ids, 6), ids);
  const x = randn([5, 3], { dtype: 'float64' });
  const total = (lookup: typeof ours, known: Tensor | null) => {
    const leaf = leafOf(table);
    leaf.grad = known?.clone() ?? null;
    const rows = ops.add(lookup(leaf, ids), ops.mul(lookup(leaf, others), 3));
    backward([rows, ops.sum(ops.tanh(ops.linear(x, leaf)))], [gradient, null]);
    return values(leaf.grad!);
  };
  for (const known of [null, there]) {
    const expected = total(ops.embedding as typeof ours, known);
    for (const [i, value] of total(ours, known).entries()) expect(value).toBeCloseTo(expected[i]!, 12);
  }
});

it('a frozen table has none, and new values of the table before the backward do not matter', () => {
  const layer = new Embedding({ count: 4, size: 2 });
  const ids = tensor([1n, 1n]);
  layer.weight.requiresGrad = false;
  expect(layer.forward(ids).requiresGrad).toBe(false);
  layer.weight.requiresGrad = true;
  const output = layer.forward(ids);
  ops.zero_(layer.weight.detach());
  backward([output], [randn([2, 2])]);
  expect(layer.weight.grad!.shape).toEqual([4, 2]);
});

it('on meta tensors it gives shapes, and takes no more memory than on the CPU', () => {
  const layer = new Embedding({ count: 1000, size: 4, device: 'meta' });
  const ids = ops.zeros([2, 3], { dtype: 'int64', device: 'meta' });
  const run = () => backward([ops.sum(layer.forward(ids))]);
  run();
  expect(layer.weight.grad!.shape).toEqual([1000, 4]);
  memory.resetPeak('meta');
  const before = memory.allocatorStats('meta').allocated;
  run();
  expect(memory.allocatorStats('meta').peak - before).toBeLessThan(4000);
});

it('names an id that the table lacks', () => {
  const layer = new Embedding({ count: 5, size: 2 });
  for (const bad of [5n, -1n])
    expect(() => layer.forward(tensor([0n, bad]))).toThrow(`expected ids from 0 to 4, received ${bad}`);
});

it('refuses what does not fit', () => {
  const [table, ids] = [leafOf(randn([4, 2])), tensor([1n])];
  const expected = /expected a floating table \(rows, width\) and int64 or int32 ids/;
  for (const [t, i] of [
    [randn([4]), ids],
    [ids.reshape([1, 1]), ids],
    [table, randn([1])],
    [table, ids.to({ device: 'meta' })],
  ])
    expect(() => ours(t!, i!)).toThrow(expected);
  expect(() => ours(table, tensor([4n]))).toThrow(/out of range/);
  table.grad = randn([4, 2]);
  const changing = tensor([1n, 2n]);
  const output = ours(table, changing);
  ops.copy_(changing, tensor([1n, 4n]));
  expect(() => backward([output], [randn([2, 2])])).toThrow(/modified by an inplace operation/);
});

describe('rows apart from a gradient', () => {
  const take = (table: Tensor) => call('shardloop::take_rows', table) as [Tensor, Tensor];

  it('come where they are expected, of several lookups one behind the other, and are added by id to a part', () => {
    for (const dtype of ['float64', 'bfloat16'] as const) {
      const [table, , gradient, ids] = made([7, 3, 20], dtype);
      const leaf = leafOf(table);
      call('shardloop::expect_rows', leaf);
      backward([ours(leaf, ids)], [gradient]);
      backward([ours(leaf, ids)], [gradient]);
      const [places, rows] = take(leaf);
      expect(leaf.grad).toBeNull();
      expect(values(places)).toEqual(values(ops.cat([ids, ids])));
      expect(values(rows)).toEqual(values(ops.cat([gradient, gradient])));
      const whole = ops.zeros([7, 3], { dtype });
      call('shardloop::add_rows_', whole.reshape([-1]), places, rows, 0);
      const known = ops.zeros([7, 3], { dtype });
      expect(values(whole)).toEqual(
        values(added(ours, table, known, ops.cat([gradient, gradient]), ops.cat([ids, ids]))),
      );
      const part = ops.zeros([11], { dtype }); // begins and ends within a row
      call('shardloop::add_rows_', part, ops.cat([places, tensor([-1n])]), ops.cat([rows, rows.slice({ end: 1 })]), 4);
      expect(values(part)).toEqual(values(whole).slice(4, 15));
    }
  });

  it('are none where nothing was looked up, and nothing else is taken for them', () => {
    const leaf = leafOf(randn([4, 2]));
    expect(take(leaf).map((t) => t.shape)).toEqual([[0], [0, 2]]);
    call('shardloop::expect_rows', leaf);
    backward([ops.sum(ops.add(ours(leaf, tensor([1n])), ops.mean(leaf)))]);
    expect(() => take(leaf)).toThrow(/expected lookups alone/);
    expect(leaf.grad!.shape).toEqual([4, 2]);
  });

  it('refuse what does not fit', () => {
    const [part, ids, rows] = [randn([8]), tensor([1n]), randn([1, 2])];
    const add = (...given: unknown[]) => call('shardloop::add_rows_', ...(given as Tensor[]));
    for (const given of [
      [randn([4, 2]), ids, rows, 0],
      [part, randn([1]), rows, 0],
      [part, ids, randn([2, 2]), 0],
      [part, ids, rows.to({ dtype: 'float64' }), 0],
      [part, ids.to({ device: 'meta' }), rows, 0],
      [part, ids, rows, -1],
    ])
      expect(() => add(...given)).toThrow(/expected a contiguous part/);
    expect(() => add(part, tensor([2n ** 62n]), rows, 0)).toThrow(/so many rows/);
    for (const op of ['expect_rows', 'take_rows'])
      for (const table of [randn([4, 2]), leafOf(randn([4])), ops.mul(leafOf(randn([4, 2])), 2)])
        expect(() => call(`shardloop::${op}`, table)).toThrow(/expected a table \(rows, width\), a leaf/);
  });
});
