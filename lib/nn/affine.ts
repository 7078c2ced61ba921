// The affine map behind Linear and Conv1D: libtorch's, or for few rows without gradients, as generation has them, a
// kernel of our own that reads the weights at the speed of memory.
import { call, isAutocastEnabled, isGradEnabled, ops, type Tensor } from '../core/index.js';

/** Beyond this many rows libtorch's products win. */
export const FEW_ROWS = 16;

/** How {@link affine} computes. */
export interface AffineOptions {
  /** Whether the weight is (in, out); else it is (out, in). */
  across: boolean;
  /** False takes libtorch's linear, which is the reference (default true). */
  fused?: boolean;
}

/** `x W + b` over the last dimension: (..., in) -> (..., out). */
export function affine(x: Tensor, weight: Tensor, bias: Tensor | null, options: AffineOptions): Tensor {
  const { across, fused = true } = options;
  if (fused && takesKernel(x, weight, bias)) return call('shardloop::affine', x, weight, bias, across) as Tensor;
  return ops.linear(x, across ? ops.t(weight) : weight, { bias });
}

function takesKernel(x: Tensor, weight: Tensor, bias: Tensor | null): boolean {
  if (isGradEnabled()) return false;
  const { dtype, shape } = x;
  if ((dtype !== 'float32' && dtype !== 'bfloat16') || weight.dtype !== dtype || weight.ndim !== 2) return false;
  if (bias !== null && bias.dtype !== dtype) return false;
  const rows = shape.reduce((product, size, i) => (i === shape.length - 1 ? product : product * size), 1);
  return rows <= FEW_ROWS && x.device === 'cpu' && weight.device === 'cpu' && !isAutocastEnabled();
}
