// What console.log shows of a tensor, and that printing never throws, records or leaks.
import { inspect } from 'node:util';
import { expect, it } from 'vitest';
import { arange, memory, ops, Tensor, tensor, zeros } from '../../lib/index.js';

const show = (t: unknown): string => inspect(t);

it('values, aligned', () => {
  expect(
    show(
      tensor([
        [1, -2.5],
        [3, 4],
      ]),
    ),
  ).toMatchInlineSnapshot(`
    "Tensor float32 [2, 2] cpu
    [[ 1.0000, -2.5000],
     [ 3.0000,  4.0000]]"
  `);
  expect(show(tensor([1, 2, 3]))).toMatchInlineSnapshot(`
    "Tensor float32 [3] cpu
    [1., 2., 3.]"
  `);
  expect(show(tensor([1, -20n].map(BigInt)))).toMatchInlineSnapshot(`
    "Tensor int64 [2] cpu
    [  1, -20]"
  `);
  expect(show(tensor([true, false]))).toMatchInlineSnapshot(`
    "Tensor bool [2] cpu
    [ true, false]"
  `);
  expect(show(tensor(3.25))).toMatchInlineSnapshot(`"Tensor float32 [] cpu 3.2500"`);
  expect(
    show(
      tensor([
        { re: 1, im: -2 },
        { re: 0.5, im: 0 },
      ]),
    ),
  ).toMatchInlineSnapshot(`
    "Tensor complex64 [2] cpu
    [1.0000-2.0000i, 0.5000+0.0000i]"
  `);
});

it('half precision, and values that are no numbers', () => {
  expect(show(tensor([1.5, Number.NaN], { dtype: 'bfloat16' }))).toMatchInlineSnapshot(`
    "Tensor bfloat16 [2] cpu
    [1.5000,    nan]"
  `);
  expect(show(tensor([Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0]))).toMatchInlineSnapshot(`
    "Tensor float32 [3] cpu
    [ inf, -inf,   0.]"
  `);
});

it('very large and very small values', () => {
  expect(show(tensor([1e10, 1]))).toMatchInlineSnapshot(`
    "Tensor float32 [2] cpu
    [1.0000e+10,  1.0000e+0]"
  `);
  expect(show(tensor([1e-7, 2.5]))).toMatchInlineSnapshot(`
    "Tensor float32 [2] cpu
    [1.0000e-7, 2.5000e+0]"
  `);
  expect(show(tensor([2n ** 62n]))).toMatchInlineSnapshot(`
    "Tensor int64 [1] cpu
    [4611686018427387904]"
  `);
});

it('several axes', () => {
  expect(show(arange(8).view([2, 2, 2]))).toMatchInlineSnapshot(`
    "Tensor int64 [2, 2, 2] cpu
    [[[0, 1],
      [2, 3]],

     [[4, 5],
      [6, 7]]]"
  `);
});

it('long rows are wrapped, large tensors elided', () => {
  expect(show(arange(60))).toMatchInlineSnapshot(`
    "Tensor int64 [60] cpu
    [ 0,  1,  2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
     25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49,
     50, 51, 52, 53, 54, 55, 56, 57, 58, 59]"
  `);
  expect(show(arange(100_000).view([50, 2000]))).toMatchInlineSnapshot(`
    "Tensor int64 [50, 2000] cpu
    [[    0,     1,     2, ...,  1997,  1998,  1999],
     [ 2000,  2001,  2002, ...,  3997,  3998,  3999],
     [ 4000,  4001,  4002, ...,  5997,  5998,  5999],
     ...,
     [94000, 94001, 94002, ..., 95997, 95998, 95999],
     [96000, 96001, 96002, ..., 97997, 97998, 97999],
     [98000, 98001, 98002, ..., 99997, 99998, 99999]]"
  `);
  expect(show(arange(2000).view([2, 1000]))).toMatchInlineSnapshot(`
    "Tensor int64 [2, 1000] cpu
    [[   0,    1,    2, ...,  997,  998,  999],
     [1000, 1001, 1002, ..., 1997, 1998, 1999]]"
  `);
});

it('what has no values', () => {
  expect(show(zeros([0, 3]))).toMatchInlineSnapshot(`"Tensor float32 [0, 3] cpu (empty)"`);
  expect(show(zeros([3], { device: 'meta' }))).toMatchInlineSnapshot(`"Tensor float32 [3] meta (no data)"`);
  const gone = tensor([1]);
  gone.dispose();
  expect(show(gone)).toMatchInlineSnapshot(`"Tensor (disposed)"`);
  expect(show(Tensor.prototype)).toMatchInlineSnapshot(`"{}"`);
  expect(show(new Tensor(17))).toMatchInlineSnapshot(`"Tensor (disposed)"`);
});

it('a gradient, a sparse tensor, a transposed one', () => {
  const leaf = tensor([1, 2], { requiresGrad: true });
  expect(show(leaf)).toMatchInlineSnapshot(`
    "Tensor float32 [2] cpu requiresGrad
    [1., 2.]"
  `);
  expect(show(leaf.mul(2))).toMatchInlineSnapshot(`
    "Tensor float32 [2] cpu requiresGrad
    [2., 4.]"
  `);
  expect(
    show(
      tensor([
        [0, 1],
        [2, 0],
      ]).to_sparse(),
    ),
  ).toMatchInlineSnapshot(`
    "Tensor float32 [2, 2] cpu sparse_coo
    [[0., 1.],
     [2., 0.]]"
  `);
  expect(show(zeros([100, 100]).to_sparse())).toBe(
    'Tensor float32 [100, 100] cpu sparse_coo (large; to_dense() shows a part)',
  );
  expect(show(arange(4).view([2, 2]).t())).toMatchInlineSnapshot(`
    "Tensor int64 [2, 2] cpu
    [[0, 2],
     [1, 3]]"
  `);
});

it('inside other objects, and as a string', () => {
  expect(
    show({
      weight: tensor([
        [1, 2],
        [3, 4],
      ]),
    }),
  ).toMatchInlineSnapshot(`
    "{
      weight: Tensor float32 [2, 2] cpu
      [[1., 2.],
       [3., 4.]]
    }"
  `);
  expect(`${tensor([1])}`).toMatchInlineSnapshot(`
    "Tensor float32 [1] cpu
    [1.]"
  `);
});

it('leaves nothing behind and does not run in proportion to the size', () => {
  const t = zeros([4000, 4000]);
  const before = memory.stats().handles;
  const start = performance.now();
  expect(show(t).length).toBeLessThan(1000);
  expect(performance.now() - start).toBeLessThan(1000);
  expect(memory.stats().handles).toBe(before);
});

it('twelve axes of elided size stay short', () => {
  expect(show(ops.zeros(Array(12).fill(2))).length).toBeLessThan(1_000_000);
});
