// Making tensors: from values of JavaScript, and filled by rule or at random.
// Not here: the ATen functions of the same names with all their options (ops.ts).
import { type Handle, type NativeValue, native, raw } from './binding.js';
import { checkDType, DTYPES, type DType, dtypeOfArray, isTypedArray, type TypedArray } from './dtype.js';
import { describe, ShardloopError } from './errors.js';
import { type Generator, generatorHandle } from './generator.js';
import { checkOptions, checkShape } from './options.js';
import './ops.js';
import { type Complex, isTensor, type Tensor, wrap } from './tensor-class.js';

/** What `tensor()` reads: a value, nested arrays of values of one kind, or a typed array. */
export type TensorData = number | bigint | boolean | Complex | TypedArray | readonly TensorData[];

/** Options of every creation function. */
export interface CreateOptions {
  /** The element type. */
  dtype?: DType;
  /** 'cpu' (the default), 'cuda', 'cuda:1', 'meta'. */
  device?: string;
  /** Whether operations on it are recorded for backward. Default false. */
  requiresGrad?: boolean;
}

const CREATE_OPTIONS = ['dtype', 'device', 'requiresGrad'];

/**
 * A tensor with these values, copied. Numbers become float32, bigints int64, booleans bool, `{re, im}` complex64, and a
 * typed array keeps its own dtype, unless `dtype` says otherwise. Uint16Array with dtype bfloat16 or float16 is read as
 * bits; Float32Array or Float64Array with a complex dtype as interleaved pairs. `shape` arranges the values in row-major
 * order. Throws BAD_ARGUMENT for ragged arrays, mixed kinds, and values that an integer dtype cannot hold.
 */
export function tensor(data: TensorData, options: CreateOptions & { shape?: readonly number[] } = {}): Tensor {
  checkOptions('tensor', options, [...CREATE_OPTIONS, 'shape']);
  if (isTensor(data)) {
    throw new ShardloopError('BAD_ARGUMENT', 'tensor: expected values, received a Tensor; use t.clone() to copy it');
  }
  const { array, dtype, shape } = isTypedArray(data) ? readTyped(data, options) : readNested(data, options.dtype);
  const arranged = options.shape === undefined ? shape : checkShape('tensor', options.shape);
  return finish(native().fromArray(array, dtype, arranged), dtype, options);
}

/** Moves a fresh CPU tensor to where and what the options say. */
function finish(handle: Handle, dtype: DType, options: CreateOptions): Tensor {
  let result = handle;
  try {
    if (options.device !== undefined && options.device !== 'cpu') {
      result = raw('aten::to.device', handle, options.device, dtype) as Handle;
    }
  } finally {
    if (result !== handle) native().dispose(handle);
  }
  return withGrad(result, options);
}

function withGrad(handle: NativeValue, options: CreateOptions): Tensor {
  const result = wrap(handle);
  if (options.requiresGrad) result.requiresGrad = true;
  return result;
}

interface Read {
  array: TypedArray;
  dtype: DType;
  shape: number[];
}

function readTyped(array: TypedArray, options: { dtype?: DType }): Read {
  const dtype = options.dtype === undefined ? dtypeOfArray(array) : checkDType(options.dtype);
  const pairs = DTYPES[dtype].kind === 'complex' && (array instanceof Float32Array || array instanceof Float64Array);
  return { array, dtype, shape: [pairs ? array.length / 2 : array.length] };
}

type Value = number | bigint | boolean | Complex;

function readNested(data: TensorData, asked: DType | undefined): Read {
  const shape: number[] = [];
  for (let level: unknown = data; Array.isArray(level) && shape.length <= 64; level = level[0])
    shape.push(level.length);
  if (shape.length > 64) throw new ShardloopError('BAD_ARGUMENT', 'tensor: expected at most 64 axes, received more');
  const values: Value[] = [];
  flatten(data, shape, 0, values, '');
  const dtype = asked === undefined ? inferDType(values) : checkDType(asked);
  return { array: pack(values, dtype), dtype, shape };
}

function flatten(data: unknown, shape: readonly number[], axis: number, into: Value[], path: string): void {
  if (axis === shape.length) {
    if (!isValue(data)) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `tensor: expected a number, bigint, boolean or {re, im}${at(path)}, received ${describe(data)}`,
      );
    }
    into.push(data);
    return;
  }
  if (!Array.isArray(data) || data.length !== shape[axis]) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `tensor: expected an array of ${shape[axis]}${at(path)}, as its siblings are, received ${describe(data)}`,
    );
  }
  for (let i = 0; i < data.length; i++) flatten(data[i], shape, axis + 1, into, `${path}[${i}]`);
}

function at(path: string): string {
  return path === '' ? '' : ` at ${path}`;
}

function isValue(value: unknown): value is Value {
  if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean') return true;
  const parts = value as Partial<Complex> | null;
  return typeof parts === 'object' && typeof parts?.re === 'number' && typeof parts.im === 'number';
}

function inferDType(values: readonly Value[]): DType {
  const kind = typeof (values[0] ?? 0);
  const odd = values.findIndex((value) => typeof value !== kind);
  if (odd >= 0) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `tensor: expected values of one kind (${kind}, as the first), received ${describe(values[odd])}; or pass dtype`,
    );
  }
  const inferred: Record<string, DType> = { bigint: 'int64', boolean: 'bool', object: 'complex64' };
  return inferred[kind] ?? 'float32';
}

/** The values in a typed array that native code converts to `dtype`. */
function pack(values: readonly Value[], dtype: DType): TypedArray {
  switch (DTYPES[dtype].kind) {
    case 'complex':
      return pairs(values, dtype);
    case 'bool':
      return Uint8Array.from(values, (value) => (truth(value) ? 1 : 0));
    case 'int':
      return packIntegers(values, dtype);
    default:
      // Half precision is rounded from float32, as libtorch itself does with doubles.
      return dtype === 'float64' ? Float64Array.from(values, real) : Float32Array.from(values, real);
  }
}

function pairs(values: readonly Value[], dtype: DType): TypedArray {
  const flat = values.flatMap((value) => (typeof value === 'object' ? [value.re, value.im] : [Number(value), 0]));
  return dtype === 'complex128' ? Float64Array.from(flat) : Float32Array.from(flat);
}

function truth(value: Value): boolean {
  return typeof value === 'object' ? value.re !== 0 || value.im !== 0 : Boolean(value) || Number.isNaN(value);
}

function real(value: Value): number {
  if (typeof value !== 'object') return Number(value);
  throw new ShardloopError('BAD_ARGUMENT', 'tensor: expected real values, received {re, im}; pass a complex dtype');
}

function packIntegers(values: readonly Value[], dtype: DType): TypedArray {
  const bits = BigInt(DTYPES[dtype].bytes * 8);
  const signed = !dtype.startsWith('u');
  const low = signed ? -(2n ** (bits - 1n)) : 0n;
  const high = (signed ? 2n ** (bits - 1n) : 2n ** bits) - 1n;
  const exact = values.map((value) => {
    if (typeof value === 'object' || (typeof value === 'number' && !Number.isInteger(value))) {
      throw new ShardloopError('BAD_ARGUMENT', `tensor: expected integers for ${dtype}, received ${describe(value)}`);
    }
    const integer = BigInt(value);
    if (integer >= low && integer <= high) return integer;
    throw new ShardloopError('BAD_ARGUMENT', `tensor: expected ${low} to ${high} for ${dtype}, received ${integer}`);
  });
  if (dtype === 'uint64') return BigUint64Array.from(exact);
  // Others go through int64, which holds them all.
  return BigInt64Array.from(exact);
}

/** Options of the random creation functions. */
export interface RandomOptions extends CreateOptions {
  /** Draw from this generator instead of the default one. */
  generator?: Generator;
}

const RANDOM_OPTIONS = [...CREATE_OPTIONS, 'generator'];

/** `.generator` overloads take null for the default generator. */
function drawn(op: string, leading: NativeValue[], options: RandomOptions, dtype: DType): Tensor {
  checkOptions(op.slice('aten::'.length, op.indexOf('.')), options, RANDOM_OPTIONS);
  const generator = options.generator === undefined ? null : generatorHandle(options.generator);
  return withGrad(raw(op, ...leading, generator, checkDType(dtype), undefined, options.device), options);
}

function filled(op: string, shape: readonly number[], options: CreateOptions, value?: NativeValue): Tensor {
  const name = op.slice('aten::'.length);
  checkOptions(name, options, CREATE_OPTIONS);
  const size = checkShape(name, shape);
  const dtype = checkDType(options.dtype ?? 'float32');
  const device = options.device;
  return withGrad(
    value === undefined ? raw(op, size, dtype, undefined, device) : raw(op, size, value, dtype, undefined, device),
    options,
  );
}

/** A tensor of zeros, float32 unless said otherwise. */
export function zeros(shape: readonly number[], options: CreateOptions = {}): Tensor {
  return filled('aten::zeros', shape, options);
}

/** A tensor of ones, float32 unless said otherwise. */
export function ones(shape: readonly number[], options: CreateOptions = {}): Tensor {
  return filled('aten::ones', shape, options);
}

/** A tensor whose values are whatever the memory held, float32 unless said otherwise. */
export function empty(shape: readonly number[], options: CreateOptions = {}): Tensor {
  return filled('aten::empty.memory_format', shape, options);
}

/** A tensor of one value: float32 for a number, int64 for a bigint, bool for a boolean, unless said otherwise. */
export function full(shape: readonly number[], value: number | bigint | boolean, options: CreateOptions = {}): Tensor {
  if (typeof value !== 'number' && typeof value !== 'bigint' && typeof value !== 'boolean') {
    throw new ShardloopError('BAD_ARGUMENT', `full: expected a number, bigint or boolean, received ${describe(value)}`);
  }
  return filled('aten::full', shape, { ...options, dtype: options.dtype ?? inferDType([value]) }, value);
}

/** Numbers from the standard normal distribution. */
export function randn(shape: readonly number[], options: RandomOptions = {}): Tensor {
  return drawn('aten::randn.generator', [checkShape('randn', shape)], options, options.dtype ?? 'float32');
}

/** Numbers from the uniform distribution on [0, 1). */
export function rand(shape: readonly number[], options: RandomOptions = {}): Tensor {
  return drawn('aten::rand.generator', [checkShape('rand', shape)], options, options.dtype ?? 'float32');
}

/** Integers from `low` up to `high` - 1, each as likely, int64 unless said otherwise. */
export function randint(low: number, high: number, shape: readonly number[], options: RandomOptions = {}): Tensor {
  const leading = [low, high, checkShape('randint', shape)];
  return drawn('aten::randint.low_generator', leading, options, options.dtype ?? 'int64');
}

/** The identity matrix of n rows and `columns` (n unless given) columns, float32 unless said otherwise. */
export function eye(n: number, options: CreateOptions & { columns?: number } = {}): Tensor {
  checkOptions('eye', options, [...CREATE_OPTIONS, 'columns']);
  const [rows, columns] = checkShape('eye', [n, options.columns ?? n]);
  const dtype = checkDType(options.dtype ?? 'float32');
  return withGrad(raw('aten::eye.m', rows, columns, dtype, undefined, options.device), options);
}

/** The numbers from `start` (0) in steps of `step` (1) below `end`: int64 when all three are integers, else float32. */
export function arange(end: number, options?: CreateOptions): Tensor;
export function arange(start: number, end: number, options?: CreateOptions): Tensor;
export function arange(start: number, end: number, step: number, options?: CreateOptions): Tensor;
export function arange(...args: (number | CreateOptions | undefined)[]): Tensor {
  const numbers = args.filter((arg): arg is number => typeof arg === 'number');
  const options = (args.find((arg) => typeof arg === 'object') as CreateOptions | undefined) ?? {};
  checkOptions('arange', options, CREATE_OPTIONS);
  const [start, end, step = 1] = numbers.length === 1 ? [0, numbers[0]!] : (numbers as [number, number, number?]);
  if (numbers.length === 0 || numbers.length > 3 || !numbers.every(Number.isFinite) || step === 0) {
    const received = args.map(describe).join(', ');
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `arange: expected (end), (start, end) or (start, end, step) of finite numbers, step not 0; received ${received}`,
    );
  }
  const whole = [start, end, step].every(Number.isInteger);
  const dtype = checkDType(options.dtype ?? (whole ? 'int64' : 'float32'));
  return withGrad(raw('aten::arange.start_step', start, end, step, dtype, undefined, options.device), options);
}
