// Random arguments for a schema: mostly of the right type and of small, matching shapes, so that calls reach the
// kernels; sometimes extreme, sometimes of no sense at all. Which ops are called stands in bridge.ts.
import { call, type DType, scope, Tensor, tensor } from '../../lib/core/index.js';
import type { SchemaType } from '../../lib/core/schema.js';
import type { Random } from './random.js';

export const DTYPES: readonly DType[] = [
  'float32',
  'float32',
  'float32',
  'float64',
  'bfloat16',
  'float16',
  'int64',
  'int32',
  'uint8',
  'int8',
  'int16',
  'bool',
  'complex64',
  'complex128',
];
const SHAPES = [
  [],
  [1],
  [3],
  [2, 3],
  [3, 3],
  [3, 2],
  [2, 3, 4],
  [1, 2, 3, 3],
  [0],
  [2, 0, 3],
  [2, 3, 0],
  [2, 3, 2, 3, 2],
];
const STRINGS = ['', 'none', 'mean', 'sum', 'reduce', 'linear', 'bilinear', 'tanh', 'ij,jk->ik', 'zeros', 'backward'];
const DEVICES = ['cpu', 'cpu', 'cpu', 'meta', 'cuda', 'cuda:7', 'cpu:3', 'xla', '', 'nonsense'];
const LAYOUTS = ['strided', 'strided', 'sparse_coo', 'sparse_csr', 'sparse_bsc', 'no layout'];
const FORMATS = ['contiguous_format', 'preserve_format', 'channels_last', 'channels_last_3d', 'no format'];
const INTS = [-1, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, -2, -3, 7];
const EXTREME = [-(2 ** 36), 2 ** 36, 2 ** 40, 2 ** 53 - 1, -(2 ** 53) + 1, 2n ** 63n - 1n, -(2n ** 63n), 1e4];
const FLOATS = [0, 0.5, 1, 1.5, -1, 2, 1e-5, -0.25, Number.NaN, Number.POSITIVE_INFINITY, -0, 1e300];
const THROWS = {
  get length(): number {
    throw new Error('a hostile getter');
  },
  get re(): number {
    throw new Error('a hostile getter');
  },
  get float(): number {
    throw new Error('a hostile getter');
  },
};

/** Something that no schema asks for. */
export function garbage(random: Random): unknown {
  const kinds: (() => unknown)[] = [
    () => undefined,
    () => null,
    () => Number.NaN,
    () => 3.7,
    () => -1,
    () => 1e308,
    () => 2n ** 70n,
    () => 'garbage',
    () => '\u0000\ud800',
    () => true,
    () => ({}),
    () => ({ float: 'x' }),
    () => ({ re: 1, im: 2 }),
    () => ({ re: 1 }),
    () => [],
    () => [null],
    () => [[[]]],
    () => new Array(5),
    () => new Float32Array(2),
    () => new Map(),
    () => () => 1,
    () => Symbol('s'),
    () => new Proxy({}, {}),
    () => THROWS,
    () => Object.create(Tensor.prototype) as unknown,
    () => random.below(2 ** 30) * 2 ** 20,
    () => new Date(0),
    () => Number.MAX_SAFE_INTEGER,
  ];
  return random.pick(kinds)();
}

/** A small tensor: random dtype, shape and values (seldom NaN or huge), sometimes a leaf that requires grad. */
export function randomTensor(random: Random): Tensor {
  const dtype = random.chance(0.5) ? 'float32' : random.pick(DTYPES);
  const shape = random.pick(SHAPES);
  const size = shape.reduce((a, b) => a * b, 1);
  const integral = !/float|complex/.test(dtype);
  const values = Float64Array.from({ length: size }, () => {
    if (random.chance(0.01)) return integral ? 127 : random.pick(FLOATS);
    return integral ? random.below(4) : random.next() * 4 - 1;
  });
  const made = scope(() => call('aten::to.dtype', tensor(values, { shape }), dtype) as Tensor);
  if (!integral && random.chance(0.3)) made.requiresGrad = true;
  return made;
}

export interface Source {
  readonly random: Random;
  /** A live tensor mostly, a disposed one sometimes. */
  tensor(): Tensor;
  /** Small numbers only. */
  readonly calm?: boolean;
}

/** A value for one schema type. */
export function argument(type: SchemaType, source: Source): unknown {
  const { random } = source;
  if (random.chance(0.02) && !source.calm) return garbage(random);
  return shaped(type.base, [...type.suffixes], source);
}

function shaped(base: string, suffixes: string[], source: Source): unknown {
  const { random } = source;
  const last = suffixes.pop();
  if (last === undefined) return plain(base, source);
  if (last === '?') return random.chance(0.4) ? null : shaped(base, suffixes, source);
  const fixed = Number(last.slice(1, -1));
  if (fixed > 0 && suffixes.length === 0 && random.chance(0.1)) return plain(base, source);
  const length = fixed > 0 && random.chance(0.8) ? fixed : random.below(5);
  return Array.from({ length }, () => shaped(base, [...suffixes], source));
}

function plain(base: string, source: Source): unknown {
  const { random } = source;
  switch (base) {
    case 'Tensor':
      return source.tensor();
    case 'int':
    case 'SymInt':
      return random.chance(0.03) && !source.calm ? random.pick(EXTREME) : random.pick(INTS);
    case 'float':
      return source.calm ? random.next() : random.pick(FLOATS);
    case 'bool':
      return random.chance(0.5);
    case 'Scalar':
    case 'number':
    case 't':
    case 'Any':
      if (source.calm) return random.pick(INTS);
      return random.pick([random.pick(INTS), random.pick(FLOATS), true, { float: 2 }, { re: 1, im: -1 }, 5n]);
    case 'str':
      return random.pick(STRINGS);
    case 'ScalarType':
      return random.chance(0.05) ? 'float3' : random.pick(DTYPES);
    case 'Layout':
      return random.pick(LAYOUTS);
    case 'MemoryFormat':
      return random.pick(FORMATS);
    case 'Device':
      return random.pick(DEVICES);
    case 'Generator':
      return random.chance(0.9) ? null : source.tensor();
    default:
      return garbage(random);
  }
}
