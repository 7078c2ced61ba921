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

/**
 * The index of a CUDA device by name ('cuda' is the current one), or null for 'cpu'. Throws BAD_ARGUMENT for another
 * name, NO_CUDA for a CUDA device that is not here.
 */
export function cudaIndex(device: string): number | null {
  if (device === 'cpu') return null;
  const match = /^cuda(?::(\d+))?$/.exec(device);
  if (match === null) {
    throw new ShardloopError('BAD_ARGUMENT', `expected a device as 'cpu', 'cuda' or 'cuda:0', received '${device}'`);
  }
  const count = cudaDeviceCount();
  const index =
    match[1] !== undefined ? Number(match[1]) : count > 0 ? (raw('shardloop::cuda_current_device') as number) : 0;
  if (index < count) return index;
  const problem = raw('shardloop::cuda_library_problem') as string;
  throw new ShardloopError(
    'NO_CUDA',
    `expected the device ${device}, found ${count} CUDA devices${problem === '' ? '' : ` (${problem})`}; see: npx shardloop doctor`,
  );
}

/** Waits until a CUDA device has done all that was asked of it; at once for 'cpu'. For timings. Throws NO_CUDA. */
export function synchronize(device: string): void {
  const index = cudaIndex(device);
  if (index !== null) raw('shardloop::cuda_synchronize', index);
}

/** The name of a CUDA device, such as 'NVIDIA H100 80GB HBM3'. Throws NO_CUDA, BAD_ARGUMENT for 'cpu'. */
export function cudaDeviceName(device: string): string {
  const index = cudaIndex(device);
  if (index === null)
    throw new ShardloopError('BAD_ARGUMENT', "cudaDeviceName: expected a CUDA device, received 'cpu'");
  return raw('shardloop::cuda_device_name', index) as string;
}

/** The version of the loaded libtorch, such as '2.14.1'. */
export function libtorchVersion(): string {
  return raw('shardloop::libtorch_version') as string;
}

/** The vector instructions that libtorch uses on this CPU, such as 'AVX2' or 'AVX512'. */
export function cpuCapability(): string {
  return raw('shardloop::cpu_capability') as string;
}
