// The fuzzer of the bridge: random ops with random arguments and random disposal, scopes, reads and backward, all from
// one seed. Every error must be a ShardloopError. It runs in a child process (child.ts), because what it looks for is
// a process that dies.

import { native } from '../../lib/core/binding.js';
import { opSchemas } from '../../lib/core/call.js';
import {
  backward,
  call,
  dtypeBytes,
  isTensor,
  keep,
  manualSeed,
  memory,
  noGrad,
  ShardloopError,
  scope,
  Tensor,
  tensor,
} from '../../lib/core/index.js';
import { parseSchema, type Schema } from '../../lib/core/schema.js';
import { argument, garbage, randomTensor } from './arguments.js';
import { type Random, seeded } from './random.js';

export interface Outcome {
  calls: number;
  succeeded: number;
  /** Calls that ended in an error, by its code. */
  errors: Record<string, number>;
  /** Errors that are not ShardloopErrors: each is a bug. */
  unnamed: string[];
  /** Live handles before and after; equal unless something leaks. */
  handlesBefore: number;
  handlesAfter: number;
  /** Resident bytes at each tenth of the run, after everything was disposed. */
  resident: number[];
}

const POOL = 48;
const LARGE = 1 << 16; // elements: larger results are disposed at once, so that the run stays fast

// Not fuzzed, because the call is not about its arguments: it touches files, other processes, or the process's state.
const APART: readonly RegExp[] = [
  /^(c10d|_c10d_functional|_c10d_functional_autograd|symm_mem|profiler|_dtensor)::/,
  /^aten::from_file/, // makes a file of any name
  /^shardloop::resize_storage_/, // leaves tensors without their memory, as it should; memory.test.ts holds what follows
  /^aten::binomial/, // draws until it succeeds, for ever where a probability is NaN
  /^aten::(set_data|_test_|_print|_debug|segment_reduce_nothing)/,
  /^prim::/,
  /^shardloop::(set_num_threads|set_num_interop|store_|group_|work_|init_|tcp_|file_|hash_|process_group|load_)/,
];

// No extreme numbers for these, alone or in tensors: their time grows with the value of a number (the terms of a
// polynomial; the elements at a stride of 0 that deterministic mode fills), by libtorch's own nature.
const SLOW =
  /choose_qparams_optimized|^aten::combinations|matrix_power|max_pool1d|empty_strided|^aten::random|special_\w+_polynomial/;

/** Every op that the fuzzer calls. */
export function fuzzedOps(only?: string): Schema[] {
  const pattern = only === undefined ? null : new RegExp(only);
  return opSchemas()
    .filter((text) => !text.includes('...')) // any number of arguments or results: refused
    .map((text) => parseSchema(text))
    .filter((s) => !APART.some((apart) => apart.test(s.qualified)) && (pattern?.test(s.qualified) ?? true));
}

/** Makes `calls` calls out of `seed`. `announce` is told each call before it is made. */
export function fuzz(options: { seed: number; calls: number; only?: string; announce(call: string): void }): Outcome {
  const random = seeded(options.seed);
  const ops = fuzzedOps(options.only);
  const outcome: Outcome = {
    calls: 0,
    succeeded: 0,
    errors: {},
    unnamed: [],
    handlesBefore: memory.stats().handles,
    handlesAfter: 0,
    resident: [],
  };
  const attempt = (what: string, work: () => unknown): unknown => {
    options.announce(what);
    outcome.calls++;
    try {
      const result = work();
      outcome.succeeded++;
      return result;
    } catch (error) {
      // What a getter of the caller throws is the caller's own error and passes through.
      const own = String(error).includes('a hostile getter') ? 'own' : 'unnamed';
      const code = error instanceof ShardloopError ? error.code : own;
      outcome.errors[code] = (outcome.errors[code] ?? 0) + 1;
      if (code === 'unnamed' && outcome.unnamed.length < 20) outcome.unnamed.push(`${what}: ${String(error)}`);
      return undefined;
    }
  };
  manualSeed(options.seed);
  let tenth = 1;
  while (outcome.calls < options.calls) {
    episode(random, ops, attempt, () => outcome.calls >= options.calls);
    if (outcome.calls >= (options.calls * tenth) / 10) {
      tenth++;
      globalThis.gc?.();
      outcome.resident.push(process.memoryUsage.rss());
    }
  }
  outcome.handlesAfter = memory.stats().handles;
  return outcome;
}

type Attempt = (what: string, work: () => unknown) => unknown;

/** Some fifty calls over one pool of tensors, inside a scope or outside; leaves nothing alive. */
function episode(random: Random, ops: readonly Schema[], attempt: Attempt, done: () => boolean): void {
  const pool: Tensor[] = [];
  const everything: Tensor[] = [];
  const add = (value: unknown): void => {
    if (Array.isArray(value)) value.forEach(add);
    if (!(value instanceof Tensor)) return;
    everything.push(value);
    if (value.isDisposed || !checked(value)) return;
    if (attemptNumel(value) > LARGE) value.dispose();
    else if (pool.length < POOL) pool.push(value);
    else pool[random.below(POOL)] = value;
  };
  let last = '';
  // A tensor whose sizes, strides or offset an op left beyond its storage crashes later, in another op.
  const checked = (value: Tensor): boolean => {
    if (!isBeyondStorage(value)) return true;
    attempt(`a tensor that reaches beyond its storage, after ${last}`, () => {
      throw new Error(`shape [${value.shape}], strides [${value.strides}], ${value.storageBytes} bytes`);
    });
    value.dispose();
    return false;
  };
  const source = { random, tensor: () => random.pick(pool) };
  const calm = {
    random,
    calm: true,
    tensor: () => {
      for (let tries = 0; tries < 8; tries++) {
        const one = random.pick(pool);
        if (!isExtreme(one)) return one;
      }
      const fresh = tensor([2, 3]);
      add(fresh);
      return fresh;
    },
  };
  const step = () => {
    while (pool.length < 8) add(randomTensor(random));
    const kind = random.next();
    if (kind < 0.86) {
      const op = random.pick(ops);
      const args = op.arguments.map((a) =>
        a.fallback !== null && random.chance(0.5)
          ? undefined
          : argument(a.type, SLOW.test(op.qualified) ? calm : source),
      );
      if (random.chance(0.02)) args.push(garbage(random));
      if (random.chance(0.02)) args.pop();
      last = show(op.qualified, args);
      const run = () => call(op.qualified, ...(args as Parameters<typeof call>[1][]));
      add(attempt(last, () => (random.chance(0.2) ? noGrad(run) : run())));
      for (const used of args.flat()) if (isTensor(used) && !used.isDisposed) checked(used);
    } else misuse(random, pool, attempt, add);
  };
  const work = () => {
    for (let i = 0; i < 50 && !done(); i++) {
      if (random.chance(0.03)) attempt('scope', () => scope(() => [step(), step(), random.pick(pool)]));
      else step();
    }
    if (random.chance(0.2)) attempt('keep', () => keep(random.pick(pool)));
  };
  if (random.chance(0.5)) attempt('scope', () => scope(work));
  else work();
  for (const tensor of everything) tensor[Symbol.dispose]();
}

/** Disposal, reads, backward, and the exports of the addon with arguments that they never ask for. */
function misuse(random: Random, pool: Tensor[], attempt: Attempt, add: (value: unknown) => void): void {
  const one = random.pick(pool);
  const junk = garbage(random);
  const text = describe(junk);
  const kinds: [string, () => unknown][] = [
    ['dispose', () => one.dispose()],
    ['dispose quietly', () => one[Symbol.dispose]()],
    ['dispose twice', () => [one.dispose(), one.dispose()]],
    ['dataSync', () => one.dataSync({ bits: random.chance(0.5) })],
    ['dataShared', () => one.dataShared()],
    ['toArray', () => one.toArray()],
    ['toString', () => one.toString()],
    ['itemSync', () => one.itemSync()],
    ['shape', () => [one.shape, one.strides, one.dtype, one.device, one.storageBytes]],
    ['grad', () => one.grad],
    [
      'set grad',
      () => {
        one.grad = random.pick(pool);
      },
    ],
    [
      'requiresGrad',
      () => {
        one.requiresGrad = random.chance(0.5);
      },
    ],
    ['backward', () => one.backward(random.chance(0.5) ? undefined : random.pick(pool))],
    ['backward of two', () => backward([one, random.pick(pool)], [null, random.pick(pool)])],
    ['backward of inputs', () => backward([one], [null], { inputs: [random.pick(pool)], retainGraph: true })],
    ['detach', () => one.detach()],
  ];
  if (random.chance(0.5)) {
    const [what, work] = random.pick(kinds);
    const result = attempt(`${what} of ${describe(one)}`, work);
    if (result instanceof Tensor) add(result);
    return;
  }
  const exports = native() as unknown as Record<string, (...args: unknown[]) => unknown>;
  const apart = ['init', 'scopePush', 'scopePop', 'keep', 'schemas', 'read', 'workPromise'];
  const name = random.pick(Object.keys(exports).filter((key) => !apart.includes(key)));
  // Raw results (handles) are not tracked: the scope of the episode, or this dispose, frees them.
  const before = memory.stats().handles;
  scope(() => {
    attempt(`native ${name}(${text}, ...)`, () => exports[name]!(junk, garbage(random), garbage(random)));
  });
  if (memory.stats().handles > before)
    attempt(`leak after native ${name}(${text})`, () => {
      throw new Error('a raw call left handles');
    });
}

/** Whether sizes, strides and offset name memory that the storage does not have, or a size is negative. */
function isBeyondStorage(tensor: Tensor): boolean {
  try {
    if (tensor.shape.some((size) => size < 0)) return true;
    if (
      tensor.device !== 'cpu' ||
      tensor.layout !== 'strided' ||
      tensor.numel === 0 ||
      call('aten::_is_zerotensor', tensor)
    )
      return false;
    const strides = tensor.strides;
    const offset = call('aten::storage_offset', tensor) as number;
    const end = tensor.shape.reduce((sum, size, axis) => sum + (size - 1) * strides[axis]!, offset + 1);
    return end * dtypeBytes(tensor.dtype) > tensor.storageBytes;
  } catch {
    return false;
  }
}

/** Whether a value in the tensor is large, as in memory that nothing has written yet. */
function isExtreme(tensor: Tensor): boolean {
  try {
    return Array.from(tensor.dataSync(), Number).some((value) => Math.abs(value) > 1e4);
  } catch {
    return false;
  }
}

function attemptNumel(tensor: Tensor): number {
  try {
    return tensor.numel;
  } catch {
    return 0;
  }
}

function show(op: string, args: readonly unknown[]): string {
  return `${op}(${args.map(describe).join(', ')})`;
}

function describe(value: unknown): string {
  if (value instanceof Tensor) {
    try {
      if (value.isDisposed) return 'disposed';
      return `${value.dtype}[${value.shape}]${value.requiresGrad ? 'g' : ''}${value.isContiguous ? '' : 's'}`;
    } catch {
      return 'Tensor?';
    }
  }
  if (Array.isArray(value)) return `[${Array.from(value, describe).join(', ')}]`;
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'object' && value !== null) {
    try {
      return JSON.stringify(value).slice(0, 60);
    } catch {
      return 'object';
    }
  }
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}
