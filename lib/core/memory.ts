// What the process holds in tensors, as numbers. A test that asserts flat memory asks here.
import { native, raw } from './binding.js';
import { cudaIndex } from './devices.js';
import { ShardloopError } from './errors.js';

/** Numbers of one thread's tensors. */
export interface MemoryStats {
  /** Tensors that JavaScript holds alive. */
  handles: number;
  /** Bytes of the distinct storages that they reach. */
  bytes: number;
  /** How many scopes are open. */
  scopeDepth: number;
}

/** The live tensors of this thread; counting the bytes takes time in proportion to the number of tensors. */
export function stats(): MemoryStats {
  const { handles, bytes, scopeDepth } = native().stats();
  return { handles, bytes, scopeDepth };
}

/** Numbers of one CUDA device, in bytes. */
export interface CudaMemoryStats {
  /** Of live tensors. */
  allocated: number;
  /** The most of them so far. */
  peak: number;
  /** Held by the caching allocator, live or not. */
  reserved: number;
  /** Free on the device. */
  free: number;
  /** All of the device. */
  total: number;
}

/** What a CUDA device holds for this process. Throws NO_CUDA; BAD_ARGUMENT for 'cpu'. */
export function cudaStats(device = 'cuda'): CudaMemoryStats {
  const index = cudaIndex(device);
  if (index === null)
    throw new ShardloopError('BAD_ARGUMENT', "memory.cudaStats: expected a CUDA device, received 'cpu'");
  const numbers = raw('shardloop::cuda_memory_stats', index) as [number, number, number, number, number];
  const [allocated, peak, reserved, free, total] = numbers;
  return { allocated, peak, reserved, free, total };
}

/** Numbers of the process's memory for tensors on the CPU, in bytes; blocks below 1 kB are not counted. */
export interface AllocatorStats {
  /** Of live tensors, those of the graph included. */
  allocated: number;
  /** The most of them at once since the last {@link resetPeak}. */
  peak: number;
}

/** What meta tensors stand for: memory of the device that a plan is about, of the host beside it, or of mapped files. */
export type MetaMemory = 'meta' | 'meta:host' | 'meta:files';

/**
 * What libtorch's CPU allocator holds for all threads of the process; with 'meta' what meta tensors would hold if they
 * had memory, without those that stand for others ({@link standingFor}). Throws BAD_ARGUMENT for another device.
 */
export function allocatorStats(device: 'cpu' | MetaMemory = 'cpu'): AllocatorStats {
  const [allocated, peak] = raw('shardloop::memory_stats', device) as [number, number];
  return { allocated, peak };
}

/** Lets {@link allocatorStats} begin to look for the peak anew. */
export function resetPeak(device: 'cpu' | MetaMemory = 'cpu'): void {
  raw('shardloop::reset_peak_memory', device);
}

let standing: MetaMemory = 'meta';

/**
 * Runs `fn`, a plain function. Meta tensors that it makes are counted as `memory` as long as they live, apart from others:
 * so a plan tells host memory and files from the device's. Throws BAD_ARGUMENT for another kind of memory.
 */
export function standingFor<T>(memory: MetaMemory, fn: () => T): T {
  const before = standing;
  raw('shardloop::count_meta_as', memory);
  standing = memory;
  try {
    return fn();
  } finally {
    raw('shardloop::count_meta_as', before);
    standing = before;
  }
}

/**
 * Gives free memory back to the system, for all threads of the process. What tensors freed is kept for those that come
 * next, up to 3 % more than lived at once, which is faster; a process that has let go of a model and lives on has no use for them.
 */
export function trim(): void {
  raw('shardloop::trim_memory');
}
