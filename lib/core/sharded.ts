// Which parameters a strategy shards: optimizers work on parts of these, and refuse the parameters themselves, of which nobody
// would ever see an update. Not here: the parts (lib/parallel).
import { ShardloopError } from './errors.js';
import type { Tensor } from './tensor-class.js';

const sharded = new WeakSet<Tensor>();

/** From here on optimizers refuse these parameters. */
export function markSharded(parameters: Iterable<Tensor>): void {
  for (const parameter of parameters) sharded.add(parameter);
}

/** The strategy is gone: they are what they were. */
export function unmarkSharded(parameters: Iterable<Tensor>): void {
  for (const parameter of parameters) sharded.delete(parameter);
}

/** Throws BAD_ARGUMENT for a parameter that a strategy shards. */
export function refuseSharded(where: string, parameter: Tensor): void {
  if (!sharded.has(parameter)) return;
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `${where}: expected parts of the parameters that zero() shards, received a whole one [${parameter.shape.join(', ')}]; ` +
      'take parallel.partsOf(strategy, model.namedParameters())',
  );
}
