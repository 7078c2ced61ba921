// Activation functions, as functions and as modules.
import { call, describe, ops, ShardloopError, type Tensor } from '../core/index.js';
import { hasKernel } from './fused.js';
import { Module } from './module.js';

/** How {@link gelu} is computed: 'none' by the error function, 'tanh' by GPT-2's approximation. */
export type GeluApproximation = 'none' | 'tanh';

/** Options of {@link gelu}. */
export interface GeluOptions {
  /** Default 'none'. */
  approximate?: GeluApproximation;
  /**
   * A kernel of our own for 'tanh' on the CPU, in float32 and half precision (default true). False takes libtorch's, which is
   * the reference.
   */
  fused?: boolean;
}

/**
 * The Gaussian error linear unit `x * Phi(x)`, exactly (default) or as
 * `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`, element by element.
 */
export function gelu(x: Tensor, options: GeluOptions = {}): Tensor {
  const approximate = checkApproximation(options.approximate ?? 'none');
  if (approximate === 'tanh' && (options.fused ?? true) && hasKernel(x))
    return call('shardloop::gelu_tanh', x) as Tensor;
  return ops.gelu(x, { approximate });
}

/** `x * sigmoid(x)`, element by element. */
export function silu(x: Tensor): Tensor {
  return ops.silu(x);
}

/** {@link gelu} as a module. */
export class GELU extends Module {
  readonly approximate: GeluApproximation;

  constructor(options: { approximate?: GeluApproximation } = {}) {
    super();
    this.approximate = checkApproximation(options.approximate ?? 'none');
  }

  forward(x: Tensor): Tensor {
    return gelu(x, { approximate: this.approximate });
  }

  override extraRepr(): string {
    return `approximate=${this.approximate}`;
  }
}

/** {@link silu} as a module. */
export class SiLU extends Module {
  forward(x: Tensor): Tensor {
    return silu(x);
  }
}

function checkApproximation(value: unknown): GeluApproximation {
  if (value === 'none' || value === 'tanh') return value;
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `gelu: expected approximate to be 'none' or 'tanh', received ${describe(value)}`,
  );
}
