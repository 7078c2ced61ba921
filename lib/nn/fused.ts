// Which tensors the native kernels of loss, attention and activations take; the others go to libtorch's.
import type { DType, Tensor } from '../core/index.js';

const DTYPES: ReadonlySet<DType> = new Set(['float32', 'bfloat16', 'float16']);

/** Whether a tensor lies where the kernels run. On the meta device they give shapes, for plans. */
export function isOnKernelDevice({ device }: Tensor): boolean {
  return device === 'cpu' || device === 'meta';
}

/** The same, and of a dtype that the kernels of attention and GELU compute. */
export function hasKernel(t: Tensor): boolean {
  return isOnKernelDevice(t) && DTYPES.has(t.dtype);
}
