// Training in float16 under a dynamic loss scale against torch.amp.GradScaler: the scale of every step over a series with
// overflows, which steps are left out, and the float32 weights at the end.
import { expect, it } from 'vitest';
import { manualSeed, ops, randn, type Tensor, tensor } from '../../lib/core/index.js';
import { createGroup } from '../../lib/dist/index.js';
import { Module, parameter, segment } from '../../lib/nn/index.js';
import { AdamW, LossScaler, MasterWeights } from '../../lib/optim/index.js';
import { alone } from '../../lib/parallel/index.js';
import { trainStep } from '../../lib/train/step.js';
import { type HostTensor, numbers, python, relativeError, toHost } from './python.js';

const [STEPS, B, I, H, O] = [30, 8, 12, 16, 4];
const OVERFLOWS = [6, 7, 15, 22]; // targets so far off that the gradients of the scaled loss leave float16's range

it.each([
  ['the usual factors', { initial: 2 ** 10, growth: 2, backoff: 0.5, window: 4 }],
  ['other factors', { initial: 3000, growth: 1.5, backoff: 0.25, window: 3 }],
])('%s', async (_, scale) => {
  const settings = { lr: 1e-2, clip: 0.5 };
  manualSeed(5);
  const sent = new Map<string, HostTensor>();
  const make = (name: string, shape: number[], factor: number) => sent.set(name, toHost(ops.mul(randn(shape), factor)));
  make('w1', [H, I], 0.3);
  make('w2', [O, H], 0.3);
  for (let step = 0; step < STEPS; step++) {
    make(`x.${step}`, [B, I], 1);
    make(`y.${step}`, [B, O], OVERFLOWS.includes(step) ? 1e7 : 1);
  }
  const args = { ...settings, ...scale, steps: STEPS };
  const theirs = await python<{ scales: number[]; losses: number[] }>('scaler', args, sent);

  const read = (name: string): Tensor => {
    const { shape } = sent.get(name)!;
    return tensor(Float32Array.from(numbers(sent.get(name)!)), { shape: [...shape] });
  };
  class Net extends Module {
    w1 = parameter(ops._to_copy(read('w1'), { dtype: 'float16' }));
    w2 = parameter(ops._to_copy(read('w2'), { dtype: 'float16' }));
    forward(x: Tensor): Tensor {
      return ops.matmul(ops.gelu(ops.matmul(x, ops.t(this.w1))), ops.t(this.w2)); // (B, O)
    }
  }
  const net = new Net();
  const groups = [{ params: net.namedParameters(), lr: settings.lr, weightDecay: 0 }];
  const optimizer = new MasterWeights({ groups, optimizer: (masters) => new AdamW({ groups: masters }) });
  optimizer.loadStateDict({
    ...optimizer.stateDict(),
    tensors: new Map([...optimizer.stateDict().tensors, ['w1.master', read('w1')], ['w2.master', read('w2')]]),
  });
  const scaler = new LossScaler({ ...scale, hysteresis: 1 }); // GradScaler knows no hysteresis
  const group = await createGroup({ rank: 0, size: 1 });
  const context = {
    segments: [segment('net', [net], ([x]) => [net.forward(x!)])],
    ...{ strategy: alone, group, optimizer, parts: net.parameters(), clip: settings.clip },
    ...{ checkpointing: 'none' as const, scaler, precision: <T>(fn: () => T) => fn() },
  };
  const [scales, losses, applied]: [number[], number[], boolean[]] = [[], [], []];
  for (let step = 0; step < STEPS; step++) {
    scales.push(scaler.scale);
    const target = read(`y.${step}`);
    const batch = () => ({
      input: [ops._to_copy(read(`x.${step}`), { dtype: 'float16' })],
      lossOf: ([out]: readonly Tensor[]) =>
        ops.mean(ops.square(ops.sub(ops._to_copy(out!, { dtype: 'float32' }), target))),
    });
    const { loss, overflowed } = await trainStep(context, [batch]);
    losses.push(loss);
    applied.push(!overflowed);
  }
  await group.destroy();

  expect(scales).toEqual(theirs.value.scales);
  expect(applied.flatMap((yes, step) => (yes ? [] : [step]))).toEqual(OVERFLOWS);
  expect(scaler.skipped).toBe(OVERFLOWS.length);
  // The same products of float16. AdamW is one pass here and several operations there: a rounding of float32 apart in a
  // step, which now and then rounds a weight of the next forward to its other float16 neighbour (2^-11).
  for (const [step, loss] of losses.entries()) {
    expect(Math.abs(loss / theirs.value.losses[step]! - 1), `loss of step ${step + 1}`).toBeLessThan(1e-4);
  }
  const masters = optimizer.stateDict().tensors;
  for (const name of ['w1', 'w2']) {
    const apart = relativeError(toHost(masters.get(`${name}.master`)!), theirs.tensors.get(name)!);
    expect(apart, name).toBeLessThan(1e-5);
  }
});
