// What the generated ops.ts is made of: how Tensors, lists and options cross the door, and the tests of kinds of values
// that choose an overload. Not here: anything about a single operation.
import type { Handle, NativeValue } from './binding.js';
import { isDType } from './dtype.js';
import { describe, ShardloopError } from './errors.js';
import { generatorHandle } from './generator.js';
import { unknownOption } from './options.js';
import { handleOf, isTensor } from './tensor-class.js';

/** A 64-bit integer; a bigint beyond 2^53. */
export type Int = number | bigint;

/** A Scalar of ATen. A whole number is an integer Scalar; `{ float: 2 }` is the float 2.0. */
export type Scalar =
  | number
  | bigint
  | boolean
  | { readonly float: number }
  | { readonly re: number; readonly im: number };

/** An options object whose keys were checked. */
export type Options = Readonly<Record<string, unknown>>;

// How Tensors cross: h one, hn one or null, hs a list, hgo a generator; with o behind, undefined stays undefined (the default).

export { handleOf as h };

export function hn(value: unknown): Handle | null {
  return value === null ? null : handleOf(value);
}

export function ho(value: unknown): Handle | undefined {
  return value === undefined ? undefined : handleOf(value);
}

export function hno(value: unknown): Handle | null | undefined {
  return value === undefined || value === null ? value : handleOf(value);
}

export function hs(value: unknown): (Handle | null)[] {
  if (!Array.isArray(value)) {
    throw new ShardloopError('BAD_ARGUMENT', `expected an array of Tensors, received ${describe(value)}`);
  }
  return value.map(hn);
}

export function hso(value: unknown): (Handle | null)[] | undefined {
  return value === undefined ? undefined : hs(value);
}

export function hgo(value: unknown): Handle | null | undefined {
  return value === undefined || value === null ? value : generatorHandle(value);
}

/** A native result that is an array, as one. */
export function list(value: NativeValue): readonly NativeValue[] {
  return value as readonly NativeValue[];
}

// Kinds of values.

export function isScalar(value: unknown): boolean {
  if (typeof value !== 'object') {
    return typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean';
  }
  if (value === null || isTensor(value)) return false;
  return 'float' in value || ('re' in value && 'im' in value);
}

export function isOptions(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !isTensor(value) && !Array.isArray(value) && !isScalar(value);
}

export function isTensors(value: unknown): boolean {
  return Array.isArray(value) && value.some(isTensor);
}

export function isPlainArray(value: unknown): boolean {
  return Array.isArray(value) && !value.some(isTensor);
}

export function isDevice(value: unknown): boolean {
  return typeof value === 'string' && !isDType(value);
}

// Options.

/** Whether the options hold a value for `name`. */
export function given(options: unknown, name: string): boolean {
  return option(options, name) !== undefined;
}

/** Whether no option beside `names` is given. */
export function only(options: unknown, names: readonly string[]): boolean {
  if (typeof options !== 'object' || options === null) return true;
  for (const key in options) if (!names.includes(key)) return false;
  return true;
}

/** One option, or undefined. */
export function option(options: unknown, name: string): unknown {
  return typeof options === 'object' && options !== null ? (options as Options)[name] : undefined;
}

/** The options, when they are an object with known names alone; BAD_ARGUMENT otherwise. Undefined is an empty object. */
export function known(op: string, options: unknown, names: readonly string[]): Options {
  if (options === undefined) return {};
  if (!isOptions(options)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `ops.${op}: expected an options object { ${names.join(', ')} } as the last argument, received ${describe(options)}`,
    );
  }
  for (const key in options as Options) if (!names.includes(key)) throw unknownOption(`ops.${op}`, key, names);
  return options as Options;
}

/** Refuses a call that lacks an option without a default. */
export function needed(op: string, options: unknown, names: readonly string[]): void {
  const absent = names.filter((name) => !given(options, name));
  if (absent.length === 0) return;
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `ops.${op}: expected the options ${names.join(', ')}; missing ${absent.join(', ')}`,
  );
}
