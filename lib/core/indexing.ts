// Indexing and slicing with Python's rules, on bare handles: t.get(...) and t.set([...], value) of tensor-class.ts.
// Numbers, slices, null and '...' become views; tensors of positions or bools go to aten::index and aten::index_put_.
// Not here: the Tensor objects themselves.
import { type Handle, type NativeValue, native, raw } from './binding.js';
import { describe, ShardloopError } from './errors.js';

/** A range of positions along one axis; make it with {@link slice}. */
export class Slice {
  constructor(
    /** The first position; negative counts from the end; null is the beginning. */
    readonly start: number | null,
    /** The position after the last; negative counts from the end; null is the end. */
    readonly end: number | null,
    /** The distance between positions, at least 1. */
    readonly step: number,
  ) {}
}

/**
 * `start:end:step` of Python: `slice()` is everything, `slice(2)` is from 2 on, `slice(null, -1)` all but the last.
 * Throws BAD_ARGUMENT for anything but integers and for a step below 1.
 */
export function slice(start: number | null = null, end: number | null = null, step = 1): Slice {
  for (const bound of [start, end]) {
    if (bound !== null && !Number.isSafeInteger(bound)) {
      throw new ShardloopError('BAD_ARGUMENT', `slice: expected integers or null, received ${describe(bound)}`);
    }
  }
  if (!Number.isSafeInteger(step) || step < 1) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `slice: expected a step of at least 1, received ${describe(step)}; use ops.flip for the reverse order`,
    );
  }
  return new Slice(start, end, step);
}

/** An index with its tensors as handles. */
export type HandleIndex = number | null | '...' | Slice | { readonly handle: Handle };

interface Part {
  /** What the basic indices made of the tensor: a view. */
  view: Handle;
  /** For aten::index: an entry an axis (a mask takes several axes), null where the axis is kept. */
  tensors: (Handle | null)[];
}

/** `self[index]`: the handle of a view, or of a copy where a tensor stands in the index. */
export function selectHandle(self: Handle, index: readonly HandleIndex[]): Handle {
  return inScope(() => {
    const { view, tensors } = take(self, index);
    if (tensors.length > 0) return raw('aten::index.Tensor', view, tensors) as Handle;
    return view === self ? (raw('aten::alias', self) as Handle) : view;
  });
}

/** `self[index] = value`, with `value` broadcast and converted to the dtype of `self`. */
export function storeHandle(
  self: Handle,
  index: readonly HandleIndex[],
  value: { readonly handle: Handle } | number | bigint | boolean,
): void {
  inScope(() => {
    const { view, tensors } = take(self, index);
    if (typeof value !== 'object') {
      if (tensors.length === 0) raw('aten::fill_.Scalar', view, value);
      else {
        const filled = raw('aten::full', [], value, native().dtype(self), undefined, native().device(self));
        raw('aten::index_put_', view, tensors, filled);
      }
      return null;
    }
    if (tensors.length === 0) {
      raw('aten::copy_', view, withoutLeadingOnes(value.handle, native().shape(view).length));
      return null;
    }
    const converted = raw('aten::to.dtype', value.handle, native().dtype(self));
    raw(
      'aten::index_put_',
      view,
      tensors,
      raw('aten::to.device', converted, native().device(self), native().dtype(self)),
    );
    return null;
  });
}

function inScope<T extends Handle | null>(body: () => T): T {
  const depth = native().scopePush();
  let escaping: Handle[] = [];
  try {
    const result = body();
    if (result !== null) escaping = [result];
    return result;
  } finally {
    native().scopePop(depth, escaping);
  }
}

/** Applies the basic indices one after the other and gathers the tensor indices. */
function take(self: Handle, index: readonly HandleIndex[]): Part {
  const ndim = native().shape(self).length;
  const used = index.reduce<number>((sum, part) => sum + axesOf(part), 0);
  if (used > ndim) {
    throw new ShardloopError('BAD_ARGUMENT', `expected at most ${ndim} indices for ${ndim} axes, received ${used}`);
  }
  if (index.filter((part) => part === '...').length > 1) {
    throw new ShardloopError('BAD_ARGUMENT', "expected at most one '...' in an index, received more");
  }
  let view = self;
  let axis = 0;
  let tensors: (Handle | null)[] = [];
  for (const part of index) {
    if (part === null) {
      view = raw('aten::unsqueeze', view, axis++) as Handle;
      tensors.push(null);
    } else if (part === '...') {
      axis += ndim - used;
      tensors.push(...Array<null>(ndim - used).fill(null));
    } else if (typeof part === 'number') {
      view = selectAxis(view, axis, part);
    } else if (part instanceof Slice) {
      if (part.start !== null || part.end !== null || part.step !== 1) {
        view = raw('aten::slice.Tensor', view, axis, part.start, part.end, part.step) as Handle;
      }
      axis++;
      tensors.push(null);
    } else if (native().dtype(part.handle) === 'bool' && native().shape(part.handle).length === 0) {
      // A single bool keeps everything or nothing, along a new axis.
      view = raw('aten::unsqueeze', view, axis++) as Handle;
      tensors.push(raw('aten::unsqueeze', part.handle, 0) as Handle);
    } else {
      tensors.push(part.handle);
      axis += axesOf(part);
    }
  }
  if (tensors.every((entry) => entry === null)) tensors = [];
  return { view, tensors };
}

/** How many axes of the tensor an index takes. Throws BAD_ARGUMENT for what is no index. */
function axesOf(part: HandleIndex): number {
  if (part === null || part === '...') return 0;
  if (typeof part === 'number') {
    if (!Number.isSafeInteger(part)) {
      throw new ShardloopError('BAD_ARGUMENT', `expected an integer index, received ${describe(part)}`);
    }
    return 1;
  }
  if (part instanceof Slice) return 1;
  if (typeof part !== 'object' || !('handle' in part)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `expected an index: an integer, null, '...', slice(start, end, step) or a Tensor; received ${describe(part)}`,
    );
  }
  const dtype = native().dtype(part.handle);
  if (dtype === 'bool') return native().shape(part.handle).length;
  if (dtype === 'int64' || dtype === 'int32') return 1;
  throw new ShardloopError('BAD_ARGUMENT', `expected an index tensor of int64, int32 or bool, received ${dtype}`);
}

function selectAxis(view: Handle, axis: number, position: number): Handle {
  const size = native().shape(view)[axis] ?? 0;
  if (position < -size || position >= size) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `expected an index from ${-size} to ${size - 1} for an axis of size ${size}, received ${position}`,
    );
  }
  return raw('aten::select.int', view, axis, position) as Handle;
}

/** As Python does, `x[0] = value` takes a value with more axes when the surplus ones in front have size 1. */
function withoutLeadingOnes(value: Handle, ndim: number): NativeValue {
  const shape = native().shape(value);
  const surplus = shape.length - ndim;
  if (surplus <= 0 || shape.slice(0, surplus).some((size) => size !== 1)) return value;
  return raw('aten::reshape', value, shape.slice(surplus));
}
