// How the tests of fused ops compare what two ways give.
import { expect } from 'vitest';
import type { Tensor } from '../../lib/core/index.js';

/** The elements in float64. */
export const values = (t: Tensor): Float64Array => t.to({ dtype: 'float64' }).dataSync() as Float64Array;

export const rms = (a: Float64Array): number => Math.sqrt(a.reduce((sum, v) => sum + v * v, 0) / a.length);

/** The usual error of a, of the usual size of b. */
export function usualError(a: Float64Array, b: Float64Array): number {
  expect(a.length).toBe(b.length);
  return rms(a.map((v, i) => v - b[i]!)) / (rms(b) || 1);
}
