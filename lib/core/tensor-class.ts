// The class Tensor: an object around one native handle, and who frees the handle.
// A handle is made inside a scope (the native scope frees it), or outside all scopes (then the finalization net holds
// it until dispose(), or until the object is unreachable). Disposed twice, used after, or made elsewhere: named errors.
// Not here: the operations (ops.ts, generated) and creation (create.ts). Import Tensor from tensor.js.
import { inspect } from 'node:util';
import { FACTS, type Handle, type NativeValue, native } from './binding.js';
import { scopeDepth } from './depth.js';
import { checkDType, type DType, isComplexDType, type Layout, type TypedArray } from './dtype.js';
import { runBackward } from './engine.js';
import { describe, ShardloopError } from './errors.js';
import { type HandleIndex, type Slice, selectHandle, storeHandle } from './indexing.js';
import type { TensorMethods } from './methods.js';
import { checkOptions } from './options.js';
import { formatTensor, layoutOf, type Nested, nest } from './print.js';

/** One entry of an index: a position, `null` for a new axis, '...', `slice(...)`, or a tensor of positions or bools. */
export type Index = number | null | '...' | Slice | Tensor;

/** A complex number. */
export interface Complex {
  re: number;
  im: number;
}

/** What a single element of a tensor is in JavaScript; bigint only where a number would be inexact. */
export type Item = number | bigint | boolean | Complex;

const net = new FinalizationRegistry<Handle>((handle) => {
  native().disposeQuiet(handle);
});

let readHandle: (tensor: Tensor) => Handle;
let hasHandle: (value: unknown) => value is Tensor;
let hold: (tensor: Tensor) => void;

export interface Tensor extends TensorMethods {}

/**
 * An n-dimensional array of one dtype on one device, as libtorch holds it. Besides what stands here it has the usual
 * ATen operations as methods, under ATen's names: `t.add(1)`, `t.index_select(0, ids)`, `t.masked_fill_(mask, 0)`.
 */
// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: ops.ts installs exactly the methods that the interface declares
export class Tensor {
  readonly #handle: Handle;
  #held = false;

  static {
    readHandle = (tensor) => tensor.#handle;
    hasHandle = (value): value is Tensor => typeof value === 'object' && value !== null && #handle in value;
    hold = (tensor) => {
      if (tensor.#held) return;
      tensor.#held = true;
      net.register(tensor, tensor.#handle, tensor);
    };
  }

  /** Internal: tensors come from `tensor()`, `zeros()` and the operations, not from `new`. */
  constructor(handle: Handle) {
    if (typeof handle !== 'number') {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `expected to be made by shardloop, received new Tensor(${describe(handle)}); use tensor(data) instead`,
      );
    }
    this.#handle = handle;
    if (scopeDepth === 0) hold(this);
  }

  /** Sizes of the axes. */
  get shape(): readonly number[] {
    return native().shape(this.#handle);
  }

  /** The number of axes. */
  get ndim(): number {
    return native().shape(this.#handle).length;
  }

  /** The number of elements. */
  get numel(): number {
    return native().numel(this.#handle);
  }

  /** The element type. */
  get dtype(): DType {
    return native().dtype(this.#handle) as DType;
  }

  /** Where the data is: 'cpu', 'cuda:0', 'meta'. */
  get device(): string {
    return native().device(this.#handle);
  }

  /** How the elements are stored. */
  get layout(): Layout {
    return layoutOf(this.#handle);
  }

  /** Steps between neighbours along each axis, in elements. */
  get strides(): readonly number[] {
    return native().strides(this.#handle);
  }

  /** Whether the elements lie in row-major order without gaps. */
  get isContiguous(): boolean {
    return (native().facts(this.#handle) & FACTS.isContiguous) !== 0;
  }

  /** Whether autograd treats it as a leaf: its gradient is kept in `grad`. */
  get isLeaf(): boolean {
    return (native().facts(this.#handle) & FACTS.isLeaf) !== 0;
  }

  /** Whether the tensor was disposed, by hand or by the end of its scope. Never throws. */
  get isDisposed(): boolean {
    return !native().isAlive(this.#handle);
  }

  /** Whether operations on it are recorded for backward. Only leaves of a floating or complex dtype can be set. */
  get requiresGrad(): boolean {
    return (native().facts(this.#handle) & FACTS.requiresGrad) !== 0;
  }

  /** Only a leaf can stop recording: of a computed tensor use `detach()`. Throws BAD_ARGUMENT. */
  set requiresGrad(value: boolean) {
    if (typeof value !== 'boolean') {
      throw new ShardloopError('BAD_ARGUMENT', `requiresGrad: expected true or false, received ${describe(value)}`);
    }
    native().setRequiresGrad(this.#handle, value);
  }

  /** The gradient that backward accumulated into this leaf, or null. Each read makes a new Tensor of the same data. */
  get grad(): Tensor | null {
    const grad = native().grad(this.#handle);
    return grad === null ? null : new Tensor(grad);
  }

  /** Expects the tensor's shape, dtype and device; null drops the gradient. Throws BAD_ARGUMENT. */
  set grad(value: Tensor | null) {
    native().setGrad(this.#handle, value === null ? null : handleOf(value));
  }

  /** The bytes of the storage behind it, which it may share with other tensors. */
  get storageBytes(): number {
    return native().storageBytes(this.#handle);
  }

  /**
   * Computes the gradients of this tensor with respect to every leaf, and adds them to their `grad`.
   * `gradient` has this tensor's shape; it may be left out for a scalar.
   */
  backward(gradient?: Tensor, options?: { retainGraph?: boolean; createGraph?: boolean }): void {
    checkOptions('backward', options, ['retainGraph', 'createGraph']);
    const seed = gradient === undefined ? null : handleOf(gradient);
    const createGraph = options?.createGraph ?? false;
    const retainGraph = options?.retainGraph ?? createGraph;
    runBackward([this.#handle], [seed], [], retainGraph, createGraph);
  }

  /**
   * A copy of the elements in row-major order, off the event loop. Half precision comes as Float32Array, or with
   * `bits` as Uint16Array; int64 as BigInt64Array; bool as Uint8Array; complex as interleaved pairs.
   */
  data(options?: { bits?: boolean }): Promise<TypedArray> {
    return native().read(this.#handle, bitsOption(options));
  }

  /** As {@link data}, but waits here. */
  dataSync(options?: { bits?: boolean }): TypedArray {
    return native().readSync(this.#handle, bitsOption(options));
  }

  /**
   * The tensor's own memory as a typed array, without a copy: CPU and contiguous only. Its storage can never be
   * resized afterwards. Half precision is seen as bits (Uint16Array); complex32 cannot be seen.
   */
  dataShared(): TypedArray {
    return native().view(this.#handle);
  }

  /** The only element, off the event loop; a bigint only beyond 2^53. Throws BAD_ARGUMENT for more or fewer elements. */
  async item(): Promise<Item> {
    this.#checkSingle();
    const dtype = this.dtype;
    return toItem(await native().read(this.#handle, false), dtype);
  }

  /** As {@link item}, but waits here. */
  itemSync(): Item {
    this.#checkSingle();
    return toItem(native().readSync(this.#handle, false), this.dtype);
  }

  #checkSingle(): void {
    const numel = this.numel;
    if (numel !== 1) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `item: expected a tensor of one element, received ${numel} of shape [${this.shape.join(', ')}]; ` +
          'use data(), or index it first',
      );
    }
  }

  /** The elements as nested arrays (a bare value for a scalar tensor); bigint only beyond 2^53. Waits here. */
  toArray(): Nested {
    return nest(native().readSync(this.#handle, false), this.shape, this.dtype);
  }

  /**
   * A part of the tensor, as `t[...]` in Python: `t.get(0)`, `t.get('...', slice(0, 10, 2))`, `t.get(mask)`.
   * Numbers, slices, null and '...' give a view; tensors of positions or bools give a copy.
   */
  get(...index: Index[]): Tensor {
    return new Tensor(selectHandle(this.#handle, index.map(toHandleIndex)));
  }

  /** Writes `value` into a part of the tensor, as `t[index] = value` in Python. The value is broadcast. */
  set(index: readonly Index[], value: Tensor | number | bigint | boolean): void {
    if (!Array.isArray(index)) {
      throw new ShardloopError('BAD_ARGUMENT', `set: expected an array of indices, received ${describe(index)}`);
    }
    const from = typeof value === 'object' || value === undefined ? { handle: handleOf(value) } : value;
    storeHandle(this.#handle, (index as readonly Index[]).map(toHandleIndex), from);
  }

  /** Frees the native tensor now. Throws TENSOR_DISPOSED when that was done before. */
  dispose(): void {
    native().dispose(this.#handle);
    if (this.#held) net.unregister(this);
  }

  /** What `using` calls: as dispose(), but quiet when the tensor is already gone. */
  [Symbol.dispose](): void {
    native().disposeQuiet(this.#handle);
    if (this.#held) net.unregister(this);
  }

  /** Dtype, shape, device and the values, elided when large. Never throws. */
  toString(): string {
    return #handle in this ? formatTensor(this.#handle) : 'Tensor (the prototype)';
  }

  /** What console.log shows. */
  [inspect.custom](): string {
    return this.toString();
  }

  /** Tensors are not JSON: throws BAD_ARGUMENT rather than writing `{}`. */
  toJSON(): never {
    throw new ShardloopError('BAD_ARGUMENT', 'a Tensor cannot be written as JSON; use toArray() or await data()');
  }
}

function bitsOption(options: { bits?: boolean } | undefined): boolean {
  if (options === undefined) return false;
  checkOptions('data', options, ['bits']);
  return options.bits ?? false;
}

function toItem(data: TypedArray, dtype: DType): Item {
  if (dtype === 'bool') return data[0] !== 0;
  if (isComplexDType(checkDType(dtype))) return { re: Number(data[0]), im: Number(data[1]) };
  const value = data[0] as number | bigint;
  return typeof value === 'bigint' ? narrow(value) : value;
}

function narrow(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function toHandleIndex(index: Index): HandleIndex {
  return hasHandle(index) ? { handle: readHandle(index) } : (index as HandleIndex);
}

/** The handle of a tensor of this thread; TENSOR_FOREIGN for anything else. */
export function handleOf(value: unknown): Handle {
  if (hasHandle(value)) return readHandle(value);
  throw foreign(value);
}

/** Whether `value` is a Tensor (live or disposed) that this copy of shardloop made. */
export function isTensor(value: unknown): value is Tensor {
  return hasHandle(value);
}

/** A Tensor object for a handle that a native call returned. */
export function wrap(handle: NativeValue): Tensor {
  return new Tensor(handle as Handle);
}

/** As {@link wrap}; null stays null. */
export function wrapOptional(handle: NativeValue): Tensor | null {
  return handle === null ? null : new Tensor(handle as Handle);
}

/** Puts tensors that live outside all scopes into the finalization net. For scope.ts. */
export function holdInNet(tensor: Tensor): void {
  hold(tensor);
}

function foreign(value: unknown): ShardloopError {
  const name = (value as { constructor?: { name?: unknown } } | null | undefined)?.constructor?.name;
  const hint =
    name === 'Tensor'
      ? 'It is a Tensor of another copy of shardloop or a clone of one; load shardloop once, and send data, not tensors, between threads.'
      : 'Make one with tensor(...).';
  return new ShardloopError('TENSOR_FOREIGN', `expected a Tensor, received ${describe(value)}. ${hint}`);
}

/**
 * For ops.ts: gives Tensor a method for each function, with the tensor as the first argument. Methods are as if written
 * in the class: not enumerable.
 */
export function installMethods(table: Readonly<Record<string, unknown>>): void {
  type Loose = (...args: unknown[]) => unknown;
  for (const [name, entry] of Object.entries(table)) {
    const fn = entry as Loose;
    // A fixed number of parameters is faster than a rest parameter; no operation has more.
    const value = function (this: Tensor, a: unknown, b: unknown, c: unknown, d: unknown, e: unknown): unknown {
      return fn(this, a, b, c, d, e);
    };
    Object.defineProperty(value, 'name', { value: name });
    Object.defineProperty(Tensor.prototype, name, { value, writable: true, configurable: true, enumerable: false });
  }
}
