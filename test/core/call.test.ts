// call(): any op by its name, and the schemas that it reads its results by.
import { describe, expect, it } from 'vitest';
import { parseSchema } from '../../lib/core/schema.js';
import { call, opSchemas, scope, Tensor, tensor } from '../../lib/index.js';
import { raises } from './raises.js';

describe('call', () => {
  it('takes values by position, and defaults for what is left off or undefined', () => {
    const t = tensor([1, 2]);
    expect((call('aten::add.Tensor', t, t) as Tensor).toArray()).toEqual([2, 4]);
    expect((call('aten::add.Tensor', t, t, 10) as Tensor).toArray()).toEqual([11, 22]);
    expect((call('aten::sum.dim_IntList', t, [0], undefined, 'int64') as Tensor).itemSync()).toBe(3);
  });

  it('gives what the schema returns', () => {
    const t = tensor([
      [1, 2],
      [3, 4],
    ]);
    expect(call('aten::size.int', t, 0)).toBe(2);
    expect(call('aten::is_floating_point', t)).toBe(true);
    const [values, indices] = call('aten::max.dim', t, 1) as [Tensor, Tensor];
    expect([values.toArray(), indices.toArray()]).toEqual([
      [2, 4],
      [1, 1],
    ]);
    expect((call('aten::unbind.int', t) as Tensor[]).length).toBe(2);
    expect(call('aten::_foreach_zero_', [t])).toBeUndefined();
    expect(call('aten::zero_', t)).toBe(t);
    expect(call('aten::item', tensor([2.5]))).toBe(2.5);
    expect(call('aten::result_type.Tensor', t, t)).toBe('float32');
    expect(call('shardloop::is_grad_enabled')).toBe(true);
  });

  it('makes tensors that scopes free', () => {
    const t = scope(() => {
      call('aten::zeros', [2]);
      return call('aten::ones', [2]) as Tensor;
    });
    expect(t).toBeInstanceOf(Tensor);
    expect(t.toArray()).toEqual([1, 1]);
  });

  it('refuses', () => {
    expect(raises('UNKNOWN_OP', () => call('aten::add', tensor([1]), 1)).message).toContain('aten::add.Tensor');
    for (const name of ['', 'add', 'aten::', 'aten::nope', '::', 5, undefined, `${'x'.repeat(10_000)}::y`]) {
      raises('UNKNOWN_OP', () => call(name as never));
    }
    raises('BAD_ARGUMENT', () => call('aten::relu', tensor([1]), 5));
    raises('BAD_ARGUMENT', () => call('aten::relu'));
    raises('TENSOR_FOREIGN', () => call('aten::relu', {} as never));
    raises('OP_REFUSED', () => call('aten::reflection_pad1d_backward', tensor([1]), tensor([1]), [1, 1]));
  });

  it('a handle as a bare number is no tensor of ours unless it is', () => {
    raises('TENSOR_FOREIGN', () => call('aten::relu', 5));
    raises('TENSOR_FOREIGN', () => call('aten::relu', Number.NaN));
  });
});

describe('schemas', () => {
  it('are all read', () => {
    const texts = opSchemas();
    expect(texts.length).toBeGreaterThan(3000);
    // A few of libtorch's own interpreter take any number of arguments.
    const fixed = texts.filter((text) => !text.includes('...'));
    for (const text of fixed) expect(parseSchema(text).text).toBe(text);
  });

  it('are read into parts', () => {
    const schema = parseSchema(
      'aten::f.x(Tensor(a!) self, Tensor?[] t, int[2]? n=[1, 2], *, str s="a, \\"b\\"", Scalar? q=None) -> (Tensor(a!), Tensor[] rest)',
    );
    expect([schema.qualified, schema.namespace, schema.name, schema.overload]).toEqual(['aten::f.x', 'aten', 'f', 'x']);
    expect(schema.arguments).toEqual([
      {
        name: 'self',
        type: { base: 'Tensor', suffixes: [] },
        written: true,
        alias: 'a',
        keywordOnly: false,
        fallback: null,
      },
      {
        name: 't',
        type: { base: 'Tensor', suffixes: ['?', '[]'] },
        written: false,
        alias: null,
        keywordOnly: false,
        fallback: null,
      },
      {
        name: 'n',
        type: { base: 'int', suffixes: ['[2]', '?'] },
        written: false,
        alias: null,
        keywordOnly: false,
        fallback: '[1, 2]',
      },
      {
        name: 's',
        type: { base: 'str', suffixes: [] },
        written: false,
        alias: null,
        keywordOnly: true,
        fallback: '"a, \\"b\\""',
      },
      {
        name: 'q',
        type: { base: 'Scalar', suffixes: ['?'] },
        written: false,
        alias: null,
        keywordOnly: true,
        fallback: 'None',
      },
    ]);
    expect(schema.returns.map(({ name, alias, written }) => [name, alias, written])).toEqual([
      ['', 'a', true],
      ['rest', null, false],
    ]);
    expect(parseSchema('aten::g() -> ()').returns).toEqual([]);
  });

  it('what is no schema is refused', () => {
    for (const text of ['', 'x', 'aten::f(Tensor', 'aten::f(?) -> ()']) raises('UNKNOWN_OP', () => parseSchema(text));
  });
});
