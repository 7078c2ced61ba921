// The affine layer.
import { empty, type Tensor } from '../core/index.js';
import { affine } from './affine.js';
import * as init from './init.js';
import { Module } from './module.js';
import { size, type TensorOptions } from './options.js';
import { type Parameter, parameter } from './parameter.js';

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
    return affine(x, this.weight, this.bias, { across: false }); // (..., out)
  }

  override extraRepr(): string {
    return `in=${this.in}, out=${this.out}, bias=${this.bias !== null}`;
  }
}
