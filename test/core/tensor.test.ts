// The class Tensor: values of every dtype in and out, properties, gradients, disposal, and what is refused.
import { describe, expect, it } from 'vitest';
import {
  arange,
  type DType,
  full,
  isTensor,
  memory,
  ones,
  ops,
  ShardloopError,
  scope,
  Tensor,
  type TypedArray,
  tensor,
  zeros,
} from '../../lib/index.js';
import { raises } from './raises.js';

describe('values in and out', () => {
  const cases: [DType, number[], string][] = [
    ['float32', [0, -1.5, 3e38], 'Float32Array'],
    ['float64', [0, -1.5, 1e300], 'Float64Array'],
    ['float16', [0, -1.5, 65504], 'Float32Array'],
    ['bfloat16', [0, -1.5, 256], 'Float32Array'],
    ['float8_e4m3fn', [0, -1.5, 448], 'Float32Array'],
    ['float8_e5m2', [0, -1.5, 57344], 'Float32Array'],
    ['int64', [0, -5, 9007199254740991], 'BigInt64Array'],
    ['int32', [0, -5, 2147483647], 'Int32Array'],
    ['int16', [0, -5, 32767], 'Int16Array'],
    ['int8', [0, -5, 127], 'Int8Array'],
    ['uint8', [0, 5, 255], 'Uint8Array'],
    ['uint16', [0, 5, 65535], 'Uint16Array'],
    ['uint32', [0, 5, 4294967295], 'Uint32Array'],
    ['uint64', [0, 5, 9007199254740991], 'BigUint64Array'],
  ];
  it.each(cases)('%s', async (dtype, values, array) => {
    const t = tensor(values, { dtype });
    expect(t.dtype).toBe(dtype);
    expect(t.toArray()).toEqual(values.map((v) => (array === 'Float32Array' ? Math.fround(v) : v)));
    const sync = t.dataSync();
    expect(sync.constructor.name).toBe(array);
    expect(await t.data()).toEqual(sync);
  });

  it('bool', async () => {
    const t = tensor([true, false]);
    expect(t.dtype).toBe('bool');
    expect(t.toArray()).toEqual([true, false]);
    expect(await t.data()).toEqual(Uint8Array.of(1, 0));
    expect(tensor([2, 0, Number.NaN], { dtype: 'bool' }).toArray()).toEqual([true, false, true]);
    expect(tensor(Uint8Array.of(3, 0), { dtype: 'bool' }).toArray()).toEqual([true, false]);
  });

  it('complex', () => {
    const t = tensor([{ re: 1, im: -2 }]);
    expect(t.dtype).toBe('complex64');
    expect(t.dataSync()).toEqual(Float32Array.of(1, -2));
    expect(t.itemSync()).toEqual({ re: 1, im: -2 });
    const pairs = tensor(Float64Array.of(1, 2, 3, 4), { dtype: 'complex128' });
    expect(pairs.toArray()).toEqual([
      { re: 1, im: 2 },
      { re: 3, im: 4 },
    ]);
    expect(tensor([1, 2], { dtype: 'complex64' }).toArray()).toEqual([
      { re: 1, im: 0 },
      { re: 2, im: 0 },
    ]);
  });

  it.each(['bfloat16', 'float16'] as const)('%s as bits and as floats', async (dtype) => {
    const values = tensor([1, -2.5], { dtype });
    const bits = values.dataSync({ bits: true });
    expect(bits).toEqual(dtype === 'bfloat16' ? Uint16Array.of(0x3f80, 0xc020) : Uint16Array.of(0x3c00, 0xc100));
    expect(await values.data({ bits: true })).toEqual(bits);
    expect(tensor(bits, { dtype }).toArray()).toEqual([1, -2.5]);
    expect(tensor(Float32Array.of(1, -2.5), { dtype }).toArray()).toEqual([1, -2.5]);
  });

  it('takes the dtype of a typed array, and converts when asked', () => {
    const arrays: [TypedArray, DType][] = [
      [Float32Array.of(1), 'float32'],
      [Float64Array.of(1), 'float64'],
      [BigInt64Array.of(1n), 'int64'],
      [Int32Array.of(1), 'int32'],
      [Int16Array.of(1), 'int16'],
      [Int8Array.of(1), 'int8'],
      [Uint8Array.of(1), 'uint8'],
      [Uint16Array.of(1), 'uint16'],
      [Uint32Array.of(1), 'uint32'],
      [BigUint64Array.of(1n), 'uint64'],
      [Uint8ClampedArray.of(1), 'uint8'],
      [Buffer.from([1]), 'uint8'],
    ];
    for (const [array, dtype] of arrays) expect(tensor(array).dtype).toBe(dtype);
    expect(tensor(Float32Array.of(1.5), { dtype: 'int64' }).toArray()).toEqual([1]);
  });

  it('copies in: later writes to the array do not show', () => {
    const array = Float32Array.of(1, 2);
    const t = tensor(array);
    array[0] = 9;
    expect(t.toArray()).toEqual([1, 2]);
  });

  it('reads a part of a larger buffer', () => {
    expect(tensor(new Float32Array([0, 1, 2, 3]).subarray(1, 3)).toArray()).toEqual([1, 2]);
  });

  it('gives bigint only beyond 2^53', async () => {
    const t = tensor([2n ** 53n, 5n, -(2n ** 63n)]);
    expect(t.toArray()).toEqual([2n ** 53n, 5, -(2n ** 63n)]);
    expect(await t.get(0).item()).toBe(2n ** 53n);
    expect(t.get(1).itemSync()).toBe(5);
    expect(ops.add(tensor([1n]), 2n ** 62n).itemSync()).toBe(2n ** 62n + 1n);
  });

  it('reads strided and empty tensors in row-major order', async () => {
    const t = arange(6).view([2, 3]).t();
    expect(t.isContiguous).toBe(false);
    expect(await t.data()).toEqual(BigInt64Array.of(0n, 3n, 1n, 4n, 2n, 5n));
    expect(zeros([0, 3]).dataSync()).toEqual(new Float32Array(0));
    expect(zeros([2, 0]).toArray()).toEqual([[], []]);
    expect(tensor(7).toArray()).toBe(7);
  });

  it('shares its memory without a copy, and cannot be resized then', () => {
    const t = tensor([1, 2, 3]);
    const seen = t.dataShared() as Float32Array;
    seen[1] = 20;
    expect(t.toArray()).toEqual([1, 20, 3]);
    t.mul_(2);
    expect(seen).toEqual(Float32Array.of(2, 40, 6));
    expect(() => t.resize_([100])).toThrow(ShardloopError);
    t.dispose();
    expect(seen[0]).toBe(2);
    raises('BAD_ARGUMENT', () => zeros([2, 3]).t().dataShared());
    for (const shape of [[2, 3], [0]]) {
      expect(raises('BAD_ARGUMENT', () => zeros(shape, { dtype: 'complex32' }).dataShared()).message).toMatch(
        /data\(\)/,
      );
    }
  });
});

describe('creation refuses', () => {
  it.each<[string, () => unknown]>([
    ['ragged arrays', () => tensor([[1, 2], [3]])],
    ['an array among values', () => tensor([1, [2]] as never)],
    ['mixed kinds', () => tensor([1, true])],
    ['numbers beside bigints', () => tensor([1, 2n])],
    ['undefined', () => tensor(undefined as never)],
    ['null inside', () => tensor([null] as never)],
    ['strings', () => tensor(['1'] as never)],
    ['a DataView', () => tensor(new DataView(new ArrayBuffer(8)) as never)],
    ['a Tensor', () => tensor(tensor([1]) as never)],
    ['a fraction for an integer dtype', () => tensor([1.5], { dtype: 'int64' })],
    ['NaN for an integer dtype', () => tensor([Number.NaN], { dtype: 'int32' })],
    ['an integer out of range', () => tensor([256], { dtype: 'uint8' })],
    ['a negative unsigned integer', () => tensor([-1n], { dtype: 'uint64' })],
    ['an unknown dtype', () => tensor([1], { dtype: 'float' as never })],
    ['an unknown option', () => tensor([1], { dtyp: 'int64' } as never)],
    ['options that are no object', () => tensor([1], 'int64' as never)],
    ['a shape that does not fit', () => tensor([1, 2, 3], { shape: [2, 2] })],
    ['a negative size', () => zeros([-1])],
    ['a fractional size', () => zeros([1.5])],
    ['NaN as a size', () => zeros([Number.NaN])],
    ['a size beyond 2^53', () => zeros([2 ** 53])],
    ['a product beyond 2^53', () => zeros([2 ** 30, 2 ** 30])],
    ['a shape that is no array', () => zeros(3 as never)],
    ['an odd number of parts of complex numbers', () => tensor(Float32Array.of(1, 2, 3), { dtype: 'complex64' })],
    ['an unknown device', () => zeros([1], { device: 'gpu' })],
    ['arange without an end', () => (arange as () => unknown)()],
    ['arange with step 0', () => arange(0, 1, 0)],
    ['arange to infinity', () => arange(Number.POSITIVE_INFINITY)],
    ['full of a string', () => full([1], 'x' as never)],
    ['new Tensor', () => new Tensor('x' as never)],
    ['an array that contains itself', () => tensor(loop() as never)],
  ])('%s', (_, body) => {
    raises('BAD_ARGUMENT', body);
  });

  it('names the place of a wrong value', () => {
    const error = raises('BAD_ARGUMENT', () =>
      tensor([
        [1, 2],
        [3, 'x' as never],
      ]),
    );
    expect(error.message).toContain('[1][1]');
    expect(error.message).toContain('"x"');
  });

  it('an allocation beyond physical memory', () => {
    raises('OUT_OF_MEMORY', () => zeros([2 ** 46]));
    raises('OUT_OF_MEMORY', () =>
      ones([1])
        .expand([2 ** 45])
        .contiguous(),
    );
  });

  it('leaves no handle behind after a failure', () => {
    const before = memory.stats().handles;
    expect(() => tensor([1], { requiresGrad: true, dtype: 'int64' })).toThrow(ShardloopError);
    expect(memory.stats().handles - before).toBeLessThanOrEqual(1);
  });
});

function loop(): unknown[] {
  const array: unknown[] = [];
  array.push(array);
  return array;
}

describe('properties', () => {
  it('shape, strides, sizes, dtype, device', () => {
    const t = zeros([2, 3, 4]);
    expect([t.shape, t.strides, t.ndim, t.numel, t.dtype, t.device, t.storageBytes]).toEqual([
      [2, 3, 4],
      [12, 4, 1],
      3,
      24,
      'float32',
      'cpu',
      96,
    ]);
    expect(zeros([2], { device: 'meta' }).device).toBe('meta');
    expect(isTensor(t)).toBe(true);
    expect(isTensor({ shape: [] })).toBe(false);
  });

  it('requiresGrad, isLeaf and grad', () => {
    const t = tensor([1, 2]);
    expect([t.requiresGrad, t.isLeaf, t.grad]).toEqual([false, true, null]);
    t.requiresGrad = true;
    const y = t.mul(3);
    expect(y.isLeaf).toBe(false);
    raises('BAD_ARGUMENT', () => {
      y.requiresGrad = false;
    });
    y.sum().backward();
    expect(t.grad?.toArray()).toEqual([3, 3]);
    t.grad = tensor([7, 8]);
    expect(t.grad?.toArray()).toEqual([7, 8]);
    t.grad = null;
    expect(t.grad).toBeNull();
    raises('BAD_ARGUMENT', () => {
      t.grad = zeros([3]);
    });
    raises('TENSOR_FOREIGN', () => {
      t.grad = {} as never;
    });
    raises('BAD_ARGUMENT', () => {
      t.requiresGrad = 1 as never;
    });
  });

  it('item wants exactly one element', async () => {
    expect(await tensor([[2.5]]).item()).toBe(2.5);
    expect(tensor(true).itemSync()).toBe(true);
    raises('BAD_ARGUMENT', () => tensor([1, 2]).itemSync());
    await expect(tensor([]).item()).rejects.toMatchObject({ code: 'BAD_ARGUMENT' });
  });

  it('refuses options that it does not know', () => {
    raises('BAD_ARGUMENT', () => tensor([1]).dataSync({ bit: true } as never));
    raises('BAD_ARGUMENT', () => tensor([1]).data(true as never));
    raises('BAD_ARGUMENT', () => tensor([1], { requiresGrad: true }).backward(undefined, { retain: true } as never));
  });

  it('is not JSON', () => {
    raises('BAD_ARGUMENT', () => JSON.stringify({ t: tensor([1]) }));
  });

  it('methods are not enumerable and exist for the usual operations', () => {
    expect(Object.keys(tensor([1]))).toEqual([]);
    for (const key in tensor([1])) expect(key).toBe('');
    expect(tensor([1]).add.name).toBe('add');
    expect(Object.hasOwn(Tensor.prototype, 'index_select')).toBe(true);
  });
});

describe('disposal', () => {
  it('frees at once, and names later uses', async () => {
    const t = tensor([1]);
    expect(t.isDisposed).toBe(false);
    t.dispose();
    expect(t.isDisposed).toBe(true);
    for (const use of [
      () => t.shape,
      () => t.add(1),
      () => ops.add(tensor([1]), t),
      () => ops.cat([t]),
      () => t.dataSync(),
      () => t.data(),
      () => t.get(0),
      () => t.backward(),
      () => t.dispose(),
    ]) {
      raises('TENSOR_DISPOSED', use);
    }
    await expect(t.item()).rejects.toMatchObject({ code: 'TENSOR_DISPOSED' });
    t[Symbol.dispose]();
  });

  it('works with using', () => {
    const before = memory.stats().handles;
    {
      using t = tensor([1, 2, 3]);
      using u = t.add(1);
      expect(u.toArray()).toEqual([2, 3, 4]);
      expect(memory.stats().handles).toBe(before + 2);
    }
    expect(memory.stats().handles).toBe(before);
  });

  it('a slot that is used again does not revive an old handle', () => {
    const old = tensor([1]);
    old.dispose();
    const fresh = Array.from({ length: 100 }, () => tensor([2]));
    raises('TENSOR_DISPOSED', () => old.shape);
    for (const t of fresh) t.dispose();
  });

  it('a read that is under way survives the disposal', async () => {
    const t = arange(100_000, { dtype: 'float32' });
    const data = t.data();
    t.dispose();
    expect((await data)[99_999]).toBe(99_999);
  });
});

describe('foreign objects', () => {
  it.each<[string, unknown]>([
    ['a plain object', {}],
    ['a look-alike', { shape: [1], dtype: 'float32' }],
    ['a number for a tensor', 3],
    ['a string', 'tensor'],
    ['undefined', undefined],
    ['null', null],
    ['an object with the prototype', Object.create(Tensor.prototype)],
    ['a proxy', new Proxy(tensor([1]), {})],
    ['a structured clone', structuredClone({ ...tensor([1]) })],
  ])('%s', (_, value) => {
    raises('TENSOR_FOREIGN', () => ops.relu(value as never));
    raises('TENSOR_FOREIGN', () => ops.matmul(tensor([1]), value as never));
  });

  it('names what came', () => {
    class Widget {}
    const error = raises('TENSOR_FOREIGN', () => ops.relu(new Widget() as never));
    expect(error.message).toContain('Widget');
  });

  it('a made-up handle', () => {
    const t = new Tensor(12345);
    raises('TENSOR_FOREIGN', () => t.shape);
    raises('TENSOR_FOREIGN', () => new Tensor(-1).shape);
    raises('TENSOR_FOREIGN', () => new Tensor(Number.NaN).shape);
  });
});

it('creation functions fill as they say', () => {
  scope(() => {
    expect(ones([2], { dtype: 'int32' }).toArray()).toEqual([1, 1]);
    expect(full([2], 2.5).toArray()).toEqual([2.5, 2.5]);
    expect(full([1], 3).dtype).toBe('float32');
    expect(full([1], 3n).dtype).toBe('int64');
    expect(full([1], true).dtype).toBe('bool');
    expect(arange(3).toArray()).toEqual([0, 1, 2]);
    expect(arange(1, 4).dtype).toBe('int64');
    expect(arange(0, 1, 0.25).toArray()).toEqual([0, 0.25, 0.5, 0.75]);
    expect(arange(2, { dtype: 'float64' }).dtype).toBe('float64');
    expect(tensor([1, 2, 3, 4], { shape: [2, 2] }).toArray()).toEqual([
      [1, 2],
      [3, 4],
    ]);
    expect(zeros([1], { requiresGrad: true }).requiresGrad).toBe(true);
  });
});
