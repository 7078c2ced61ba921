// What a training step is called with, and that one which is called again after it failed gives what an undisturbed one gives.
import { describe, expect, it } from 'vitest';
import { manualSeed, ones, ops, type Tensor } from '../../lib/core/index.js';
import { createGroup } from '../../lib/dist/index.js';
import { Linear, segment } from '../../lib/nn/index.js';
import { SGD } from '../../lib/optim/index.js';
import { alone, replicate } from '../../lib/parallel/index.js';
import { type MicroBatch, type StepContext, trainStep } from '../../lib/train/step.js';

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

describe('what a step is called with', () => {
  const layer = new Linear({ in: 3, out: 2 });
  const parts = layer.parameters();
  const context = {
    ...{ segments: [segment('layer', [layer], ([x]) => [layer.forward(x!)])], strategy: alone, parts, clip: 0 },
    ...{ optimizer: new SGD({ params: parts, lr: 0.1 }), group: { sum: async (x: number) => x } },
    ...{ checkpointing: 'none', precision: <T>(fn: () => T) => fn() },
  };
  const step = (wrong: object, batches: unknown = []) =>
    trainStep({ ...context, ...wrong } as unknown as StepContext, batches as []);
  const { finish: _, reduce: __, ...halfAStrategy } = alone;

  it.each([
    ['segments', undefined, 'those of the model, received undefined; take nn.segmentsOf(model)'],
    ['segments', [], 'those of the model, received an array of 0'],
    [
      'strategy',
      { ...alone, begin: undefined },
      'an object with the methods begin, gather, release, reduce, finish, sumOverParts, updated, received one without begin; ' +
        'take one of parallel.replicate, parallel.zero or parallel.alone; your own may be { ...parallel.alone, and what differs }',
    ],
    ['strategy', halfAStrategy, /received one without reduce, finish;/],
    ['strategy', undefined, /received undefined;/],
    ['group', {}, 'an object with the method sum, received an empty object; take what dist.init() gives'],
    ['group', null, /method sum, received null/],
    ['optimizer', undefined, 'an object with the methods step, zeroGrad, received undefined; take one of optim'],
    ['optimizer', { step() {} }, /received one without zeroGrad;/],
    ['scaler', { scale: 2 }, 'an object with the methods scaleLoss, update, received an object with scale; take an'],
    ['parts', undefined, 'an array of the tensors that this rank updates, received undefined; take parallel.partsOf'],
    ['clip', undefined, 'a number from 0, which does not clip, received undefined'],
    ['clip', Number.NaN, /received NaN/],
    ['clip', -1, /received -1/],
    ['checkpointing', 'some', `'none', 'full' or a whole number from 1, received "some"`],
    ['checkpointing', 0, /received 0/],
    ['nameOf', 'p', 'a function, received "p"'],
    ['precision', 'bf16', 'a function that runs what it is given, received "bf16"; without autocast: (fn) => fn()'],
  ])('%s: %j is refused', async (key, value, message) => {
    const said = typeof message === 'string' ? `trainStep: ${key}: expected ${message}` : message;
    const expected = typeof said === 'string' ? expect.stringContaining(said) : expect.stringMatching(said);
    await expect(step({ [key]: value })).rejects.toMatchObject({ code: 'BAD_ARGUMENT', message: expected });
  });

  it('is a context, and functions that make batches', async () => {
    const refused = (message: string) => ({ code: 'BAD_ARGUMENT', message: `trainStep: ${message}` });
    await expect(trainStep(null as unknown as StepContext, [])).rejects.toMatchObject(
      refused('the first argument: expected a StepContext, received null'),
    );
    const batches = 'the second argument: expected an array of functions that make a micro-batch';
    await expect(step({}, null)).rejects.toMatchObject(refused(`${batches}, received null`));
    await expect(step({}, [{ input: [] }])).rejects.toMatchObject(refused(`${batches}, received an array of 1`));
    await expect(step({})).resolves.toMatchObject({ loss: 0 });
    class Own {}
    Object.assign(Own.prototype, alone);
    await expect(step({ strategy: new Own() })).resolves.toMatchObject({ loss: 0 });
  });
});

it('counts no gradient of a step that failed, on one rank too', async () => {
  expect(await train(true)).toEqual(await train(false));
});
