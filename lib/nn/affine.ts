// The affine map behind Linear, Conv1D and LoRA: libtorch's, or a kernel of our own: for few rows without gradients, as
// generation has them, one that reads the weights at the speed of memory; for many rows in half precision, one that
// multiplies in float32 where the processor is faster so. Behind a GELU, one that keeps the GELU's input alone.
import { call, isAutocastEnabled, isGradEnabled, ops, scope, type Tensor } from '../core/index.js';
import { gelu } from './activations.js';
import { hasFusedOps, hasKernel } from './fused.js';
import type { Module } from './module.js';

/** Beyond this many rows libtorch's products win. */
export const FEW_ROWS = 16;

/** How {@link affine} computes. */
export interface AffineOptions {
  /** Whether the weight is (in, out); else it is (out, in). */
  across: boolean;
  /** Kernels of our own where they apply, on the CPU (default true). False takes libtorch's linear, which is the reference. */
  fused?: boolean;
}

/** `x W + b` over the last dimension: (..., in) -> (..., out). Throws OP_FAILED when shapes or dtypes do not fit. */
export function affine(x: Tensor, weight: Tensor, bias: Tensor | null, options: AffineOptions): Tensor {
  const { across, fused = true } = options;
  if (fused && takesKernel(x, weight, bias)) return call('shardloop::affine', x, weight, bias, across) as Tensor;
  const rows = across ? ops.t(weight) : weight; // (out, in)
  if (fused && x.dtype !== 'float32' && weight.dtype === x.dtype && hasKernel(x)) {
    return call('shardloop::linear', x, rows, bias) as Tensor; // libtorch's, unless the processor multiplies float32 faster
  }
  return ops.linear(x, rows, { bias });
}

/**
 * {@link affine} of `gelu(x)`, by the tanh approximation. In training the backward computes `gelu(x)` again instead of
 * keeping it; `fused: false` is the composition of both, which is the reference.
 */
export function geluAffine(x: Tensor, weight: Tensor, bias: Tensor | null, options: AffineOptions): Tensor {
  const { across, fused = true } = options;
  const records = isGradEnabled() && weight.requiresGrad; // else gelu(x) is not kept
  if (fused && records && weight.dtype === x.dtype && hasFusedOps(x)) {
    return scope(() => call('shardloop::gelu_linear', x, across ? ops.t(weight) : weight, bias) as Tensor);
  }
  return scope(() => affine(gelu(x, { approximate: 'tanh', fused }), weight, bias, options));
}

/** A layer that can take GELU's input: it computes what `forward(gelu(x))` would, by the tanh approximation. */
export interface GeluFirst {
  /** (..., in) -> (..., out). */
  forwardGelu(x: Tensor): Tensor;
}

/** Whether a layer is {@link GeluFirst}. */
export function isGeluFirst<T extends Module>(layer: T): layer is T & GeluFirst {
  return typeof (layer as Partial<GeluFirst>).forwardGelu === 'function';
}

function takesKernel(x: Tensor, weight: Tensor, bias: Tensor | null): boolean {
  if (isGradEnabled()) return false;
  const { dtype, shape } = x;
  if ((dtype !== 'float32' && dtype !== 'bfloat16') || weight.dtype !== dtype || weight.ndim !== 2) return false;
  if (bias !== null && bias.dtype !== dtype) return false;
  const rows = shape.reduce((product, size, i) => (i === shape.length - 1 ? product : product * size), 1);
  return rows <= FEW_ROWS && x.device === 'cpu' && weight.device === 'cpu' && !isAutocastEnabled();
}
