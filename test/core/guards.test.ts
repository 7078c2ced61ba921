// The checks before kernels that trust their caller: without them, each of these calls ends the process or writes
// where it must not. The fuzzer found them.
import { expect, it } from 'vitest';
import { call, full, type Tensor, tensor, zeros } from '../../lib/index.js';
import { raises } from './raises.js';

it('eigenvalues of NaN and infinities', () => {
  for (const op of ['aten::linalg_eigvals', 'aten::_linalg_eigvals']) {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      for (const dtype of ['float32', 'complex128'] as const) {
        const error = raises('BAD_ARGUMENT', () => call(op, full([3, 3], value, { dtype })));
        expect(error.message).toContain('without NaN or infinity');
      }
    }
  }
  raises('BAD_ARGUMENT', () => call('aten::linalg_eigvals.out', full([3, 3], Number.NaN), zeros([3])));
  const matrix = tensor([
    [2, 0],
    [0, 2],
  ]);
  expect((call('aten::linalg_eigvals', matrix) as Tensor).dataSync()).toEqual(Float32Array.of(2, 0, 2, 0));
});

it('a released matrix is refused before a guard reads it', () => {
  const matrix = zeros([3, 3]);
  call('shardloop::resize_storage_', matrix, 0);
  expect(() => call('aten::linalg_eigvals', matrix)).toThrow(/released/);
});

it('a copy over what has no storage', () => {
  const plain = full([2, 2], 3);
  for (const layout of ['aten::to_mkldnn', 'aten::to_sparse_csr']) {
    const other = call(layout, plain) as Tensor;
    raises('BAD_ARGUMENT', () => call('aten::copy', other, other));
    raises('BAD_ARGUMENT', () => call('aten::copy.out', other, plain, false, zeros([2, 2])));
  }
  expect((call('aten::copy', zeros([2, 2]), plain) as Tensor).toArray()).toEqual(plain.toArray());
});

it('a search for quantization ranges that may not end', () => {
  for (const bits of [2, 4]) {
    const op = `quantized::embedding_bag_${bits}bit_prepack`;
    raises('BAD_ARGUMENT', () => call(op, zeros([2, 8]), true, -3, 0.5));
    expect((call(op, zeros([2, 8])) as Tensor).dtype).toBe('uint8');
  }
});

it('a negative size beside a size of 0', () => {
  const out = tensor([1, 2, 3]);
  raises('BAD_ARGUMENT', () => call('aten::ones.out', [-2, 0], out));
  raises('BAD_ARGUMENT', () => call('aten::set_.source_Tensor_storage_offset', out, zeros([3]), 1, [0, -2]));
  expect(out.shape).toEqual([3]);
  raises('BAD_ARGUMENT', () => call('aten::broadcast_to', tensor(1), [1, -2, 0]));
  raises('BAD_ARGUMENT', () => call('aten::resize', out, [-1, 0]));
  raises('BAD_ARGUMENT', () => call('aten::sparse_coo_tensor.size', [0, -2], null, 'sparse_coo'));
});

it.each([
  ['tensors of the older vmap', 'aten::_add_batch_dim'],
  ['tensors that hold a pointer', 'aten::_wrapped_linear_prepack'],
])('%s cannot be made', (_, op) => {
  raises('OP_REFUSED', () => call(op, zeros([2, 3]), 0, 1));
});
