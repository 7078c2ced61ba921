// One training step that is called again after it failed gives what an undisturbed one gives.
import { expect, it } from 'vitest';
import { manualSeed, ones, ops, type Tensor } from '../../lib/core/index.js';
import { createGroup } from '../../lib/dist/index.js';
import { Linear, segment } from '../../lib/nn/index.js';
import { SGD } from '../../lib/optim/index.js';
import { replicate } from '../../lib/parallel/index.js';
import { type MicroBatch, trainStep } from '../../lib/train/step.js';

/** Two steps of three micro-batches. Where one of the second step `fails`, the step is called again. */
async function train(fails: boolean): Promise<{ norm: number; weights: number[] }> {
  manualSeed(1);
  const layer = new Linear({ in: 3, out: 2 });
  const segments = [segment('layer', [layer], ([x]) => [layer.forward(x!)])];
  const group = await createGroup({ rank: 0, size: 1 });
  const optimizer = new SGD({ params: layer.parameters(), lr: 0.1 });
  const context = {
    ...{ segments, strategy: replicate(segments, group), group, optimizer, parts: layer.parameters(), clip: 0 },
    ...{ checkpointing: 'none' as const, precision: <T>(fn: () => T) => fn() },
  };
  const make = (scale: number) => (): MicroBatch => ({
    input: [ops.mul(ones([1, 3]), scale)],
    lossOf: ([y]: readonly Tensor[]) => ops.sum(ops.square(y!)),
  });
  const broken = () => {
    throw new Error('a bad record');
  };
  await trainStep(context, [make(1), make(2), make(3)]);
  if (fails) await expect(trainStep(context, [make(3), make(1), broken])).rejects.toThrow('a bad record');
  const { gradNorm: norm } = await trainStep(context, [make(3), make(1), make(2)]);
  const weights = layer.parameters().flatMap((p) => Array.from(p.dataSync() as Float32Array));
  optimizer.dispose();
  await group.destroy();
  return { norm, weights };
}

it('counts no gradient of a step that failed, on one rank too', async () => {
  expect(await train(true)).toEqual(await train(false));
});
