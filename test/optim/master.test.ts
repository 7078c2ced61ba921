// Float32 masters: small updates that bfloat16 would lose add up, state holds the masters, and resume is exact.
import { describe, expect, test } from 'vitest';
import { noGrad, ones, randn, type Tensor, tensor } from '../../lib/core/index.js';
import { stats } from '../../lib/core/memory.js';
import { AdamW, MasterWeights, type Optimizer, SGD } from '../../lib/optim/index.js';

const half = (values: number[]): Tensor => tensor(values, { dtype: 'bfloat16', requiresGrad: true });

function give(p: Tensor, values: number[]): void {
  const gradient = tensor(values, { dtype: p.dtype });
  p.grad = gradient;
  gradient.dispose();
}

const list = (t: Tensor): number[] => Array.from(t.dataSync() as Float32Array);

function sgd(p: Tensor, lr: number): MasterWeights<{ params: [string, Tensor][] }> {
  return new MasterWeights({ groups: [{ params: [['p', p]] }], optimizer: (groups) => new SGD({ groups, lr }) });
}

describe('MasterWeights', () => {
  test('96 updates of 1/1024 move a bfloat16 weight by 96/1024', () => {
    const [plain, mastered] = [half([1]), half([1])];
    const optimizers: [Tensor, Optimizer][] = [
      [plain, new SGD({ params: [plain], lr: 1 / 1024 })],
      [mastered, sgd(mastered, 1 / 1024)],
    ];
    for (const [p, optimizer] of optimizers) {
      for (let i = 0; i < 96; i++) {
        give(p, [-1]);
        optimizer.step();
        optimizer.zeroGrad();
      }
    }
    expect(list(plain)).toEqual([1]); // 1 + 1/1024 rounds back to 1
    expect(list(mastered)).toEqual([1.09375]);
    expect(mastered.grad).toBeNull();
  });

  test('equals the same optimizer on float32, rounded', () => {
    const values = list(randn([64]).to({ dtype: 'bfloat16' }));
    const [p, reference] = [half(values), tensor(values, { requiresGrad: true })];
    const masters = new MasterWeights({
      groups: [{ params: [p], lr: 0.01, weightDecay: 0.1 }],
      optimizer: (groups) => new AdamW({ groups }),
    });
    const plain = new AdamW({ groups: [{ params: [reference], lr: 0.01, weightDecay: 0.1 }] });
    expect(masters.groups[0]!.lr).toBe(0.01);
    for (let i = 0; i < 5; i++) {
      const gradient = list(randn([64]).to({ dtype: 'bfloat16' }));
      give(p, gradient);
      give(reference, gradient);
      masters.step({ gradScale: 0.3 });
      plain.step({ gradScale: 0.3 });
    }
    expect(list(p)).toEqual(list(reference.to({ dtype: 'bfloat16' })));
    expect(list(masters.stateDict().tensors.get('0.master')!)).toEqual(list(reference));
  });

  test('an inner optimizer from elsewhere is stepped by casts, to the same values', () => {
    const [a, b] = [half([1, 2]), half([1, 2])];
    const foreign = (inner: Optimizer): Optimizer => ({
      groups: inner.groups,
      prepare: () => inner.prepare(),
      step: (options) => inner.step(options),
      zeroGrad: () => inner.zeroGrad(),
      stateDict: () => inner.stateDict(),
      loadStateDict: (state) => inner.loadStateDict(state),
      dispose: () => inner.dispose(),
    });
    const settings = { lr: 0.01, weightDecay: 0.1 };
    const one = new MasterWeights({
      groups: [{ params: [a] }],
      optimizer: (groups) => new AdamW({ groups, ...settings }),
    });
    const two = new MasterWeights({
      groups: [{ params: [b] }],
      optimizer: (groups) => foreign(new AdamW({ groups, ...settings })),
    });
    for (let i = 0; i < 4; i++) {
      for (const p of [a, b]) give(p, [Math.sin(i), 0.3]);
      one.step({ gradScale: 0.7 });
      two.step({ gradScale: 0.7 });
    }
    expect(list(b)).toEqual(list(a));
    expect(list(two.stateDict().tensors.get('0.master')!)).toEqual(list(one.stateDict().tensors.get('0.master')!));
  });

  test('parameters of float32 go to the inner optimizer themselves, those without gradient stay', () => {
    const [a, b, c] = [half([1]), ones([1], { requiresGrad: true }), half([1])];
    const masters = new MasterWeights({
      groups: [{ params: [a, b, c] }],
      optimizer: (groups) => new SGD({ groups, lr: 1 }),
    });
    expect(masters.inner.groups[0]!.params[1]).toBe(b);
    expect(masters.inner.groups[0]!.params[0]!.dtype).toBe('float32');
    give(a, [0.5]);
    give(b, [0.25]);
    masters.step();
    expect([a, b, c].map((t) => list(t)[0])).toEqual([0.5, 0.75, 1]);
    expect([...masters.stateDict().tensors.keys()]).toEqual(['0.master', '2.master']);
  });

  test('resumes exactly from its state dict', () => {
    const steps = (p: Tensor, optimizer: Optimizer, from: number, to: number): void => {
      for (let i = from; i < to; i++) {
        give(p, [Math.sin(i), Math.cos(3 * i)]);
        optimizer.step();
      }
    };
    const make = (p: Tensor) =>
      new MasterWeights({
        groups: [{ params: [['p', p]] as [string, Tensor][] }],
        optimizer: (groups) => new AdamW({ groups, lr: 1e-3 }),
      });
    const whole = half([1, 2]);
    const straight = make(whole);
    steps(whole, straight, 0, 20);
    const first = half([1, 2]);
    const before = make(first);
    steps(first, before, 0, 7);
    const second = half([0, 0]);
    const after = make(second);
    after.loadStateDict(before.stateDict());
    expect(list(second)).toEqual(list(first));
    before.dispose();
    steps(second, after, 7, 20);
    expect(list(after.stateDict().tensors.get('p.master')!)).toEqual(
      list(straight.stateDict().tensors.get('p.master')!),
    );
    expect(list(second)).toEqual(list(whole));
  });

  test('refresh takes over weights that were loaded into the model', () => {
    const p = half([1]);
    const masters = sgd(p, 0.5);
    noGrad(() => p.fill_(4));
    masters.refresh();
    give(p, [2]);
    masters.step();
    expect(list(p)).toEqual([3]);
  });

  test('frees all but masters and state, and these by dispose', () => {
    const p = half([1, 2]);
    const empty = stats().handles;
    const masters = new MasterWeights({ groups: [{ params: [p] }], optimizer: (groups) => new AdamW({ groups }) });
    give(p, [1, 1]);
    masters.step();
    expect(stats().handles).toBe(empty + 3);
    masters.step();
    expect(stats().handles).toBe(empty + 3);
    masters.dispose();
    expect(stats().handles).toBe(empty);
  });

  test('misuse', () => {
    const p = half([1]);
    const make = (params: unknown) => () =>
      new MasterWeights({ groups: [{ params: params as Tensor[] }], optimizer: (groups) => new SGD({ groups }) });
    expect(make([3])).toThrow(/MasterWeights: expected tensors/);
    const masters = sgd(p, 1);
    const { values } = masters.stateDict();
    expect(() => masters.loadStateDict({ tensors: new Map(), values })).toThrow(
      /"p\.master" of shape \[1\], received undefined/,
    );
    expect(() => masters.loadStateDict({ tensors: new Map([['p.master', ones([2])]]), values })).toThrow(
      /received \[2\]/,
    );
  });
});
