// Marks that tell a module which of its tensor fields are trained (parameters) and which are only carried along
// (buffers). A mark sits beside the tensor, not in it: a parameter is the same Tensor object, and works as one.
import { describe, isComplexDType, isFloatingDType, keep, ShardloopError, Tensor } from '../core/index.js';

declare const PARAMETER: unique symbol;
declare const BUFFER: unique symbol;

/** A tensor that a module trains: made by {@link parameter}, listed by `namedParameters()`, saved in the state dict. */
export type Parameter = Tensor & { readonly [PARAMETER]: true };
/** A tensor that a module carries without training it: made by {@link buffer}, listed by `namedBuffers()`. */
export type Buffer = Tensor & { readonly [BUFFER]: true };

/** What a mark says. `persistent` is false only for buffers that stay out of the state dict. */
export interface Mark {
  readonly kind: 'parameter' | 'buffer';
  readonly persistent: boolean;
}

const marks = new WeakMap<Tensor, Mark>();

/** The mark of a tensor, if {@link parameter} or {@link buffer} made it one. */
export function markOf(t: Tensor): Mark | undefined {
  return marks.get(t);
}

/** Gives `to` the mark of `from`, for a tensor that takes another's place in a module. */
export function copyMark(from: Tensor, to: Tensor): void {
  const mark = marks.get(from);
  if (mark !== undefined) marks.set(to, mark);
}

/**
 * Makes `t` a parameter: it requires grad (unless `requiresGrad` is false: a frozen parameter) and leaves all scopes, so
 * that only `dispose` frees it. The same object comes back. Throws BAD_ARGUMENT when `t` was computed with gradient
 * (it must be a leaf) or when a tensor of integers is to require grad.
 */
export function parameter(t: Tensor, options: { requiresGrad?: boolean } = {}): Parameter {
  if (!(t instanceof Tensor)) {
    throw new ShardloopError('BAD_ARGUMENT', `nn.parameter: expected a Tensor, received ${describe(t)}`);
  }
  if (!t.isLeaf) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      'nn.parameter: expected a leaf tensor, received the result of an operation with gradient; make it inside noGrad() or detach() it',
    );
  }
  const { requiresGrad = true } = options;
  if (requiresGrad && !isDifferentiable(t)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `nn.parameter: expected a floating dtype, received ${t.dtype}, which cannot require grad; use nn.buffer or { requiresGrad: false }`,
    );
  }
  t.requiresGrad = requiresGrad;
  marks.set(t, { kind: 'parameter', persistent: true });
  return keep(t) as Parameter;
}

/**
 * Makes `t` a buffer: carried by the module through `to()` and, unless `persistent` is false, by its state dict, but
 * not trained. It leaves all scopes. The same object comes back.
 */
export function buffer(t: Tensor, options: { persistent?: boolean } = {}): Buffer {
  if (!(t instanceof Tensor)) {
    throw new ShardloopError('BAD_ARGUMENT', `nn.buffer: expected a Tensor, received ${describe(t)}`);
  }
  marks.set(t, { kind: 'buffer', persistent: options.persistent ?? true });
  return keep(t) as Buffer;
}

/** Whether a tensor's dtype can carry gradients (real or complex floating point). */
export function isDifferentiable(t: Tensor): boolean {
  return isFloatingDType(t.dtype) || isComplexDType(t.dtype);
}
