// The generated operations: overloads, options, multi results, in-place results, methods, and what they refuse.
import { describe, expect, it } from 'vitest';
import { arange, ops, Tensor, tensor, zeros } from '../../lib/index.js';
import { raises } from './raises.js';

const m = () =>
  tensor([
    [1, 2],
    [3, 4],
  ]); // (2, 2)

describe('overloads are chosen by the values', () => {
  it.each<[string, () => Tensor, unknown]>([
    [
      'add of tensors',
      () => ops.add(m(), m()),
      [
        [2, 4],
        [6, 8],
      ],
    ],
    [
      'add of a number',
      () => ops.add(m(), 1),
      [
        [2, 3],
        [4, 5],
      ],
    ],
    [
      'add with alpha',
      () => ops.add(m(), m(), { alpha: 10 }),
      [
        [11, 22],
        [33, 44],
      ],
    ],
    [
      'add of a number with alpha',
      () => ops.add(m(), 1, { alpha: 10 }),
      [
        [11, 12],
        [13, 14],
      ],
    ],
    ['add of a float scalar to integers', () => ops.add(tensor([1n]), { float: 2 }), [3]],
    ['add of a complex scalar', () => ops.add(tensor([1]), { re: 1, im: 2 }), [{ re: 2, im: 2 }]],
    ['add of a boolean', () => ops.add(tensor([1n]), true), [2]],
    ['pow of numbers and tensors', () => ops.pow(2, tensor([1, 2])), [2, 4]],
    ['pow with a number', () => ops.pow(tensor([1, 2]), 3), [1, 8]],
    ['pow with a tensor', () => ops.pow(tensor([1, 2]), tensor([3, 3])), [1, 8]],
    ['sum of all', () => ops.sum(m()), 10],
    ['sum of all with options', () => ops.sum(m(), { dtype: 'int64' }), 10],
    ['sum along an axis', () => ops.sum(m(), 0), [4, 6]],
    ['sum along axes', () => ops.sum(m(), [0, 1]), 10],
    ['sum along null', () => ops.sum(m(), null, { keepdim: true }), [[10]]],
    ['sum keeping the axis', () => ops.sum(m(), 0, { keepdim: true }), [[4, 6]]],
    [
      'max of two',
      () =>
        ops.max(
          m(),
          tensor([
            [0, 9],
            [9, 0],
          ]),
        ),
      [
        [1, 9],
        [9, 4],
      ],
    ],
    ['max of all', () => ops.max(m()), 4],
    [
      'clamp with numbers',
      () => ops.clamp(m(), { min: 2, max: 3 }),
      [
        [2, 2],
        [3, 3],
      ],
    ],
    [
      'clamp with one number',
      () => ops.clamp(m(), { max: 3 }),
      [
        [1, 2],
        [3, 3],
      ],
    ],
    [
      'clamp with tensors',
      () => ops.clamp(m(), { min: tensor([2, 0]) }),
      [
        [2, 2],
        [3, 4],
      ],
    ],
    [
      'where with tensors',
      () => ops.where(m().gt(2), m(), zeros([2, 2])),
      [
        [0, 0],
        [3, 4],
      ],
    ],
    [
      'where with a number',
      () => ops.where(m().gt(2), m(), -1),
      [
        [-1, -1],
        [3, 4],
      ],
    ],
    [
      'where with a number first',
      () => ops.where(m().gt(2), -1, m()),
      [
        [1, 2],
        [-1, -1],
      ],
    ],
    [
      'where with numbers',
      () => ops.where(m().gt(2), 1, 0),
      [
        [0, 0],
        [1, 1],
      ],
    ],
    ['squeeze', () => ops.squeeze(zeros([1, 2, 1])), [0, 0]],
    ['squeeze of an axis', () => ops.squeeze(zeros([1, 2, 1]), 0), [[0], [0]]],
    ['squeeze of axes', () => ops.squeeze(zeros([1, 2, 1]), [0, 2]), [0, 0]],
    ['div', () => ops.div(tensor([7]), 2), [3.5]],
    ['div, rounded', () => ops.div(tensor([7]), 2, { rounding_mode: 'floor' }), [3]],
    ['div of tensors, rounded', () => ops.div(tensor([-7]), tensor([2]), { rounding_mode: 'trunc' }), [-3]],
    ['var', () => ops.var(tensor([1, 2, 3])), 1],
    ['var without correction', () => ops.var(tensor([1, 2, 3]), { unbiased: false }), Math.fround(2 / 3)],
    ['var with correction', () => ops.var(tensor([1, 2, 3]), { correction: 0 }), Math.fround(2 / 3)],
    ['var along an axis', () => ops.var(m(), 0), [2, 2]],
    ['var along an axis by name', () => ops.var(m(), { dim: 0, correction: 1 }), [2, 2]],
    ['to of a dtype', () => ops.to(tensor([1.5]), 'int64'), [1]],
    ['to of a device and dtype', () => ops.to(tensor([1.5]), 'cpu', 'int64'), [1]],
    ['to by options', () => ops.to(tensor([1.5]), { dtype: 'int32' }), [1]],
    ['to of another tensor', () => ops.to(tensor([1.5]), tensor([1n])), [1]],
    ['arange of an end', () => ops.arange(3), [0, 1, 2]],
    ['arange of start and end', () => ops.arange(1, 3), [1, 2]],
    ['arange with a step and dtype', () => ops.arange(1, 6, { step: 2, dtype: 'float32' }), [1, 3, 5]],
    ['view as a dtype', () => ops.view(tensor([1]), 'int32'), [0x3f800000]],
    ['repeat_interleave by a number', () => ops.repeat_interleave(tensor([1, 2]), 2), [1, 1, 2, 2]],
    ['repeat_interleave by a tensor', () => ops.repeat_interleave(tensor([1, 2]), tensor([1n, 2n])), [1, 2, 2]],
    ['norm', () => ops.norm(tensor([3, 4])), 5],
    ['norm of an order', () => ops.norm(tensor([3, 4]), { p: 1 }), 7],
    ['bernoulli of certain things', () => ops.bernoulli(tensor([0, 1])), [0, 1]],
    ['normal of tensors', () => ops.normal(tensor([5, 6]), tensor([0, 0])), [5, 6]],
    ['index_fill by a number', () => ops.index_fill(tensor([1, 2]), 0, tensor([0n]), 9), [9, 2]],
    ['scatter of a number', () => ops.scatter(zeros([3]), 0, tensor([1n]), 5), [0, 5, 0]],
    ['upsampling by a scale', () => ops.upsample_nearest1d(tensor([[[1, 2]]]), null, [2]), [[[1, 1, 2, 2]]]],
    ['any along axes', () => ops.any(m().gt(3), 1), [false, true]],
    ['layer_norm', () => ops.layer_norm(tensor([[-1, 1]]), [2], { eps: 0 }), [[-1, 1]]],
    ['linear with bias', () => ops.linear(tensor([[1, 1]]), m(), { bias: tensor([10, 20]) }), [[13, 27]]],
    ['linear without', () => ops.linear(tensor([[1, 1]]), m(), { bias: null }), [[3, 7]]],
    [
      'embedding',
      () => ops.embedding(m(), tensor([1n, 0n])),
      [
        [3, 4],
        [1, 2],
      ],
    ],
  ])('%s', (_, body, expected) => {
    expect(body().toArray()).toEqual(expected);
  });

  it('split by a size and by sizes; results are lists', () => {
    expect(ops.split(arange(5), 2).map((t) => t.toArray())).toEqual([[0, 1], [2, 3], [4]]);
    expect(ops.split(arange(5), [1, 4]).map((t) => t.toArray())).toEqual([[0], [1, 2, 3, 4]]);
    expect(ops.unbind(m()).length).toBe(2);
  });

  it('several results are a tuple', () => {
    const [values, indices] = ops.max(m(), 1);
    expect([values.toArray(), indices.toArray()]).toEqual([
      [2, 4],
      [1, 1],
    ]);
    const [q, r] = ops.linalg_qr(m());
    expect(ops.allclose(q.matmul(r), m(), { atol: 1e-5 })).toBe(true);
  });

  it('a result that was not asked for is null', () => {
    const x = tensor([[1, 2]]);
    const [y, mean, rstd] = ops.native_layer_norm(x, [2], null, null, 1e-5);
    const [dx, dw, db] = ops.native_layer_norm_backward(y, x, [2], mean, rstd, null, null, [true, false, false]);
    expect([dx?.shape, dw, db]).toEqual([[1, 2], null, null]);
  });

  it('numbers, booleans and dtypes come back as such', () => {
    expect([ops.size(m(), 0), ops.is_floating_point(m()), ops.item(tensor([2n]))]).toEqual([2, true, 2]);
    expect(ops.promote_types('int64', 'float32')).toBe('float32');
    expect(ops.result_type(tensor([1n]), { float: 1 })).toBe('float32');
  });

  it('in-place operations give the tensor that was passed', () => {
    const t = m();
    expect(ops.add_(t, 1)).toBe(t);
    expect(t.mul_(2)).toBe(t);
    expect(t.clamp_({ max: 6 })).toBe(t);
    expect(t.toArray()).toEqual([
      [4, 6],
      [6, 6],
    ]);
  });

  it('lists of tensors: written in place, nothing comes back', () => {
    const list = [tensor([1]), tensor([2])];
    expect(ops._foreach_mul_(list, 3)).toBeUndefined();
    ops._foreach_add_(list, [10, 20]);
    ops._foreach_add_(list, [tensor([0.5]), tensor([0.5])], { alpha: 2 });
    expect(list.map((t) => t.itemSync())).toEqual([14, 27]);
    expect(ops._foreach_norm(list).map((t) => t.itemSync())).toEqual([14, 27]);
    expect(ops.cat(list, { dim: 0 }).toArray()).toEqual([14, 27]);
  });

  it('null stands among tensors where the schema allows it', () => {
    expect(ops.index(m(), [null, tensor([1n])]).toArray()).toEqual([[2], [4]]);
  });
});

describe('methods', () => {
  it('are the operations with the tensor first', () => {
    expect(m().sum(0, { keepdim: true }).shape).toEqual([1, 2]);
    expect(m().transpose(0, 1).toArray()).toEqual([
      [1, 3],
      [2, 4],
    ]);
    expect(
      m()
        .index_select(0, tensor([1n]))
        .toArray(),
    ).toEqual([[3, 4]]);
    expect(m().masked_fill(m().gt(2), 0).toArray()).toEqual([
      [1, 2],
      [0, 0],
    ]);
    expect(m().topk(1)[1].toArray()).toEqual([[1], [1]]);
    expect(m().to('float64').dtype).toBe('float64');
    expect(m().var(0).toArray()).toEqual([2, 2]);
  });

  it('need a tensor as this', () => {
    raises('TENSOR_FOREIGN', () => Tensor.prototype.add.call({} as never, 1));
  });
});

describe('refuses', () => {
  it.each<[string, () => unknown]>([
    ['an unknown option', () => ops.sum(m(), 0, { keepdims: true } as never)],
    ['an unknown option of a single overload', () => ops.softmax(m(), 0, { dtyp: 'float32' } as never)],
    ['a positional value where options belong', () => ops.sum(m(), 0, true as never)],
    ['a tensor where options belong', () => ops.layer_norm(m(), [2], tensor([1, 1]) as never)],
    ['an array where options belong', () => ops.cat([m()], [0] as never)],
    ['null where options belong', () => ops.cumsum(m(), 0, null as never)],
    ['a missing option that is required', () => ops._fused_sgd_([], [], [], {} as never)],
    ['no options where some are required', () => (ops._fused_sgd_ as (...a: unknown[]) => void)([], [], [])],
    ['a fraction for an integer', () => ops.sum(m(), 0.5)],
    ['NaN for an integer', () => ops.transpose(m(), Number.NaN, 0)],
    ['a number beyond 2^53', () => ops.narrow(m(), 0, 2 ** 60, 1)],
    ['a bigint beyond 64 bits', () => ops.narrow(m(), 0, 2n ** 64n, 1)],
    ['a string for a number', () => ops.transpose(m(), '0' as never, 1)],
    ['a string for a scalar', () => ops.fill(m(), 'x' as never)],
    ['a number for a boolean', () => ops.dropout(m(), 0.5, 1 as never)],
    ['an unknown dtype', () => ops.to(m(), { dtype: 'float' as never })],
    ['an unknown layout', () => ops.zeros([1], { layout: 'dense' as never })],
    ['an unknown memory format', () => ops.clone(m(), { memory_format: 'rows' as never })],
    ['a number for a list of tensors', () => ops.cat(5 as never)],
    ['a tensor for a list of tensors', () => ops.cat(m() as never)],
    ['a list for a tensor', () => ops.relu([m()] as never)],
    ['a nested shape', () => ops.zeros([[1]] as never)],
  ])('%s', (_, body) => {
    const before = Error.stackTraceLimit;
    let code = '';
    try {
      body();
    } catch (error) {
      code = (error as { code: string }).code;
    }
    expect(['BAD_ARGUMENT', 'TENSOR_FOREIGN']).toContain(code);
    expect(Error.stackTraceLimit).toBe(before);
  });

  it('says which option was meant', () => {
    const error = raises('BAD_ARGUMENT', () => ops.sum(m(), 0, { keepdims: true } as never));
    expect(error.message).toContain("did you mean 'keepdim'");
  });

  it('a foreign object among tensors', () => {
    raises('TENSOR_FOREIGN', () => ops.cat([m(), {} as never]));
    raises('TENSOR_FOREIGN', () => ops.add(m(), {} as never));
    raises('TENSOR_FOREIGN', () => ops.linear(m(), m(), { bias: 5 as never }));
  });

  it('what libtorch refuses, in its words', () => {
    expect(raises('OP_FAILED', () => m().matmul(zeros([3, 3]))).message).toMatch(/shapes cannot be multiplied/);
    expect(raises('OP_FAILED', () => m().view([3])).message).not.toContain('frame #');
  });

  it('a second copy of a null tensor', () => {
    raises('TENSOR_FOREIGN', () => ops.relu(null as never));
    raises('BAD_ARGUMENT', () => ops.cat([m(), null as never]));
  });
});
