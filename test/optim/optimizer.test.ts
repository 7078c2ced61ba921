// What all optimizers share: groups, names, gradient scale, parameters without gradient, exact resume, memory, misuse.
import { describe, expect, test } from 'vitest';
import { ones, ops, type Tensor, tensor } from '../../lib/core/index.js';
import { stats } from '../../lib/core/memory.js';
import { Adafactor, AdamW, decayGroups, Lion, type Optimizer, type Params, SGD } from '../../lib/optim/index.js';
import { raises } from '../core/raises.js';
import { param, run, setGrad } from './run.js';

const KINDS: Record<string, (params: Params) => Optimizer> = {
  AdamW: (params) => new AdamW({ params, lr: 0.1 }),
  'AdamW composed': (params) => new AdamW({ params, lr: 0.1, fused: false }),
  SGD: (params) => new SGD({ params, lr: 0.1, momentum: 0.9 }),
  Lion: (params) => new Lion({ params, lr: 0.1 }),
  Adafactor: (params) => new Adafactor({ params, lr: 0.1 }),
};

const values = (t: Tensor): number[] => Array.from(t.dataSync() as Float64Array);

describe.each(Object.keys(KINDS))('%s', (kind) => {
  const make = KINDS[kind]!;
  const start = (): Tensor => param([1, -2, 3, 0.5], [2, 2]);

  test('stopping and resuming gives the same bits', () => {
    const whole = start();
    const expected = run(make([['w', whole]]), whole, 8);
    const first = start();
    const before = make([['w', first]]);
    run(before, first, 3);
    const saved = before.stateDict();
    const second = param(values(first), [2, 2]);
    const after = make([['w', second]]);
    after.loadStateDict({ tensors: saved.tensors, values: JSON.parse(JSON.stringify(saved.values)) });
    before.dispose(); // what was loaded is a copy
    expect(run(after, second, 5, 4)).toEqual(expected.slice(3));
  });

  test('gradScale multiplies the gradients', () => {
    const [a, b] = [start(), start()];
    const [scaled, plain] = [make([a]), make([b])];
    for (const factor of [0.25, 4, 0.5]) {
      setGrad(
        a,
        [8, 16, -4, 2].map((x) => x / factor),
      );
      setGrad(b, [8, 16, -4, 2]);
      scaled.step({ gradScale: factor });
      plain.step();
    }
    expect(values(a)).toEqual(values(b));
    expect(() => plain.step({ gradScale: Number.NaN })).toThrow(/finite gradScale, received NaN/);
  });

  test('a parameter without gradient stays, and starts its own count later', () => {
    const [a, b, alone] = [start(), start(), start()];
    const optimizer = make([a, b]);
    setGrad(a, [1, 1, 1, 1]);
    optimizer.step();
    expect(values(b)).toEqual(values(alone));
    optimizer.zeroGrad();
    expect(a.grad).toBeNull();
    setGrad(b, [1, 2, 3, 4]);
    optimizer.step();
    setGrad(alone, [1, 2, 3, 4]);
    make([alone]).step();
    expect(values(b)).toEqual(values(alone));
  });

  test('steps leave the live tensors flat, and dispose frees the state', () => {
    const p = start();
    const empty = stats().handles;
    const optimizer = make([p]);
    setGradOnce(p);
    optimizer.step();
    const after = stats().handles;
    for (let i = 0; i < 20; i++) optimizer.step();
    expect(stats().handles).toBe(after);
    expect(after).toBeGreaterThan(empty);
    optimizer.dispose();
    expect(stats().handles).toBe(empty);
  });

  test('float32 parameters keep float32 state', () => {
    const p = ones([2], { requiresGrad: true });
    const optimizer = make([['p', p]]);
    setGrad(p, [1, 2]);
    optimizer.step();
    for (const t of optimizer.stateDict().tensors.values()) expect(t.dtype).toBe('float32');
  });
});

function setGradOnce(p: Tensor): void {
  const gradient = tensor([1, 2, 3, 4], { shape: [2, 2], dtype: 'float64' });
  p.grad = gradient;
  gradient.dispose();
}

describe('groups', () => {
  test('are needed: no options at all is a sentence', () => {
    const error = raises('BAD_ARGUMENT', () => new (AdamW as unknown as new (options?: unknown) => unknown)());
    expect(error.message).toContain('AdamW: expected an object such as { params');
  });

  test('differ in their settings', () => {
    const [a, b] = [param([1]), param([1])];
    const optimizer = new SGD({ lr: 0.1, groups: [{ params: [a] }, { params: [b], lr: 0.2, weightDecay: 1 }] });
    expect(optimizer.groups.map(({ lr, baseLr, weightDecay }) => [lr, baseLr, weightDecay])).toEqual([
      [0.1, 0.1, 0],
      [0.2, 0.2, 1],
    ]);
    setGrad(a, [1]);
    setGrad(b, [1]);
    optimizer.step();
    expect(values(a)[0]).toBeCloseTo(0.9, 12);
    expect(values(b)[0]).toBeCloseTo(0.6, 12);
    optimizer.groups[0]!.lr = 1;
    optimizer.step();
    expect(values(a)[0]).toBeCloseTo(-0.1, 12);
  });

  test('one AdamW takes parameters of several dtypes', () => {
    const [a, b] = [param([1]), ones([1], { requiresGrad: true })];
    const optimizer = new AdamW({ params: [a, b], lr: 0.1, weightDecay: 0 });
    setGrad(a, [2]);
    setGrad(b, [2]);
    optimizer.step();
    expect(values(a)[0]).toBeCloseTo(0.9, 6);
    expect(values(b)[0]).toBeCloseTo(0.9, 6);
  });

  test('decayGroups parts matrices from vectors, or as told', () => {
    const named: [string, Tensor][] = [
      ['w', ones([2, 2])],
      ['b', ones([2])],
      ['emb', ones([3, 2])],
    ];
    const shape = (groups: ReturnType<typeof decayGroups>) =>
      groups.map(({ params, weightDecay }) => [params.map(([name]) => name), weightDecay]);
    expect(shape(decayGroups(named, { weightDecay: 0.1 }))).toEqual([
      [['w', 'emb'], 0.1],
      [['b'], 0],
    ]);
    expect(shape(decayGroups(named, { weightDecay: 0.1, decays: (name) => name !== 'emb' }))).toEqual([
      [['w', 'b'], 0.1],
      [['emb'], 0],
    ]);
    expect(shape(decayGroups([['b', ones([2])]], { weightDecay: 0.1 }))).toEqual([[['b'], 0]]);
  });

  test('misuse', () => {
    const p = param([1]);
    const q = param([1]);
    const bad =
      (options: object): (() => unknown) =>
      () =>
        new AdamW(options as { params: Tensor[] });
    expect(bad({ lr: 1 })).toThrow(/AdamW: expected either params or groups, received neither/);
    expect(bad({ params: [p], groups: [] })).toThrow(/received both/);
    expect(bad({ params: [] })).toThrow(/at least one parameter in every group/);
    expect(bad({ params: [p], weight_decay: 1 })).toThrow(
      /no setting is called "weight_decay"; it has lr, betas, eps, weightDecay/,
    );
    expect(bad({ groups: [{ params: [p], momentum: 1 }] })).toThrow(/no setting is called "momentum"/);
    expect(bad({ groups: [{ params: [p], lr: -1 }] })).toThrow(/AdamW: lr/);
    expect(bad({ params: [p, p] })).toThrow(/each parameter once, received "0" twice/);
    expect(
      bad({
        params: [
          ['a', p],
          ['a', q],
        ],
      }),
    ).toThrow(/each name once, received "a" twice/);
    expect(bad({ params: [['a', p], q] })).toThrow(/names for all params or for none/);
    expect(bad({ params: [3] })).toThrow(/expected tensors or \[name, tensor\] pairs as params, received 3/);
    expect(bad({ params: [ops.mul(p, 2)] })).toThrow(/leaf tensors/);
  });
});

describe('state dict', () => {
  const make = (names = ['a', 'b'], size = 2): AdamW => {
    const params = names.map((name): [string, Tensor] => [name, param(Array(size).fill(1))]);
    const optimizer = new AdamW({ params, lr: 0.5 });
    for (const [, p] of params) setGrad(p, Array(size).fill(1));
    optimizer.step();
    return optimizer;
  };

  test('has tensors by parameter name and plain values', () => {
    const { tensors, values: plain } = make().stateDict();
    expect([...tensors.keys()]).toEqual(['a.exp_avg', 'a.exp_avg_sq', 'b.exp_avg', 'b.exp_avg_sq']);
    expect(plain).toEqual({
      kind: 'AdamW',
      steps: { a: 1, b: 1 },
      groups: [
        { names: ['a', 'b'], lr: 0.5, baseLr: 0.5, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, fused: true },
      ],
    });
    expect(JSON.parse(JSON.stringify(plain))).toEqual(plain);
  });

  test('brings back the settings of the groups', () => {
    const saved = make();
    saved.groups[0]!.lr = 0.25;
    const fresh = make();
    const before = stats().handles;
    fresh.loadStateDict(saved.stateDict());
    expect(stats().handles).toBe(before); // the state from before is freed
    expect(fresh.groups[0]!.lr).toBe(0.25);
    expect(fresh.groups[0]!.baseLr).toBe(0.5);
  });

  test('what does not fit is named, and changes nothing', () => {
    const state = make().stateDict();
    expect(() => new SGD({ params: [param([1])] }).loadStateDict(state)).toThrow(
      /the state of SGD, received that of "AdamW"/,
    );
    expect(() => make(['a', 'c']).loadStateDict(state)).toThrow(/missing: c; unexpected: b/);
    expect(() => make(['b', 'a']).loadStateDict(state)).toThrow(/same order/);
    const other = make(['a', 'b'], 3);
    const before = other.stateDict();
    expect(() => other.loadStateDict(state)).toThrow(/"a\.exp_avg" of shape \[3\], received \[2\]/);
    expect(other.stateDict()).toEqual(before);
    const { tensors, values: plain } = make().stateDict();
    const lost = new Map(tensors);
    lost.delete('b.exp_avg_sq');
    expect(() => make().loadStateDict({ tensors: lost, values: plain })).toThrow(/"b\.exp_avg_sq".*received undefined/);
    const more = new Map(tensors).set('z.exp_avg', ones([1]));
    expect(() => make().loadStateDict({ tensors: more, values: plain })).toThrow(
      /no parameter has the state z\.exp_avg/,
    );
    expect(() => make().loadStateDict({ tensors, values: {} })).toThrow(/received that of undefined/);
  });
});
