// The door to the native addon: its interface as TypeScript sees it, and how and when it is loaded (at the first use,
// never at import, so that a program without libtorch can still print help).
// Not here: finding libtorch or building the addon (lib/setup), and what the values mean (call.ts, tensor-class.ts).
import { createRequire } from 'node:module';
import { SetupError } from '../setup/errors.js';
import { explainLoadFailure, locateAddon } from '../setup/locate.js';
import type { TypedArray } from './dtype.js';
import { type ErrorCode, ShardloopError } from './errors.js';

/** A native tensor as JavaScript holds it: an integer that names a slot, its generation and its environment. */
export type Handle = number;

/** What crosses the door: a handle or a plain value; the schema of the op says which. */
export type NativeValue =
  | null
  | undefined
  | number
  | bigint
  | boolean
  | string
  | { readonly float: number }
  | { readonly re: number; readonly im: number }
  | readonly NativeValue[];

/** Live numbers of the native side; `bytes` counts each distinct storage once. */
export interface NativeStats {
  handles: number;
  bytes: number;
  scopeDepth: number;
  [name: string]: number;
}

/** What is one bit of a tensor in the number that `facts` gives; the dtype's code stands above them (dtypeOfFacts). */
export const FACTS = {
  requiresGrad: 1,
  isLeaf: 2,
  isStrided: 4,
  /** And strided. */
  isContiguous: 8,
  isConj: 16,
  isNeg: 32,
  isCpu: 64,
  isCuda: 128,
} as const;

/** The exports of native/addon.cc. */
export interface Native {
  init(makeError: (code: string, message: string) => Error): void;
  resolve(name: string, overload: string): number;
  schemas(): string[];
  call(opId: number, ...args: NativeValue[]): NativeValue;
  dispose(handle: Handle): void;
  disposeQuiet(handle: Handle): boolean;
  isAlive(handle: Handle): boolean;
  scopePush(): number;
  scopePop(depth: number, escaping: Handle[]): void;
  scopeDepth(): number;
  /** Takes a tensor out of all scopes; V8 is told of its bytes where `reported`. */
  keep(handle: Handle, reported: boolean): void;
  shape(handle: Handle): number[];
  strides(handle: Handle): number[];
  dtype(handle: Handle): string;
  device(handle: Handle): string;
  layout(handle: Handle): string;
  numel(handle: Handle): number;
  facts(handle: Handle): number;
  setRequiresGrad(handle: Handle, value: boolean): void;
  grad(handle: Handle): Handle | null;
  setGrad(handle: Handle, grad: Handle | null): void;
  storageBytes(handle: Handle): number;
  fromArray(array: TypedArray, dtype: string, shape: number[]): Handle;
  readSync(handle: Handle, bits: boolean): TypedArray;
  readInto(handle: Handle, into: Uint8Array): void;
  arrayPages(array: Uint8Array, page: number): number;
  read(handle: Handle, bits: boolean): Promise<TypedArray>;
  view(handle: Handle): TypedArray;
  attachBackward(
    inputs: Handle[],
    outputs: Handle[],
    callback: (grads: (Handle | null)[]) => (Handle | null)[],
  ): Handle[];
  /** Resolves with the error text of a work in flight (native/async_work.cc), empty on success. */
  workPromise(id: number): Promise<string>;
  stats(): NativeStats;
}

let loaded: Native | undefined;

/** The addon, loaded at the first call. Throws ADDON_MISSING or LIBTORCH_MISSING with a page of help. */
export function native(): Native {
  loaded ??= load();
  return loaded;
}

/**
 * The addon's functions for the hot path: each starts as a function that loads the addon and is replaced by the addon's
 * own function then, so that a call costs one property read.
 */
export const bridge = {
  call: (opId: number, ...args: NativeValue[]): NativeValue => native().call(opId, ...args),
};

function load(): Native {
  const path = orThrow(() => locateAddon());
  let addon: Native;
  try {
    addon = createRequire(import.meta.url)(path) as Native;
  } catch (cause) {
    const { code, message } = explainLoadFailure(path, cause);
    throw new ShardloopError(code, message, { cause });
  }
  addon.init((code, message) => new ShardloopError(code as ErrorCode, message));
  bridge.call = addon.call;
  return addon;
}

/** Set-up has an error class of its own, a floor below; its codes are ours. */
function orThrow<T>(find: () => T): T {
  try {
    return find();
  } catch (error) {
    if (error instanceof SetupError) throw new ShardloopError(error.code, error.message, { cause: error });
    throw error;
  }
}

const ids = new Map<string, number>();

/** The id of an op such as `aten::add.Tensor`, remembered. Throws UNKNOWN_OP when the loaded libtorch lacks it. */
export function opId(qualified: string): number {
  let id = ids.get(qualified);
  if (id === undefined) {
    const dot = qualified.indexOf('.', qualified.indexOf('::') + 2);
    id =
      dot < 0 ? native().resolve(qualified, '') : native().resolve(qualified.slice(0, dot), qualified.slice(dot + 1));
    ids.set(qualified, id);
  }
  return id;
}

/** Calls an op by its full name with handles and plain values: the door without Tensor objects. */
export function raw(qualified: string, ...args: NativeValue[]): NativeValue {
  return bridge.call(opId(qualified), ...args);
}
