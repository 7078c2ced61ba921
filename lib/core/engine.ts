// Runs libtorch's backward engine on bare handles, in a scope that frees what TypeScript backwards made on the way.
// Not here: the functions for people (backward.ts, Tensor.backward).
import { type Handle, type NativeValue, raw } from './binding.js';
import { enterScope, leaveScope } from './depth.js';

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
  } finally {
    graphIsRetained = before;
    leaveScope(depth, escaping);
  }
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
