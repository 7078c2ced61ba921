// Muon's update and its misuse, and several optimizers as one. Against torch.optim.Muon: test/oracle/muon.test.ts.
import { describe, expect, it } from 'vitest';
import { manualSeed, ops, randn, scope, type Tensor, tensor } from '../../lib/core/index.js';
import { AdamW, Combined, Muon, type MuonSettings, SGD } from '../../lib/optim/index.js';

const stepOf = (grad: Tensor, settings: Partial<MuonSettings> = {}, steps = 1): Tensor => {
  const param = ops.zeros_like(grad);
  const optimizer = new Muon({ params: [param], lr: 1, weightDecay: 0, ...settings });
  for (let i = 0; i < steps; i++) {
    param.grad = grad;
    optimizer.step();
  }
  optimizer.dispose();
  return param;
};
const singular = (t: Tensor) => Array.from(ops.linalg_svdvals(t).dataSync() as Float32Array);

describe('Muon', () => {
  it('steps along the orthogonal matrix next to the momentum, whatever the size of the gradient', () => {
    scope(() => {
      manualSeed(1);
      const grad = randn([12, 6]);
      const [a, b] = [stepOf(grad), stepOf(ops.mul(grad, 1000))];
      // The polynomial brings singular values near 1, between 0.7 and 1.2, times sqrt(12 / 6).
      for (const value of singular(a)) expect(value / Math.sqrt(2)).toBeGreaterThan(0.6);
      for (const value of singular(a)) expect(value / Math.sqrt(2)).toBeLessThan(1.3);
      expect(Number(ops.max(ops.abs(ops.sub(a, b))).itemSync())).toBeLessThan(0.05);
      expect(Number(ops.sum(ops.mul(a, grad)).itemSync())).toBeLessThan(0); // downhill
    });
  });

  it('reads every setting', () => {
    scope(() => {
      manualSeed(2);
      const grad = randn([8, 4]);
      const base = stepOf(grad, {}, 2).toArray();
      for (const other of [{ lr: 0.5 }, { weightDecay: 0.5 }, { iterations: 1 }, { adjust: 'rms' }] as const) {
        expect(stepOf(grad, other, 2).toArray(), JSON.stringify(other)).not.toEqual(base);
      }
      const turning = (settings: Partial<MuonSettings>) => {
        const param = ops.zeros_like(grad);
        const optimizer = new Muon({ params: [param], lr: 1, weightDecay: 0, ...settings });
        for (const t of [grad, ops.flip(grad, [0])]) {
          param.grad = t;
          optimizer.step({ gradScale: 1 });
        }
        return param.toArray();
      };
      expect(turning({ momentum: 0.5 })).not.toEqual(turning({}));
      expect(turning({ nesterov: false })).not.toEqual(turning({}));
    });
  });

  it('refuses vectors, and settings that make no sense', () => {
    const params = [randn([2, 2])];
    expect(() => new Muon({ params: [randn([3])] })).toThrow(
      'Muon: expected matrices as params, received one of shape [3]',
    );
    expect(() => new Muon({ params, momentum: 1 })).toThrow('Muon: momentum: expected a number in [0, 1), received 1');
    expect(() => new Muon({ params, adjust: 'none' as 'rms' })).toThrow("expected adjust to be 'spectral' or 'rms'");
    const groups = [{ params }, { params: [randn([2, 2])] }];
    expect(() => new Muon({ groups }, () => {})).toThrow('Muon: expected one group with assemble, received 2');
  });
});

describe('Combined', () => {
  const make = () => {
    const [matrix, vector] = [
      tensor([
        [1, 2],
        [3, 4],
      ]),
      tensor([1, 2]),
    ];
    const members = [new Muon({ params: [['m', matrix]] }), new AdamW({ params: [['v', vector]] })];
    return { matrix, vector, optimizer: new Combined(members) };
  };
  it('steps, drops gradients, and gives its state to another one', () => {
    const [a, b] = [make(), make()];
    const step = ({ matrix, vector, optimizer }: ReturnType<typeof make>) => {
      matrix.grad = tensor([
        [1, 0],
        [2, 1],
      ]);
      vector.grad = tensor([1, -1]);
      optimizer.step();
      optimizer.zeroGrad();
      expect([matrix.grad, vector.grad]).toEqual([null, null]);
    };
    step(a);
    step(b);
    const c = make();
    c.optimizer.loadStateDict(a.optimizer.stateDict());
    for (const [to, from] of [
      [c.matrix, a.matrix],
      [c.vector, a.vector],
    ] as const)
      ops.copy_(to, from);
    step(b);
    step(c);
    expect(c.matrix.toArray()).toEqual(b.matrix.toArray());
    expect(c.vector.toArray()).toEqual(b.vector.toArray());
    expect(a.optimizer.groups).toHaveLength(2);
    a.optimizer.prepare();
    for (const { optimizer } of [a, b, c]) optimizer.dispose();
  });
  it('refuses a name twice, and the state of something else', () => {
    const twice = [new SGD({ params: [['a', tensor([1])]] }), new SGD({ params: [['a', tensor([1])]] })];
    expect(() => new Combined(twice)).toThrow('Combined: expected each name once, received "a" twice');
    const { optimizer } = make();
    expect(() => optimizer.loadStateDict(twice[0]!.stateDict())).toThrow('expected the state of 2 combined optimizers');
  });
});
