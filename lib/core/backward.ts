// Backward from several roots, and gradients as values.
// Not here: autograd functions written in TypeScript (custom-function.ts).
import type { Handle } from './binding.js';
import { runBackward, runGrad } from './engine.js';
import { describe, ShardloopError } from './errors.js';
import { checkOptions } from './options.js';
import { handleOf, type Tensor, wrapOptional } from './tensor-class.js';

/** Options of {@link backward}. */
export interface BackwardOptions {
  /** Accumulate only into these leaves; without it, into every leaf. */
  inputs?: readonly Tensor[];
  /** Keep what the forward saved, for another backward through it. Default: `createGraph`. */
  retainGraph?: boolean;
  /** Record the backward itself, for gradients of gradients. Default false. */
  createGraph?: boolean;
}

function handles(name: string, tensors: readonly Tensor[]): Handle[] {
  if (!Array.isArray(tensors)) {
    throw new ShardloopError('BAD_ARGUMENT', `${name}: expected an array of Tensors, received ${describe(tensors)}`);
  }
  return (tensors as readonly Tensor[]).map(handleOf);
}

function seeds(name: string, roots: number, gradients: readonly (Tensor | null)[] | undefined): (Handle | null)[] {
  if (gradients === undefined) return Array<null>(roots).fill(null);
  if (!Array.isArray(gradients) || gradients.length !== roots) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `${name}: expected ${roots} gradients, one for each root (null for a scalar), received ${describe(gradients)}`,
    );
  }
  return (gradients as readonly (Tensor | null)[]).map((gradient) => (gradient === null ? null : handleOf(gradient)));
}

/**
 * Adds the gradients of the sum over `roots` of root · gradient to the `grad` of every leaf (or only of `inputs`).
 * A gradient has its root's shape; null, or none at all, stands for 1 and needs a root of one element.
 */
export function backward(
  roots: readonly Tensor[],
  gradients?: readonly (Tensor | null)[],
  options: BackwardOptions = {},
): void {
  const from = handles('backward', roots);
  const seed = seeds('backward', from.length, gradients);
  checkOptions('backward', options, ['inputs', 'retainGraph', 'createGraph']);
  const { inputs, createGraph = false, retainGraph = createGraph } = options;
  if (inputs !== undefined && inputs.length === 0) return;
  runBackward(from, seed, handles('backward', inputs ?? []), retainGraph, createGraph);
}

/** Options of {@link grad}. */
export interface GradOptions {
  /** One for each output, of its shape; null stands for 1 and needs an output of one element. */
  gradients?: readonly (Tensor | null)[];
  /** Keep what the forward saved, for another backward through it. Default: `createGraph`. */
  retainGraph?: boolean;
  /** Record the backward itself, for gradients of gradients. Default false. */
  createGraph?: boolean;
  /** Give null for an input that the outputs do not depend on, instead of an error. Default false. */
  allowUnused?: boolean;
}

/** The gradients of `outputs` with respect to `inputs`, as values; nothing is accumulated. */
export function grad(
  outputs: readonly Tensor[],
  inputs: readonly Tensor[],
  options: GradOptions = {},
): (Tensor | null)[] {
  checkOptions('grad', options, ['gradients', 'retainGraph', 'createGraph', 'allowUnused']);
  const { gradients, createGraph = false, retainGraph = createGraph, allowUnused = false } = options;
  const from = handles('grad', outputs);
  const to = handles('grad', inputs);
  const seed = seeds('grad', from.length, gradients);
  return runGrad(from, to, seed, retainGraph, createGraph, allowUnused).map(wrapOptional);
}
