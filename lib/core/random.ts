// The random state of libtorch's default CPU generator (and, when there are any, of the CUDA devices).
// Not here: generators of one's own (generator.ts), and making random tensors (create.ts, ops.ts).
import { raw } from './binding.js';
import { cudaIndex } from './devices.js';
import { checkSeed } from './generator.js';
import { handleOf, type Tensor, wrap } from './tensor-class.js';

/** Seeds every device's default generator. The same seed gives the same numbers as in Python's torch. */
export function manualSeed(seed: number | bigint): void {
  raw('shardloop::manual_seed', checkSeed('manualSeed', seed));
}

/**
 * The state of a device's default generator as uint8 on the CPU (5056 bytes for 'cpu', 16 for a CUDA device), to be given
 * back to {@link setRandomState}. Throws NO_CUDA for a CUDA device that is not here.
 */
export function getRandomState(device = 'cpu'): Tensor {
  const index = cudaIndex(device);
  return wrap(index === null ? raw('shardloop::get_rng_state') : raw('shardloop::cuda_get_rng_state', index));
}

/** Puts a device's default generator into a state that {@link getRandomState} gave. Throws as that does. */
export function setRandomState(state: Tensor, device = 'cpu'): void {
  const index = cudaIndex(device);
  if (index === null) raw('shardloop::set_rng_state', handleOf(state));
  else raw('shardloop::cuda_set_rng_state', index, handleOf(state));
}
