// What this process can compute with: CUDA devices, and the libtorch that is loaded.
// Not here: choosing a device; every function takes one by name.
import { raw } from './binding.js';
import { ShardloopError } from './errors.js';

/** Whether a CUDA device can be used. false with a CPU libtorch, without a driver, or without the CUDA library. */
export function isCudaAvailable(): boolean {
  return cudaDeviceCount() > 0;
}

/** How many CUDA devices there are. */
export function cudaDeviceCount(): number {
  if (!(raw('shardloop::has_cuda') as boolean)) return 0;
  try {
    return raw('shardloop::cuda_device_count') as number;
  } catch (error) {
    // The second library, which defines it, was not built or not loaded.
    if (error instanceof ShardloopError && error.code === 'UNKNOWN_OP') return 0;
    throw error;
  }
}

/** The version of the loaded libtorch, such as '2.14.1'. */
export function libtorchVersion(): string {
  return raw('shardloop::libtorch_version') as string;
}

/** The vector instructions that libtorch uses on this CPU, such as 'AVX2' or 'AVX512'. */
export function cpuCapability(): string {
  return raw('shardloop::cpu_capability') as string;
}
