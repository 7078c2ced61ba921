// Scopes free tensors at a known moment: every tensor made inside is freed at the end, except what the callback returns.
// States of a tensor: scoped (its scope frees it) -> escaped (the scope around frees it) -> rooted (outside all scopes,
// or kept: dispose(), `using` or the finalization net frees it). An exception frees everything made inside.
// Scopes cannot span an await: what another task makes meanwhile would be freed with them.
import { native } from './binding.js';
import { enterScope, leaveScope } from './depth.js';
import { describe, ShardloopError } from './errors.js';
import { handleOf, holdInNet, isTensor, type Tensor } from './tensor-class.js';

/**
 * Runs `fn` and frees every tensor that was made inside, except those in what it returns: a Tensor, or arrays, plain
 * objects, Maps and Sets that hold Tensors at any depth; these pass to the scope around. When `fn` throws, everything
 * is freed. Throws SCOPE_ASYNC for an async function, a promise or a generator as the result.
 */
export function scope<T>(fn: () => T): T {
  if (typeof fn !== 'function') {
    throw new ShardloopError('BAD_ARGUMENT', `scope: expected a function, received ${describe(fn)}`);
  }
  const suspends = suspendingKind(fn);
  if (suspends !== null) throw asyncError(suspends);
  const depth = enterScope();
  let result: T;
  try {
    result = fn();
  } catch (error) {
    leave(depth, []);
    throw error;
  }
  const late = suspendedValue(result);
  if (late !== null) {
    leave(depth, []);
    throw asyncError(late);
  }
  const escaping: Tensor[] = [];
  if (typeof result === 'object' && result !== null) collectTensors(result, escaping);
  leave(depth, escaping);
  return result;
}

/**
 * Takes the tensors in `value` out of all scopes: they live until disposed (or until unreachable). For what must
 * outlive the forward that made it, such as a cache. Returns `value`.
 */
export function keep<T>(value: T): T {
  root(value, true);
  return value;
}

/**
 * Runs `make` in a scope of its own and keeps what it returns, for one who surely disposes of it. V8 is not told of the
 * bytes: buffers that come and go with each step would set off its collector for nothing, ten times in a step of 124 M.
 */
export function owned<T>(make: () => T): T {
  return scope(() => {
    const value = make();
    root(value, false);
    return value;
  });
}

function root(value: unknown, reported: boolean): void {
  const tensors: Tensor[] = [];
  if (typeof value === 'object' && value !== null) collectTensors(value, tensors);
  for (const tensor of tensors) {
    native().keep(handleOf(tensor), reported);
    holdInNet(tensor);
  }
}

/** Frees every tensor in `value` (as {@link scope} finds them) that is still alive; quiet about the others. */
export function disposeAll(value: unknown): void {
  const tensors: Tensor[] = [];
  if (typeof value === 'object' && value !== null) collectTensors(value, tensors);
  for (const tensor of tensors) tensor[Symbol.dispose]();
}

function leave(depth: number, escaping: readonly Tensor[]): void {
  // A tensor that was disposed inside may be part of the result: it is dead already, and stays so.
  const alive = escaping.filter((tensor) => !tensor.isDisposed);
  leaveScope(depth, alive.map(handleOf));
  if (depth === 1) alive.forEach(holdInNet);
}

/** Appends every Tensor in arrays, plain objects, Maps and Sets, at any depth; class instances are not looked into. */
export function collectTensors(value: object, into: Tensor[]): void {
  if (isTensor(value)) into.push(value);
  else walk(value, into, new Set());
}

function walk(value: object, into: Tensor[], seen: Set<object>): void {
  if (seen.has(value)) return;
  seen.add(value);
  const visit = (part: unknown): void => {
    if (typeof part !== 'object' || part === null) return;
    if (isTensor(part)) into.push(part);
    else walk(part, into, seen);
  };
  if (Array.isArray(value) || value instanceof Set) {
    for (const part of value) visit(part);
  } else if (value instanceof Map) {
    for (const [key, part] of value) {
      visit(key);
      visit(part);
    }
  } else {
    const prototype = Object.getPrototypeOf(value) as unknown;
    if (prototype === Object.prototype || prototype === null) Object.values(value).forEach(visit);
  }
}

const AsyncFunction = (async () => {}).constructor;
const GeneratorFunction = function* () {}.constructor;
const AsyncGeneratorFunction = async function* () {}.constructor;

function suspendingKind(fn: object): string | null {
  if (fn instanceof AsyncFunction) return 'an async function';
  if (fn instanceof GeneratorFunction || fn instanceof AsyncGeneratorFunction) return 'a generator function';
  return null;
}

function suspendedValue(result: unknown): string | null {
  if (typeof result !== 'object' || result === null || isTensor(result)) return null;
  if (typeof (result as { then?: unknown }).then === 'function') {
    // Its failure would otherwise surface as an unhandled rejection beside the error thrown here.
    Promise.resolve(result as PromiseLike<unknown>).catch(() => {});
    return 'a function that returned a promise';
  }
  const tag = Object.prototype.toString.call(result);
  return tag === '[object Generator]' || tag === '[object AsyncGenerator]'
    ? 'a function that returned a generator'
    : null;
}

function asyncError(received: string): ShardloopError {
  return new ShardloopError(
    'SCOPE_ASYNC',
    `scope: expected a synchronous function, received ${received}. A scope cannot span an await: ` +
      'open scopes around the synchronous parts, return what must live on, and free it with dispose() or `using`.',
  );
}
