// Runs libtorch's backward engine on bare handles, in a scope that frees what TypeScript backwards made on the way.
// Not here: the functions for people (backward.ts, Tensor.backward).
import { type Handle, type NativeValue, raw } from './binding.js';
import { enterScope, leaveScope } from './depth.js';
import { ShardloopError } from './errors.js';

/** Whether the backward that runs now keeps the graph; custom functions then keep what they saved. */
export let graphIsRetained = false;

function inEngine(retainGraph: boolean, body: () => readonly (Handle | null)[]): readonly (Handle | null)[] {
  const before = graphIsRetained;
  graphIsRetained = retainGraph;
  const depth = enterScope();
  let escaping: Handle[] = [];
  try {
    const result = body();
    escaping = result.filter((handle) => handle !== null);
    return result;
  } catch (error) {
    throw explained(error);
  } finally {
    graphIsRetained = before;
    leaveScope(depth, escaping);
  }
}

/** libtorch says of a root without a graph only that; what that comes from is more use. */
function explained(error: unknown): unknown {
  if (!(error instanceof ShardloopError)) return error; // whatever a backward in TypeScript threw
  const root = /^element (\d+) of tensors does not require grad/.exec(error.message)?.[1];
  if (root === undefined) return error;
  return new ShardloopError(
    error.code,
    `backward: expected roots that are computed from a tensor that requires grad, root ${root} does not require grad: all ` +
      'that it comes from is frozen (model.requiresGrad() unfreezes; a merged LoRA adapter trains nothing until ' +
      'unmergeLora(model)), or it was computed in noGrad',
    { cause: error },
  );
}

/** Accumulates gradients into the leaves; an empty `inputs` stands for all of them. */
export function runBackward(
  roots: Handle[],
  gradients: (Handle | null)[],
  inputs: Handle[],
  retainGraph: boolean,
  createGraph: boolean,
): void {
  inEngine(retainGraph, () => {
    raw('shardloop::backward', roots, gradients, inputs, retainGraph, createGraph);
    return [];
  });
}

/** The gradients of `outputs` with respect to `inputs`; null where there is none. */
export function runGrad(
  outputs: Handle[],
  inputs: Handle[],
  gradients: (Handle | null)[],
  retainGraph: boolean,
  createGraph: boolean,
  allowUnused: boolean,
): readonly (Handle | null)[] {
  return inEngine(retainGraph, () => {
    const result = raw('shardloop::grad', outputs, inputs, gradients, retainGraph, createGraph, allowUnused);
    return result as readonly NativeValue[] as readonly (Handle | null)[];
  });
}
