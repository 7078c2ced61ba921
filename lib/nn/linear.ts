// The affine layer.
import { call, empty, ops, type Tensor } from '../core/index.js';
import { hasKernel } from './fused.js';
import * as init from './init.js';
import { Module } from './module.js';
import { size, type TensorOptions } from './options.js';
import { type Parameter, parameter } from './parameter.js';

/** Options of {@link linear}. */
export interface LinearFunctionOptions {
  /** (out), or null for none (default). */
  bias?: Tensor | null;
  /**
   * On the CPU and in half precision, multiply in float32 and round once, where the processor is faster so (default true). False
   * takes libtorch's product, which is the reference.
   */
  fused?: boolean;
}

/** `x W^T + b` over the last dimension: x (..., in), weight (out, in) -> (..., out). Throws OP_FAILED when shapes do not fit. */
export function linear(x: Tensor, weight: Tensor, options: LinearFunctionOptions = {}): Tensor {
  const { bias = null, fused = true } = options;
  if (fused && x.dtype !== 'float32' && weight.dtype === x.dtype && hasKernel(x)) {
    return call('shardloop::linear', x, weight, bias) as Tensor;
  }
  return ops.linear(x, weight, { bias });
}

/** Options of {@link Linear}. */
export interface LinearOptions extends TensorOptions {
  /** Size of the last dimension that comes in. */
  in: number;
  /** Size of the last dimension that goes out. */
  out: number;
  /** Whether a bias is added (default true). */
  bias?: boolean;
}

/**
 * `y = x W^T + b` over the last dimension: (..., in) -> (..., out). `weight` is (out, in), `bias` (out) or null. Both
 * start uniform in +-1/sqrt(in), as in PyTorch; {@link init.gpt2} sets GPT-2's instead.
 */
export class Linear extends Module {
  readonly in: number;
  readonly out: number;
  weight: Parameter; // (out, in)
  bias: Parameter | null; // (out)

  constructor(options: LinearOptions) {
    super();
    this.in = size('Linear: in', options.in);
    this.out = size('Linear: out', options.out);
    const { bias = true, dtype, device } = options;
    const bound = 1 / Math.sqrt(this.in);
    this.weight = parameter(empty([this.out, this.in], { dtype, device }));
    init.uniform(this.weight, -bound, bound);
    this.bias = bias ? parameter(empty([this.out], { dtype, device })) : null;
    if (this.bias !== null) init.uniform(this.bias, -bound, bound);
  }

  forward(x: Tensor): Tensor {
    return linear(x, this.weight, { bias: this.bias }); // (..., out)
  }

  override extraRepr(): string {
    return `in=${this.in}, out=${this.out}, bias=${this.bias !== null}`;
  }
}
