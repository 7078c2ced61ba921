// What a training step is called with, and that one which is called again after it failed gives what an undisturbed one gives.
import { describe, expect, it } from 'vitest';
import { manualSeed, ones, ops, type Tensor } from '../../lib/core/index.js';
import { createGroup } from '../../lib/dist/index.js';
import { Linear, segment } from '../../lib/nn/index.js';
import { SGD } from '../../lib/optim/index.js';
import { alone, replicate, runSegments } from '../../lib/parallel/index.js';
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

  it('says what came with a method that is none', async () => {
    const expected = 'trainStep: group: expected an object with the method sum, received one whose sum is 5; take';
    await expect(step({ group: { sum: 5 } })).rejects.toThrow(expected);
  });

  it.each([[[]], [[ones([2])]]])('parts without any of what trains are refused (%#)', async (wrong) => {
    const expected = `trainStep: parts: expected what this rank updates of the parameters that train, received an array of ${wrong.length} without any`;
    await expect(step({ parts: wrong })).rejects.toThrow(expected);
    await expect(step({ parts: parts.slice(0, 1) })).resolves.toMatchObject({ loss: 0 });
  });

  it.each([
    [null, 'null'],
    [5, '5'],
    [Promise.resolve(), 'an object of class Promise'],
    [{ lossOf: () => ones([]) }, 'an object with lossOf'],
    [{ input: [] }, 'an object with input'],
  ])('a micro-batch that is none is refused (%#)', async (batch, received) => {
    const expected = `trainStep: a micro-batch: expected an object of input, an array, and lossOf, a function, received ${received}`;
    await expect(step({}, [() => batch])).rejects.toThrow(expected);
  });

  it('segments that are none, and a precision that keeps the loss, are refused', async () => {
    await expect(step({ segments: [1] })).rejects.toThrow(
      'trainStep: segments: expected those of the model, received 1 among',
    );
    const batch = () => ({ input: [ones([1, 3])], lossOf: ([y]: readonly Tensor[]) => ops.sum(y!) });
    const precision = async (fn: () => Tensor) => fn();
    const expected =
      'trainStep: precision: expected a function that returns what it was given to run, received one that returned an object of class Promise';
    await expect(step({ precision }, [batch])).rejects.toThrow(expected);
  });

  it('two at once with one optimizer are refused, and the first goes on', async () => {
    const batch = () => ({ input: [ones([1, 3])], lossOf: ([y]: readonly Tensor[]) => ops.sum(y!) });
    const first = step({}, [batch]);
    await expect(step({}, [batch])).rejects.toThrow('trainStep: expected the step before to be over');
    expect((await first).gradNorm).toBeGreaterThan(0);
    await step({}, [batch]);
  });

  it('a run of the segments says which option makes no sense', () => {
    const run = (input: unknown, options: object, lossOf: unknown = () => ones([])) =>
      runSegments(context.segments, input as Tensor[], lossOf as () => Tensor, options);
    const given = [ones([1, 3])];
    expect(() => run(given[0], {})).toThrow('runSegments: input: expected an array of tensors, received');
    expect(() => run(given, {}, null)).toThrow(
      'runSegments: lossOf: expected a function of the last output, received null',
    );
    expect(() => run(given, { checkpointing: 'half' })).toThrow(
      `runSegments: checkpointing: expected 'none', 'full' or`,
    );
    expect(() => run(given, { checkpointing: 0 })).toThrow('received 0');
    expect(() => run(given, { last: 'no' })).toThrow('runSegments: last: expected true or false, received "no"');
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
