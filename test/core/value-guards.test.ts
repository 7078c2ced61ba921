// Arguments on which libtorch's kernels would read out of bounds or fault: each is an error with a code instead.
import { expect, it } from 'vitest';
import { call, ops, tensor } from '../../lib/core/index.js';

const ints = (values: (number | bigint)[] | number[][]) => tensor(values as number[], { dtype: 'int64' });
const far = 500_000_000;

it.each<[string, () => unknown, RegExp]>([
  [
    'the least integer by -1',
    () => ops.div(ints([-(2n ** 63n)]), ints([-1n]), { rounding_mode: 'trunc' }),
    /divided by -1/,
  ],
  ['the same by a number', () => ops.div(ints([-(2n ** 63n)]), -1, { rounding_mode: 'trunc' }), /divided by -1/],
  [
    'the same in 32 bits, in place',
    () =>
      call(
        'aten::div_.Tensor_mode',
        tensor([-(2 ** 31)], { dtype: 'int32' }),
        tensor([-1], { dtype: 'int32' }),
        'trunc',
      ),
    /divided by -1/,
  ],
  [
    'labels of ctc_loss',
    () => ops.ctc_loss(ops.ones([3, 1, 4]), ints([[far]]), ints([3]), ints([1])),
    /targets from 0 to 3/,
  ],
  [
    'offsets of segments',
    () => ops.segment_reduce(ops.ones([3]), 'sum', { offsets: ints([0, far]) }),
    /offsets from 0 to 3/,
  ],
  ['falling offsets', () => ops.segment_reduce(ops.ones([3]), 'sum', { offsets: ints([0, 3, 1]) }), /do not fall/],
  [
    'indices of a sparse tensor',
    () => ops.sparse_coo_tensor(ints([[99_999_999]]), tensor([1]), [2]),
    /ind(ex|ices)|size/,
  ],
  [
    'negative indices of one',
    () => ops.sparse_coo_tensor(ints([[-5, 99]]), tensor([1, 2]), [2]),
    /ind(ex|ices)|negative/,
  ],
  [
    'columns of a CSR tensor',
    () => ops.sparse_csr_tensor(ints([0, 1]), ints([far]), tensor([1]), [1, 1]),
    /col_indices/,
  ],
])('refuses %s', (_, use, message) => {
  expect(use).toThrow(message);
});

it('lets what is right pass', () => {
  expect(ops.div(ints([-7, 7]), ints([-1, 2]), { rounding_mode: 'trunc' }).toArray()).toEqual([7, 3]);
  expect(ops.segment_reduce(ops.ones([3]), 'sum', { offsets: ints([0, 2, 3]) }).toArray()).toEqual([2, 1]);
  expect(ops.to_dense(ops.sparse_coo_tensor(ints([[1]]), tensor([4]), [2])).toArray()).toEqual([0, 4]);
});

it.each(['adaptive_max_pool2d_backward', 'nll_loss2d_backward', 'native_group_norm_backward'])(
  'refuses %s by name',
  (name) => {
    expect(() => call(`aten::${name}`)).toThrow(/is refused/);
  },
);
