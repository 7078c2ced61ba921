// How much of the machine a run uses: the floating-point operations that the model's products need, against the rate that
// this device reaches in a large product of the same dtype, measured here (model FLOPs utilization: Chowdhery et al., arXiv
// 2204.02311, which counts attention whole although half of it is masked, and nothing for recomputed activations).
import { type DType, noGrad, ops, randn, scope } from '../core/index.js';
import type { GPT2LMHeadModel } from '../models/index.js';

/** Floating-point operations of one training step a token of a sequence of `length`. */
export function flopsPerToken(model: GPT2LMHeadModel, length: number): number {
  const { n_layer: L, n_embd: C } = model.config;
  const { wpe } = model.transformer;
  const matrices = model.parameters().filter((t) => t.ndim === 2 && t !== wpe.weight);
  const whole = matrices.reduce((sum, t) => sum + t.numel, 0);
  const trained = matrices.reduce((sum, t) => sum + (t.requiresGrad ? t.numel : 0), 0);
  return 4 * whole + 2 * trained + 12 * L * C * length; // forward and gradient of the input; of the weights; attention
}

/** Operations a second of a product in `dtype`, large enough for the device: the best of a few, on this process's threads. */
export function measurePeak(dtype: DType, device: string): number {
  const n = device.startsWith('cuda') ? 8192 : 512; // 3 ms on two cores: it is measured at every start
  return noGrad(() =>
    scope(() => {
      const [a, b] = [randn([n, n], { device }), randn([n, n], { device })].map((t) => ops._to_copy(t, { dtype }));
      let best = Number.POSITIVE_INFINITY;
      for (let i = 0; i < 6; i++) {
        const start = performance.now();
        const product = ops.mm(a!, b!);
        ops.select(ops.select(product, 0, 0), 0, 0).itemSync(); // waits for the device
        best = Math.min(best, performance.now() - start);
      }
      return (2 * n ** 3) / (best / 1000);
    }),
  );
}
