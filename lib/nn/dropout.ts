// Dropout as a module; it does nothing in evaluation mode.
import { ops, type Tensor } from '../core/index.js';
import { Module } from './module.js';
import { probability } from './options.js';

/**
 * While training, sets each element to zero with probability `p` (in [0, 1)) and scales the others by `1 / (1 - p)`.
 * In evaluation mode, and for `p` 0, its input comes back as the same object.
 */
export class Dropout extends Module {
  p: number;

  constructor(p = 0.1) {
    super();
    this.p = probability('Dropout: p', p);
  }

  forward(x: Tensor): Tensor {
    return this.training && this.p > 0 ? ops.dropout(x, this.p, true) : x;
  }

  override extraRepr(): string {
    return `p=${this.p}`;
  }
}
