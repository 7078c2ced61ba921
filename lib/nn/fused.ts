// Which tensors the native ops of loss, attention and activations take; the others go to libtorch's.
import { type DType, isAutocastEnabled, type Tensor } from '../core/index.js';

const DTYPES: ReadonlySet<DType> = new Set(['float32', 'bfloat16', 'float16']);

/** Whether a tensor lies where the kernels run. On the meta device they give shapes, for plans. */
export function isOnKernelDevice({ device }: { readonly device: string }): boolean {
  return device === 'cpu' || device === 'meta';
}

/** The same, and of a dtype that the kernels of attention and GELU compute. */
export function hasKernel(t: Tensor): boolean {
  return isOnKernelDevice(t) && DTYPES.has(t.dtype);
}

/** Whether ops that are several of libtorch's with one backward take it: on the CPU, CUDA and meta, outside autocast. */
export function hasFusedOps(t: Tensor): boolean {
  const isCuda = t.device.startsWith('cuda');
  return (isCuda || isOnKernelDevice(t)) && DTYPES.has(t.dtype) && !isAutocastEnabled(isCuda ? 'cuda' : 'cpu');
}
