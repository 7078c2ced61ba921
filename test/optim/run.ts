// Runs an optimizer over gradients that are given as numbers. Used by the tests of the optimizers.
import { noGrad, type Tensor, tensor } from '../../lib/core/index.js';
import type { Optimizer } from '../../lib/optim/index.js';

/** Gradients that differ from step to step and change sign. */
export function gradient(step: number, size: number): number[] {
  return Array.from({ length: size }, (_, i) => Math.sin(1.7 * step + 0.9 * i + 0.3) * (1 + i));
}

/** A float64 parameter. */
export function param(values: number[], shape: number[] = [values.length]): Tensor {
  return tensor(values, { shape, dtype: 'float64', requiresGrad: true });
}

/** Sets the gradient of `p` to `values`. */
export function setGrad(p: Tensor, values: number[]): void {
  p.grad = noGrad(() => tensor(values, { shape: [...p.shape], dtype: p.dtype }));
}

/** `steps` steps with the gradients of {@link gradient}; gives the parameter's values after each. */
export function run(optimizer: Optimizer, p: Tensor, steps: number, first = 1): number[][] {
  const history: number[][] = [];
  for (let step = first; step < first + steps; step++) {
    setGrad(p, gradient(step, p.numel));
    optimizer.step();
    optimizer.zeroGrad();
    history.push(Array.from(p.dataSync() as Float64Array));
  }
  return history;
}

/** The largest difference between two histories. */
export function distance(a: number[][], b: number[][]): number {
  return Math.max(...a.flatMap((row, i) => row.map((x, j) => Math.abs(x - b[i]![j]!))));
}
