// Modes that change how operations run on this thread: gradient recording, autocast, determinism, threads.
// Each function form restores what was before, however the callback ends. Modes, like scopes, do not span an await.
import { raw } from './binding.js';
import { checkDType, type DType } from './dtype.js';
import { describe, ShardloopError } from './errors.js';
import { checkOptions } from './options.js';

export function checkFunction(name: string, fn: unknown): void {
  if (typeof fn !== 'function') {
    throw new ShardloopError('BAD_ARGUMENT', `${name}: expected a function, received ${describe(fn)}`);
  }
}

function refusePromise<T>(name: string, result: T): T {
  if (typeof result === 'object' && result !== null && typeof (result as { then?: unknown }).then === 'function') {
    Promise.resolve(result as unknown).catch(() => {});
    throw new ShardloopError(
      'SCOPE_ASYNC',
      `${name}: expected a synchronous function, received one that returned a promise; the mode would end at the ` +
        'first await. Use it around the synchronous parts.',
    );
  }
  return result;
}

function withGrad<T>(name: string, enabled: boolean, fn: () => T): T {
  checkFunction(name, fn);
  const before = raw('shardloop::set_grad_enabled', enabled);
  try {
    return refusePromise(name, fn());
  } finally {
    raw('shardloop::set_grad_enabled', before);
  }
}

/** Runs `fn` without recording for backward. */
export function noGrad<T>(fn: () => T): T {
  return withGrad('noGrad', false, fn);
}

/** Runs `fn` with recording for backward, inside a noGrad too. */
export function enableGrad<T>(fn: () => T): T {
  return withGrad('enableGrad', true, fn);
}

/** Whether operations are recorded for backward now. */
export function isGradEnabled(): boolean {
  return raw('shardloop::is_grad_enabled') as boolean;
}

/** What {@link autocast} takes. */
export interface AutocastOptions {
  /** The dtype that products run in: 'bfloat16' (the default) or 'float16'. */
  dtype?: DType;
  /** false runs the callback without autocast, inside an autocast too. Default true. */
  enabled?: boolean;
  /** The kind of device whose operations are cast: 'cpu' (the default) or 'cuda'. */
  device?: 'cpu' | 'cuda';
}

/**
 * Runs `fn` with libtorch's autocast: matrix products and the like in `dtype`, sums and losses in float32, by
 * libtorch's own lists. Parameters stay as they are.
 */
export function autocast<T>(options: AutocastOptions, fn: () => T): T {
  checkFunction('autocast', fn);
  checkOptions('autocast', options, ['dtype', 'enabled', 'device']);
  const { dtype = 'bfloat16', enabled = true, device = 'cpu' } = options;
  if (dtype !== 'bfloat16' && dtype !== 'float16') {
    throw new ShardloopError('BAD_ARGUMENT', `autocast: expected bfloat16 or float16, received ${describe(dtype)}`);
  }
  const wasEnabled = isAutocastEnabled(device);
  const wasDtype = raw('shardloop::autocast_dtype', device);
  raw('shardloop::set_autocast', device, enabled, checkDType(dtype));
  try {
    return refusePromise('autocast', fn());
  } finally {
    raw('shardloop::set_autocast', device, wasEnabled, wasDtype);
  }
}

/** Whether autocast is on for `device`. */
export function isAutocastEnabled(device: 'cpu' | 'cuda' = 'cpu'): boolean {
  return raw('shardloop::is_autocast_enabled', device) as boolean;
}

/** Sets how many threads one operation uses on the CPU, for the whole process. */
export function setNumThreads(count: number): void {
  if (!Number.isSafeInteger(count) || count < 1 || count > 1024) {
    throw new ShardloopError('BAD_ARGUMENT', `setNumThreads: expected 1 to 1024, received ${describe(count)}`);
  }
  raw('shardloop::set_num_threads', count);
}

/** How many threads one operation uses on the CPU. */
export function getNumThreads(): number {
  return raw('shardloop::get_num_threads') as number;
}

/** Whether operations must give the same bits each time; those that cannot then fail with OP_FAILED. */
export function setDeterministic(enabled: boolean): void {
  if (typeof enabled !== 'boolean') {
    throw new ShardloopError('BAD_ARGUMENT', `setDeterministic: expected true or false, received ${describe(enabled)}`);
  }
  raw('shardloop::set_deterministic', enabled);
}

/** Whether {@link setDeterministic} is on. */
export function isDeterministic(): boolean {
  return raw('shardloop::is_deterministic') as boolean;
}

/** Runs `fn` inside a named range that libtorch's profiler and CUDA's tools show. */
export function profileRange<T>(name: string, fn: () => T): T {
  checkFunction('profileRange', fn);
  raw('shardloop::push_range', String(name));
  try {
    return refusePromise('profileRange', fn());
  } finally {
    raw('shardloop::pop_range');
  }
}
