// Compares gradients by autograd with central differences, in float64. Used by the tests of layers and losses.
import { backward, noGrad, randn, scope, type Tensor } from '../../lib/core/index.js';

/** The largest |autograd - difference| over all elements of `inputs`, for sum(weights * f()), weights fixed at random. */
export function gradError(f: () => Tensor, inputs: readonly Tensor[], step = 1e-6): number {
  const shape = scope(() => [...f().shape]);
  const weights = randn(shape, { dtype: 'float64' });
  const value = (): number => noGrad(() => scope(() => f().mul(weights).sum().itemSync() as number));
  for (const input of inputs) input.grad = null;
  scope(() => backward([f().mul(weights).sum()]));
  let worst = 0;
  for (const input of inputs) {
    const analytic = input.grad!.dataSync() as Float64Array;
    const flat = noGrad(() => input.detach().reshape([-1])); // a view: writing into it moves the input
    for (let i = 0; i < input.numel; i++) {
      const before = flat.get(i).itemSync() as number;
      const at = (x: number): number => {
        flat.set([i], x);
        return value();
      };
      const difference = (at(before + step) - at(before - step)) / (2 * step);
      flat.set([i], before);
      worst = Math.max(worst, Math.abs(difference - analytic[i]!));
    }
    input.grad = null;
  }
  return worst;
}

/** A float64 leaf of normal numbers. */
export function leaf(...shape: number[]): Tensor {
  return randn(shape, { dtype: 'float64', requiresGrad: true });
}
