// How parameters start. Each function fills a tensor in place from the global random state and returns it.
import { describe, noGrad, ops, ShardloopError, type Tensor } from '../core/index.js';
import type { Module } from './module.js';

/** Fills `t` from the normal distribution. */
export function normal(t: Tensor, options: { mean?: number; std?: number } = {}): Tensor {
  const { mean = 0, std = 1 } = options;
  return noGrad(() => ops.normal_(t, { mean, std }));
}

/** Fills `t` from the uniform distribution on [from, to). */
export function uniform(t: Tensor, from = 0, to = 1): Tensor {
  return noGrad(() => ops.uniform_(t, { from, to }));
}

/** Fills `t` with one value. */
export function constant(t: Tensor, value: number): Tensor {
  return noGrad(() => ops.fill_(t, value));
}

/** Fills `t` with 0. */
export function zeros(t: Tensor): Tensor {
  return constant(t, 0);
}

/** Fills `t` with 1. */
export function ones(t: Tensor): Tensor {
  return constant(t, 1);
}

/** Options of {@link gpt2}. */
export interface Gpt2InitOptions {
  /** Number of blocks; each adds to the residual stream twice. */
  layers: number;
  /** Standard deviation of all matrices (default 0.02). */
  std?: number;
  /** Which parameters write into the residual stream, by name (default: names that end in "c_proj.weight"). */
  residual?: (name: string) => boolean;
}

/**
 * GPT-2's initialisation of a whole model: matrices and embedding tables N(0, std), those that write into the residual
 * stream N(0, std / sqrt(2 layers)), biases 0, and the scales of norms (vectors that are not called "bias") 1. A tied
 * weight is filled once.
 */
export function gpt2(model: Module, options: Gpt2InitOptions): void {
  for (const [name, t] of model.namedParameters()) gpt2Parameter(name, t, options);
}

/** The same for one parameter of that name. */
export function gpt2Parameter(name: string, t: Tensor, options: Gpt2InitOptions): void {
  const { layers, std = 0.02, residual = (name) => name.endsWith('c_proj.weight') } = options;
  if (!Number.isSafeInteger(layers) || layers < 1) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `init.gpt2: expected layers to be an integer of at least 1, received ${describe(layers)}`,
    );
  }
  if (t.ndim >= 2) normal(t, { std: residual(name) ? std / Math.sqrt(2 * layers) : std });
  else if (name === 'bias' || name.endsWith('.bias')) zeros(t);
  else ones(t);
}
