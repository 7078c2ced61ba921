// The element types of tensors: names as in Python's torch, sizes, and which typed array carries each.
// Not here: conversion of values, which is native (native/tensor_data).
import { describe, ShardloopError } from './errors.js';

/** Any of the typed arrays that carry tensor data. */
export type TypedArray =
  | Float32Array
  | Float64Array
  | BigInt64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Uint16Array
  | Uint32Array
  | BigUint64Array;

interface DTypeInfo {
  /** Bytes of one element. */
  readonly bytes: number;
  readonly kind: 'float' | 'int' | 'bool' | 'complex';
  /** The typed array that a copy out of a tensor of this dtype is. */
  readonly array: string;
}

/**
 * Every dtype, with its size in bytes, its kind and the typed array that a copy out gives. Half precision comes out
 * as Float32Array (or as Uint16Array bits when asked), complex as interleaved real and imaginary parts.
 */
export const DTYPES = {
  float32: { bytes: 4, kind: 'float', array: 'Float32Array' },
  float64: { bytes: 8, kind: 'float', array: 'Float64Array' },
  float16: { bytes: 2, kind: 'float', array: 'Float32Array' },
  bfloat16: { bytes: 2, kind: 'float', array: 'Float32Array' },
  float8_e4m3fn: { bytes: 1, kind: 'float', array: 'Float32Array' },
  float8_e5m2: { bytes: 1, kind: 'float', array: 'Float32Array' },
  float8_e4m3fnuz: { bytes: 1, kind: 'float', array: 'Float32Array' },
  float8_e5m2fnuz: { bytes: 1, kind: 'float', array: 'Float32Array' },
  int64: { bytes: 8, kind: 'int', array: 'BigInt64Array' },
  int32: { bytes: 4, kind: 'int', array: 'Int32Array' },
  int16: { bytes: 2, kind: 'int', array: 'Int16Array' },
  int8: { bytes: 1, kind: 'int', array: 'Int8Array' },
  uint8: { bytes: 1, kind: 'int', array: 'Uint8Array' },
  uint16: { bytes: 2, kind: 'int', array: 'Uint16Array' },
  uint32: { bytes: 4, kind: 'int', array: 'Uint32Array' },
  uint64: { bytes: 8, kind: 'int', array: 'BigUint64Array' },
  bool: { bytes: 1, kind: 'bool', array: 'Uint8Array' },
  complex32: { bytes: 4, kind: 'complex', array: 'Float32Array' },
  complex64: { bytes: 8, kind: 'complex', array: 'Float32Array' },
  complex128: { bytes: 16, kind: 'complex', array: 'Float64Array' },
} as const satisfies Record<string, DTypeInfo>;

/** The name of a dtype, as in Python's torch: 'float32', 'bfloat16', 'int64', 'bool' and so on. */
export type DType = keyof typeof DTYPES;

/** How the elements of a tensor are stored. */
export type Layout = 'strided' | 'sparse_coo' | 'sparse_csr' | 'sparse_csc' | 'sparse_bsr' | 'sparse_bsc';

/** The order of the axes in memory. */
export type MemoryFormat = 'contiguous_format' | 'preserve_format' | 'channels_last' | 'channels_last_3d';

/** Whether `name` is one of the dtypes of {@link DTYPES}. */
export function isDType(name: unknown): name is DType {
  return typeof name === 'string' && Object.hasOwn(DTYPES, name);
}

/** Bytes of one element of `dtype`. Throws BAD_ARGUMENT for an unknown name. */
export function dtypeBytes(dtype: DType): number {
  return dtypeInfo(dtype).bytes;
}

/** Whether `dtype` is one of the real floating types. Throws BAD_ARGUMENT for an unknown name. */
export function isFloatingDType(dtype: DType): boolean {
  return dtypeInfo(dtype).kind === 'float';
}

/** Whether `dtype` is a complex type. Throws BAD_ARGUMENT for an unknown name. */
export function isComplexDType(dtype: DType): boolean {
  return dtypeInfo(dtype).kind === 'complex';
}

/** Whether `dtype` is an integer type (bool is not one). Throws BAD_ARGUMENT for an unknown name. */
export function isIntegerDType(dtype: DType): boolean {
  return dtypeInfo(dtype).kind === 'int';
}

/** `name` when it is a dtype; else BAD_ARGUMENT with the list of names. */
export function checkDType(name: unknown): DType {
  if (isDType(name)) return name;
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `expected a dtype, one of ${Object.keys(DTYPES).join(', ')}; received ${describe(name)}`,
  );
}

function dtypeInfo(dtype: DType): DTypeInfo {
  return DTYPES[checkDType(dtype)];
}

/** dtypes by the code that c10 and native facts() give them; what is not here has no name in TypeScript. */
const BY_CODE: Readonly<Record<number, DType>> = {
  0: 'uint8',
  1: 'int8',
  2: 'int16',
  3: 'int32',
  4: 'int64',
  5: 'float16',
  6: 'float32',
  7: 'float64',
  8: 'complex32',
  9: 'complex64',
  10: 'complex128',
  11: 'bool',
  15: 'bfloat16',
  23: 'float8_e5m2',
  24: 'float8_e4m3fn',
  25: 'float8_e5m2fnuz',
  26: 'float8_e4m3fnuz',
  27: 'uint16',
  28: 'uint32',
  29: 'uint64',
};

/** The dtype in what native facts() gave; undefined for one that is not in {@link DTYPES}. */
export function dtypeOfFacts(facts: number): DType | undefined {
  return BY_CODE[facts >>> 16];
}

const FROM_ARRAY: Readonly<Record<string, DType>> = {
  Float32Array: 'float32',
  Float64Array: 'float64',
  BigInt64Array: 'int64',
  Int32Array: 'int32',
  Int16Array: 'int16',
  Int8Array: 'int8',
  Uint8Array: 'uint8',
  Uint8ClampedArray: 'uint8',
  Uint16Array: 'uint16',
  Uint32Array: 'uint32',
  BigUint64Array: 'uint64',
};

/** Whether `value` is a typed array that can carry tensor data (a DataView is not; a Buffer is, as bytes). */
export function isTypedArray(value: unknown): value is TypedArray {
  return ArrayBuffer.isView(value) && !(value instanceof DataView) && arrayDType(value) !== undefined;
}

/** The dtype that a tensor made from this typed array has by default. Throws BAD_ARGUMENT for other arrays. */
export function dtypeOfArray(array: TypedArray): DType {
  const dtype = arrayDType(array);
  if (dtype !== undefined) return dtype;
  throw new ShardloopError('BAD_ARGUMENT', `expected a typed array of numbers, received ${describe(array)}`);
}

function arrayDType(array: ArrayBufferView): DType | undefined {
  // Through the prototype's tag, so that a Buffer counts as its bytes and an array of another realm is known too.
  const tag = (array as unknown as { [Symbol.toStringTag]?: string })[Symbol.toStringTag];
  return tag === undefined ? undefined : FROM_ARRAY[tag];
}
