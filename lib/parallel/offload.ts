// Host memory for what the optimizer works on, while the model computes on a CUDA device.
import { type DType, memory, ops, type Tensor } from '../core/index.js';

/**
 * What lies in host memory: what the optimizer updates, with gradients and states ('optimizer'); and with it this rank's
 * shard of the parameters ('parameters', under stage 3), of which the device then holds only what a segment needs.
 */
export type Offload = 'optimizer' | 'parameters';

/**
 * Zeros (size) in host memory; page-locked where they travel to a CUDA device, so that copies need not wait. In a plan
 * (`device` is 'meta') they have no memory either, and are counted as the host's.
 */
export function hostZeros(size: number, dtype: DType, device: string): Tensor {
  if (device === 'meta') return memory.standingFor('meta:host', () => ops.zeros([size], { dtype, device }));
  return ops.zeros([size], { dtype, device: 'cpu', pin_memory: device.startsWith('cuda') });
}

/** A copy of a one-dimensional tensor in host memory. */
export function onHost(t: Tensor): Tensor {
  return ops.copy_(hostZeros(t.numel, t.dtype, t.device), t);
}
