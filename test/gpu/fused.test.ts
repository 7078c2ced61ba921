// The fused ops of training on a CUDA device against the CPU's: loss under a head, GELU with its product, a LoRA layer.
// Run by scripts/device-check.mjs.
import { expect, it } from 'vitest';
import { manualSeed, ops, randn, type Tensor, tensor } from '../../lib/core/index.js';
import { Conv1D, geluAffine, type Linear, linearCrossEntropy, type Parameter } from '../../lib/nn/index.js';
import { LoraLinear } from '../../lib/peft/index.js';

const numbers = (t: Tensor) => t.to({ device: 'cpu' }).dataSync() as Float32Array;

/** What `compute` gives on both devices, and the gradients of the given tensors, in fp32 with sums in another order. */
function agree(given: Tensor[], compute: (tensors: Tensor[]) => Tensor): void {
  const [cpu, cuda] = ['cpu', 'cuda:0'].map((device) => {
    const leaves = given.map((t) => {
      const leaf = t.detach().to({ device }).detach();
      leaf.requiresGrad = true;
      return leaf;
    });
    const y = compute(leaves);
    ops.sum(ops.mul(y, y)).backward();
    return [y, ...leaves.map((leaf) => leaf.grad!)].map(numbers);
  }) as [Float32Array[], Float32Array[]];
  for (const [i, expected] of cpu.entries()) {
    const size = Math.max(...expected.map(Math.abs));
    for (const [at, value] of expected.entries())
      expect(Math.abs(cuda[i]![at]! - value)).toBeLessThanOrEqual(1e-4 * size);
  }
}

it('gives the loss under a head whose scores stand in parts', () => {
  manualSeed(1);
  const labels = tensor(BigInt64Array.from({ length: 300 }, (_, i) => (i % 3 ? BigInt(i * 131) : -100n)));
  agree([randn([300, 8]), randn([50257, 8])], ([hidden, weight]) =>
    linearCrossEntropy(hidden!, weight!, labels.to({ device: hidden!.device }), { labelSmoothing: 0.1 }),
  );
});

it('names a label that is no class, and the device lives on', () => {
  const [hidden, weight] = [randn([1, 2], { device: 'cuda:0' }), randn([3, 2], { device: 'cuda:0' })];
  const labels = tensor([3n], { device: 'cuda:0' });
  expect(() => linearCrossEntropy(hidden, weight, labels)).toThrow(/labels from 0 to 2/);
  expect(ops.sum(weight).shape).toEqual([]);
});

it('gives GELU with the product behind it, and a LoRA layer behind GELU', () => {
  manualSeed(2);
  agree([randn([4, 33]), randn([33, 7]), randn([7])], ([x, weight, bias]) =>
    geluAffine(x!, weight!, bias!, { across: true }),
  );
  const base = () => new Conv1D({ in: 33, out: 7 }).requiresGrad(false) as unknown as Linear;
  const layer = new LoraLinear(base(), { rank: 2, alpha: 4, dropout: 0, rsLora: false });
  agree([randn([4, 33]), randn([2, 33]), randn([7, 2])], ([x, a, b]) => {
    const here = layer.to({ device: x!.device });
    here.lora_A.weight = a as Parameter;
    here.lora_B.weight = b as Parameter;
    return here.forwardGelu(x!);
  });
});
