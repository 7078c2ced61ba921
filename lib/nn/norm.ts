// Normalisation over the last dimension.
import { ones, ops, type Tensor, zeros } from '../core/index.js';
import { Module } from './module.js';
import { positive, size, type TensorOptions } from './options.js';
import { type Parameter, parameter } from './parameter.js';

/** Options of {@link LayerNorm}. */
export interface LayerNormOptions extends TensorOptions {
  /** Size of the last dimension. */
  size: number;
  /** Added to the variance (default 1e-5). */
  eps?: number;
  /** Whether a bias is added (default true). */
  bias?: boolean;
}

/** `(x - mean) / sqrt(variance + eps) * weight + bias` over the last dimension: (..., size) -> (..., size). */
export class LayerNorm extends Module {
  readonly size: number;
  readonly eps: number;
  weight: Parameter; // (size)
  bias: Parameter | null; // (size)

  constructor(options: LayerNormOptions) {
    super();
    const { eps = 1e-5, bias = true, dtype, device } = options;
    this.size = size('LayerNorm: size', options.size);
    this.eps = positive('LayerNorm: eps', eps);
    this.weight = parameter(ones([this.size], { dtype, device }));
    this.bias = bias ? parameter(zeros([this.size], { dtype, device })) : null;
  }

  forward(x: Tensor): Tensor {
    return ops.layer_norm(x, [this.size], { weight: this.weight, bias: this.bias, eps: this.eps });
  }

  override extraRepr(): string {
    return `${this.size}, eps=${this.eps}, bias=${this.bias !== null}`;
  }
}

/** Options of {@link RMSNorm}. */
export interface RMSNormOptions extends TensorOptions {
  /** Size of the last dimension. */
  size: number;
  /** Added to the mean square (default 1e-6). */
  eps?: number;
}

/** `x / sqrt(mean(x^2) + eps) * weight` over the last dimension: (..., size) -> (..., size). */
export class RMSNorm extends Module {
  readonly size: number;
  readonly eps: number;
  weight: Parameter; // (size)

  constructor(options: RMSNormOptions) {
    super();
    this.size = size('RMSNorm: size', options.size);
    this.eps = positive('RMSNorm: eps', options.eps ?? 1e-6);
    this.weight = parameter(ones([this.size], { dtype: options.dtype, device: options.device }));
  }

  forward(x: Tensor): Tensor {
    return ops.rms_norm(x, [this.size], { weight: this.weight, eps: this.eps });
  }

  override extraRepr(): string {
    return `${this.size}, eps=${this.eps}`;
  }
}
