// What the process holds in tensors, as numbers. A test that asserts flat memory asks here.
import { native } from './binding.js';

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
