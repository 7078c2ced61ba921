// Ten steps of every optimizer against Python's, with groups, weight decay, a schedule, clipping, and parameters that
// have no gradient in some steps.
import { beforeAll, describe, expect, test } from 'vitest';
import { type DType, manualSeed, noGrad, randn, type Tensor, tensor } from '../../lib/core/index.js';
import { Adafactor, AdamW, clipGradNorm, cosine, Lion, type Optimizer, Schedule, SGD } from '../../lib/optim/index.js';
import { type HostTensor, python, relativeError, toHost } from './python.js';

const STEPS = 10;
const SHAPES: Record<string, number[]> = { table: [7, 5], weight: [5, 5], cube: [2, 3, 4], bias: [5], scale: [1] };
const GROUPS = [
  ['table', 'weight', 'cube'],
  ['bias', 'scale'],
];

interface Case {
  title: string;
  kind: string;
  make: (groups: { params: [string, Tensor][]; [setting: string]: unknown }[]) => Optimizer;
  /** As Python names them, for all groups and for each. */
  settings: object;
  groups: [object, object];
  ours: [object, object];
  dtype?: DType;
  clip?: number;
  tolerance: number;
}

const adamw = { lr: 1e-2, betas: [0.8, 0.95], eps: 1e-6 };
const adamwGroups: Pick<Case, 'groups' | 'ours'> = {
  groups: [{ weight_decay: 0.1 }, { weight_decay: 0, lr: 3e-2 }],
  ours: [{ weightDecay: 0.1 }, { weightDecay: 0, lr: 3e-2 }],
};
const plain: Pick<Case, 'groups' | 'ours'> = { groups: [{}, {}], ours: [{}, {}] };

const CASES: Case[] = [
  ...[true, false].flatMap((fused): Case[] => [
    {
      title: `AdamW, ${fused ? 'fused' : 'composed'}, groups`,
      kind: 'AdamW',
      make: (groups) => new AdamW({ groups, lr: 1e-2, betas: [0.8, 0.95], eps: 1e-6, fused }),
      settings: adamw,
      ...adamwGroups,
      tolerance: 1e-6,
    },
    {
      title: `AdamW, ${fused ? 'fused' : 'composed'}, defaults, float64`,
      kind: 'AdamW',
      make: (groups) => new AdamW({ groups, fused }),
      settings: {},
      ...plain,
      dtype: 'float64',
      tolerance: 1e-12,
    },
  ]),
  {
    title: 'AdamW with clipping',
    kind: 'AdamW',
    make: (groups) => new AdamW({ groups, lr: 1e-2, betas: [0.8, 0.95], eps: 1e-6 }),
    settings: adamw,
    ...adamwGroups,
    clip: 2,
    tolerance: 1e-6,
  },
  ...[true, false].map(
    (fused): Case => ({
      title: `AdamW in bfloat16, ${fused ? 'fused' : 'composed'}`,
      kind: 'AdamW',
      make: (groups) => new AdamW({ groups, lr: 1e-2, fused }),
      settings: { lr: 1e-2, fused: true }, // which computes in float32 and rounds once, as ours do
      ...plain,
      dtype: 'bfloat16',
      // Float32 results that differ in the last bit may lie on two sides of a rounding: one bfloat16 step of an element.
      tolerance: 2 ** -8,
    }),
  ),
  {
    title: 'SGD, plain',
    kind: 'SGD',
    make: (groups) => new SGD({ groups }),
    settings: {},
    ...plain,
    tolerance: 1e-6,
  },
  {
    title: 'SGD with momentum and weight decay',
    kind: 'SGD',
    make: (groups) => new SGD({ groups, lr: 1e-2, momentum: 0.9 }),
    settings: { lr: 1e-2, momentum: 0.9 },
    groups: [{ weight_decay: 0.1 }, { momentum: 0.5 }],
    ours: [{ weightDecay: 0.1 }, { momentum: 0.5 }],
    tolerance: 1e-6,
  },
  {
    title: 'SGD, Nesterov',
    kind: 'SGD',
    make: (groups) => new SGD({ groups, lr: 1e-2, momentum: 0.9, nesterov: true }),
    settings: { lr: 1e-2, momentum: 0.9, nesterov: true },
    groups: [{ weight_decay: 0.1 }, { nesterov: false }],
    ours: [{ weightDecay: 0.1 }, { nesterov: false }],
    tolerance: 1e-6,
  },
  {
    title: 'Adafactor, defaults',
    kind: 'Adafactor',
    make: (groups) => new Adafactor({ groups }),
    settings: {},
    ...plain,
    tolerance: 1e-6,
  },
  {
    title: 'Adafactor, every setting',
    kind: 'Adafactor',
    make: (groups) => new Adafactor({ groups, lr: 0.3, beta2Decay: -0.6, eps: [1e-8, 1e-2], clipThreshold: 1.5 }),
    settings: { lr: 0.3, beta2_decay: -0.6, eps: [1e-8, 1e-2], d: 1.5 },
    groups: [{ weight_decay: 0.1 }, { lr: 0.1 }],
    ours: [{ weightDecay: 0.1 }, { lr: 0.1 }],
    tolerance: 1e-6,
  },
  {
    title: 'Lion',
    kind: 'Lion',
    make: (groups) => new Lion({ groups, lr: 1e-3, betas: [0.8, 0.95] }),
    settings: { lr: 1e-3, betas: [0.8, 0.95] },
    groups: [{ weight_decay: 0.1 }, { lr: 3e-3 }],
    ours: [{ weightDecay: 0.1 }, { lr: 3e-3 }],
    tolerance: 1e-6,
  },
];

beforeAll(() => {
  manualSeed(17);
});

/** Parameters and gradients; `scale` has a gradient in every third step only, `cube` from the fifth on. */
function draw(dtype: DType): Map<string, HostTensor> {
  const sent = new Map<string, HostTensor>();
  for (const [name, shape] of Object.entries(SHAPES)) {
    sent.set(`p.${name}`, toHost(randn(shape, { dtype })));
    for (let step = 0; step < STEPS; step++) {
      if ((name === 'scale' && step % 3 !== 1) || (name === 'cube' && step < 4)) continue;
      sent.set(`g.${step}.${name}`, toHost(randn(shape, { dtype })));
    }
  }
  return sent;
}

function fromHost(t: HostTensor): Tensor {
  const copy = t.data.slice().buffer;
  const array =
    t.dtype === 'float64'
      ? new Float64Array(copy)
      : t.dtype === 'float32'
        ? new Float32Array(copy)
        : new Uint16Array(copy);
  return tensor(array, { shape: [...t.shape], dtype: t.dtype as DType });
}

describe('ten steps', () => {
  test.each(CASES)('$title', async ({ kind, make, settings, groups, ours, dtype = 'float32', clip, tolerance }) => {
    const sent = draw(dtype);
    const params = new Map(Object.keys(SHAPES).map((name) => [name, fromHost(sent.get(`p.${name}`)!)]));
    for (const p of params.values()) p.requiresGrad = true;
    const optimizer = make(
      GROUPS.map((names, i) => ({
        ...ours[i],
        params: names.map((name): [string, Tensor] => [name, params.get(name)!]),
      })),
    );
    const schedule = new Schedule(optimizer, cosine({ total: STEPS, warmup: 3, final: 0.1 }));
    const factors: number[][] = [];
    const norms: number[] = [];
    for (let step = 0; step < STEPS; step++) {
      for (const [name, p] of params) {
        const gradient = sent.get(`g.${step}.${name}`);
        p.grad = gradient === undefined ? null : noGrad(() => fromHost(gradient));
      }
      if (clip !== undefined) norms.push(clipGradNorm(params.values(), clip));
      factors.push(optimizer.groups.map((group) => group.lr));
      optimizer.step();
      schedule.advance();
    }
    const expected = await python<number[]>(
      'optim',
      {
        kind,
        settings,
        groups: GROUPS.map((names, i) => ({ names, settings: groups[i] })),
        steps: STEPS,
        clip: clip ?? null,
        factors,
      },
      sent,
    );
    for (const [name, p] of params) {
      expect(relativeError(toHost(p), expected.tensors.get(name)!), name).toBeLessThanOrEqual(tolerance);
      expect(relativeError(toHost(p), sent.get(`p.${name}`)!), `${name} moved`).toBeGreaterThan(0);
    }
    expect(norms).toHaveLength(expected.value.length);
    norms.forEach((norm, i) => {
      expect(norm / expected.value[i]!).toBeCloseTo(1, 6);
    });
  });
});
