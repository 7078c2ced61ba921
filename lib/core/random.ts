// The random state of libtorch's default CPU generator (and, when there are any, of the CUDA devices).
// Not here: making random tensors (create.ts, ops.ts).
import { raw } from './binding.js';
import { describe, ShardloopError } from './errors.js';
import { handleOf, type Tensor, wrap } from './tensor-class.js';

/** Seeds every device's default generator. The same seed gives the same numbers as in Python's torch. */
export function manualSeed(seed: number | bigint): void {
  const valid = typeof seed === 'bigint' ? seed >= -(2n ** 63n) && seed < 2n ** 63n : Number.isSafeInteger(seed);
  if (!valid) {
    throw new ShardloopError('BAD_ARGUMENT', `manualSeed: expected a 64-bit integer, received ${describe(seed)}`);
  }
  raw('shardloop::manual_seed', seed);
}

/** The state of the default CPU generator: uint8 (5056), to be given back to {@link setRandomState}. */
export function getRandomState(): Tensor {
  return wrap(raw('shardloop::get_rng_state'));
}

/** Puts the default CPU generator into a state that {@link getRandomState} gave. */
export function setRandomState(state: Tensor): void {
  raw('shardloop::set_rng_state', handleOf(state));
}
