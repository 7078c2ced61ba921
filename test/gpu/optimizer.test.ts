// The one-pass optimizers on a CUDA device: bit-equal to the composed update there, and close to the CPU's; the sum of
// squares behind the gradient norm. Run by scripts/device-check.mjs.
import { expect, it } from 'vitest';
import { type DType, manualSeed, randn, type Tensor } from '../../lib/core/index.js';
import { AdamW, gradSquares, Lion, MasterWeights, type Optimizer, SGD } from '../../lib/optim/index.js';

const SIZES = [0, 1, 255, 4096, 4097, 300_001, ...Array.from({ length: 60 }, (_, i) => 10 + i)]; // more than a launch takes
type Make = (groups: { params: Tensor[] }[], fused: boolean) => Optimizer;
const RULES: Record<string, Make> = {
  AdamW: (groups, fused) => new AdamW({ groups, fused, weightDecay: 0.1 }),
  SGD: (groups, fused) => new SGD({ groups, fused, lr: 0.1, weightDecay: 0.1 }),
  'SGD, Nesterov': (groups, fused) => new SGD({ groups, fused, lr: 0.1, momentum: 0.9, nesterov: true }),
  Lion: (groups, fused) => new Lion({ groups, fused, weightDecay: 0.1 }),
};

function draw(size: number, dtype: DType, device: string): Tensor {
  return randn([size]).to({ dtype, device }); // drawn on the CPU: the same numbers on both devices
}

function outcome(make: Make, fused: boolean, dtype: DType, device: string): Float32Array[] {
  manualSeed(6);
  const params = SIZES.map((size) => draw(size, dtype, device));
  const optimizer =
    dtype === 'bfloat16'
      ? new MasterWeights({ groups: [{ params }], optimizer: (groups) => make(groups, fused) })
      : make([{ params }], fused);
  for (let step = 0; step < 3; step++) {
    for (const p of params) p.grad = draw(p.numel, dtype, device);
    optimizer.step({ gradScale: 0.3 });
  }
  return [...params, ...optimizer.stateDict().tensors.values()].map((t) => t.dataSync() as Float32Array);
}

for (const [rule, make] of Object.entries(RULES)) {
  it.each(['float32', 'bfloat16', 'float64'] as const)(`${rule}, %s: equals the composed update`, (dtype) => {
    const native = outcome(make, true, dtype, 'cuda:0');
    expect(native).toEqual(outcome(make, false, dtype, 'cuda:0'));
    const cpu = outcome(make, true, dtype, 'cpu');
    for (const [i, values] of native.entries()) {
      // The rules round alike on both devices.
      expect(values).toEqual(cpu[i]);
    }
  });
}

it('sums squares, and names the gradient that is not finite', () => {
  const on = (device: string): Tensor[] => {
    manualSeed(2);
    return SIZES.map((size) => {
      const p = draw(size, 'bfloat16', device);
      p.grad = draw(size, 'bfloat16', device);
      return p;
    });
  };
  const params = on('cuda:0');
  const { sum, nonFinite } = gradSquares(params);
  expect(Math.abs(sum - gradSquares(on('cpu')).sum)).toBeLessThan(1e-12 * sum);
  expect(nonFinite).toBeNull();
  params[20]!.grad!.fill_(Number.NaN);
  expect(gradSquares(params).nonFinite).toBe(params[20]);
});
