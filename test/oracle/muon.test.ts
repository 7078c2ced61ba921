// Ten steps of Muon against torch.optim.Muon, over tall, wide and square matrices.
import { expect, it } from 'vitest';
import { manualSeed, noGrad, randn, type Tensor, tensor } from '../../lib/core/index.js';
import { Muon, type MuonSettings } from '../../lib/optim/index.js';
import { type HostTensor, numbers, python, relativeError, toHost } from './python.js';

const STEPS = 10;
const SHAPES: Record<string, number[]> = { tall: [24, 8], wide: [6, 18], square: [10, 10] };

it.each<[string, Partial<MuonSettings>, object]>([
  ['defaults', {}, {}],
  [
    'every setting',
    { lr: 0.02, momentum: 0.8, nesterov: false, weightDecay: 0.2, iterations: 4, adjust: 'rms' },
    { lr: 0.02, momentum: 0.8, nesterov: false, weight_decay: 0.2, ns_steps: 4, adjust_lr_fn: 'match_rms_adamw' },
  ],
])('%s', async (_, ours, settings) => {
  manualSeed(3);
  const sent = new Map<string, HostTensor>();
  for (const [name, shape] of Object.entries(SHAPES)) {
    sent.set(`p.${name}`, toHost(randn(shape)));
    for (let step = 0; step < STEPS; step++) sent.set(`g.${step}.${name}`, toHost(randn(shape)));
  }
  const lr = ours.lr ?? 1e-3;
  const names = Object.keys(SHAPES);
  const { tensors } = await python(
    'optim',
    {
      kind: 'Muon',
      settings,
      groups: [{ settings: {}, names }],
      steps: STEPS,
      clip: null,
      factors: Array(STEPS).fill([lr]),
    },
    sent,
  );
  const read = (key: string, shape: number[]) => tensor(Float32Array.from(numbers(sent.get(key)!)), { shape });
  const params = new Map<string, Tensor>(
    Object.entries(SHAPES).map(([name, shape]) => [name, read(`p.${name}`, shape)]),
  );
  const optimizer = new Muon({ params, ...ours });
  for (let step = 0; step < STEPS; step++) {
    noGrad(() => {
      for (const [name, shape] of Object.entries(SHAPES)) params.get(name)!.grad = read(`g.${step}.${name}`, shape);
    });
    optimizer.step();
  }
  for (const [name, param] of params) {
    // The iterations run in bfloat16 on both sides; products that round in another order are a few of its steps apart.
    expect(relativeError(toHost(param), tensors.get(name)!), name).toBeLessThan(2 ** -8 * STEPS * lr);
  }
});
