// The affine layer as GPT-2's published weights have it: a Linear whose weight is stored transposed.
import { empty, type Tensor } from '../core/index.js';
import { gelu } from './activations.js';
import { affine, type GeluFirst, geluAffine } from './affine.js';
import * as init from './init.js';
import type { LinearOptions } from './linear.js';
import { Module } from './module.js';
import { size } from './options.js';
import { type Parameter, parameter } from './parameter.js';

/**
 * `y = x W + b` over the last dimension: (..., in) -> (..., out). `weight` is (in, out), as in Hugging Face's Conv1D
 * (a convolution of width one), and starts as N(0, 0.02); `bias` is (out), or null, and starts at 0.
 */
export class Conv1D extends Module implements GeluFirst {
  readonly in: number;
  readonly out: number;
  weight: Parameter; // (in, out)
  bias: Parameter | null; // (out)

  constructor(options: LinearOptions) {
    super();
    this.in = size('Conv1D: in', options.in);
    this.out = size('Conv1D: out', options.out);
    const { bias = true, dtype, device } = options;
    this.weight = parameter(empty([this.in, this.out], { dtype, device }));
    init.normal(this.weight, { std: 0.02 });
    this.bias = bias ? parameter(empty([this.out], { dtype, device })) : null;
    if (this.bias !== null) init.zeros(this.bias);
  }

  forward(x: Tensor): Tensor {
    return affine(x, this.weight, this.bias, { across: true }); // (..., out)
  }

  /** `forward(gelu(x))`, by the tanh approximation; see {@link geluAffine}. */
  forwardGelu(x: Tensor): Tensor {
    const isOwn = this.forward === Conv1D.prototype.forward; // else somebody's forward wants to see gelu(x)
    if (isOwn) return geluAffine(x, this.weight, this.bias, { across: true });
    return this.forward(gelu(x, { approximate: 'tanh' }));
  }

  override extraRepr(): string {
    return `in=${this.in}, out=${this.out}, bias=${this.bias !== null}`;
  }
}
