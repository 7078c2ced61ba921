// AdamW, SGD, Lion and Adafactor against their formulas written out in plain numbers; every setting moves the result;
// settings that make no sense are refused.
import { describe, expect, test } from 'vitest';
import {
  Adafactor,
  type AdafactorSettings,
  AdamW,
  type AdamWSettings,
  Lion,
  type LionSettings,
  type Optimizer,
  SGD,
  type SGDSettings,
} from '../../lib/optim/index.js';
import { distance, gradient, param, run } from './run.js';

const START = [0.5, -1, 2, 0.25, -0.125, 3];
const STEPS = 6;

type Rule = (p: number[], g: number[], step: number) => number[];

function history(rule: Rule): number[][] {
  const rows: number[][] = [];
  let p = START;
  for (let step = 1; step <= STEPS; step++) {
    p = rule(p, gradient(step, p.length), step);
    rows.push(p);
  }
  return rows;
}

function adamwByHand({ lr, betas, eps, weightDecay }: AdamWSettings): number[][] {
  const [m, v] = [START.map(() => 0), START.map(() => 0)];
  return history((p, g, t) =>
    p.map((x, i) => {
      m[i] = betas[0] * m[i]! + (1 - betas[0]) * g[i]!;
      v[i] = betas[1] * v[i]! + (1 - betas[1]) * g[i]! ** 2;
      const [mean, square] = [m[i]! / (1 - betas[0] ** t), v[i]! / (1 - betas[1] ** t)];
      return x * (1 - lr * weightDecay) - (lr * mean) / (Math.sqrt(square) + eps);
    }),
  );
}

function sgdByHand({ lr, momentum, nesterov, weightDecay }: SGDSettings): number[][] {
  const buffer = START.map(() => 0);
  return history((p, g) =>
    p.map((x, i) => {
      const d = g[i]! + weightDecay * x;
      buffer[i] = momentum * buffer[i]! + d;
      return x - lr * (nesterov ? d + momentum * buffer[i]! : buffer[i]!);
    }),
  );
}

function lionByHand({ lr, betas, weightDecay }: LionSettings): number[][] {
  const m = START.map(() => 0);
  return history((p, g) =>
    p.map((x, i) => {
      const direction = Math.sign(betas[0] * m[i]! + (1 - betas[0]) * g[i]!);
      m[i] = betas[1] * m[i]! + (1 - betas[1]) * g[i]!;
      return x - lr * (direction + weightDecay * x);
    }),
  );
}

const rms = (x: number[]): number => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length);

/** Shape (2, 3) factored, or a vector of 6. */
function adafactorByHand(settings: AdafactorSettings, factored: boolean): number[][] {
  const { lr, beta2Decay, eps, clipThreshold, weightDecay } = settings;
  const [rows, columns, vector] = [[0, 0], [0, 0, 0], START.map(() => 0)];
  const least = eps[0] ?? 2 ** -52;
  return history((p, g, t) => {
    const beta = 1 - t ** beta2Decay;
    const size = Math.min(lr, 1 / Math.sqrt(t)) * Math.max(eps[1], rms(p));
    for (const r of [0, 1]) rows[r] = beta * rows[r]! + (1 - beta) * rms(g.slice(3 * r, 3 * r + 3)) ** 2;
    for (const c of [0, 1, 2]) columns[c] = beta * columns[c]! + (1 - beta) * rms([g[c]!, g[c + 3]!]) ** 2;
    const mean = Math.max((rows[0]! + rows[1]!) / 2, least);
    const update = g.map((x, i) => {
      vector[i] = beta * vector[i]! + (1 - beta) * x * x;
      const second = factored ? (rows[Math.floor(i / 3)]! * columns[i % 3]!) / mean : vector[i]!;
      return x / Math.sqrt(Math.max(second, least * least));
    });
    const clip = Math.max(1, rms(update) / clipThreshold);
    return p.map((x, i) => x * (1 - lr * weightDecay) - (size / clip) * update[i]!);
  });
}

function check<S extends object>(
  defaults: S,
  changes: Partial<S>[],
  make: (settings: Partial<S>, shape: number[]) => { optimizer: Optimizer; p: ReturnType<typeof param> },
  byHand: (settings: S) => number[][],
  shape = [START.length],
): void {
  const actual = (settings: Partial<S>): number[][] => {
    const { optimizer, p } = make(settings, shape);
    return run(optimizer, p, STEPS);
  };
  const plain = actual({});
  expect(distance(plain, byHand(defaults))).toBeLessThan(1e-12);
  for (const change of changes) {
    const changed = actual(change);
    expect(distance(changed, byHand({ ...defaults, ...change }))).toBeLessThan(1e-12);
    expect(distance(changed, plain), `${JSON.stringify(change)} changes nothing`).toBeGreaterThan(1e-9);
  }
}

describe('AdamW', () => {
  const defaults: AdamWSettings = { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.01, fused: true };
  const changes: Partial<AdamWSettings>[] = [
    { lr: 0.1 },
    { betas: [0.5, 0.999] },
    { betas: [0.9, 0.9] },
    { eps: 0.1 },
    { weightDecay: 0.5 },
  ];

  for (const fused of [true, false]) {
    test(`by its formula, ${fused ? 'fused' : 'composed'}`, () => {
      check(
        { ...defaults, fused },
        changes,
        (settings, shape) => {
          const p = param(START, shape);
          return { p, optimizer: new AdamW({ params: [p], fused, ...settings }) };
        },
        adamwByHand,
      );
    });
  }

  test('misuse', () => {
    const params = [param([1])];
    expect(() => new AdamW({ params, lr: -1 })).toThrow(
      /AdamW: lr: expected a finite number of at least 0, received -1/,
    );
    expect(() => new AdamW({ params, lr: Number.NaN })).toThrow(/AdamW: lr/);
    expect(() => new AdamW({ params, betas: [0.9, 1] })).toThrow(/betas: expected a number in \[0, 1\), received 1/);
    expect(() => new AdamW({ params, betas: [0.9] as unknown as [number, number] })).toThrow(
      /two numbers.*an array of 1/,
    );
    expect(() => new AdamW({ params, eps: -1 })).toThrow(/eps/);
    expect(() => new AdamW({ params, weightDecay: Infinity })).toThrow(/weightDecay/);
    expect(() => new AdamW({ params, fused: 1 as unknown as boolean })).toThrow(/fused: expected true or false/);
  });
});

describe('SGD', () => {
  const defaults: SGDSettings = { lr: 1e-3, momentum: 0, nesterov: false, weightDecay: 0, fused: true };

  test('by its formula', () => {
    check(
      defaults,
      [{ lr: 0.1 }, { momentum: 0.9 }, { momentum: 0.9, nesterov: true }, { weightDecay: 0.3 }],
      (settings, shape) => {
        const p = param(START, shape);
        return { p, optimizer: new SGD({ params: [p], ...settings }) };
      },
      sgdByHand,
    );
  });

  test('misuse', () => {
    const params = [param([1])];
    expect(() => new SGD({ params, lr: -1 })).toThrow(/SGD: lr/);
    expect(() => new SGD({ params, momentum: -0.1 })).toThrow(/SGD: momentum/);
    expect(() => new SGD({ params, nesterov: true })).toThrow(/momentum above 0 with nesterov/);
    expect(() => new SGD({ params, nesterov: 'yes' as unknown as boolean })).toThrow(
      /nesterov: expected true or false/,
    );
    expect(() => new SGD({ params, fused: 'no' as unknown as boolean })).toThrow(/SGD: fused: expected true or false/);
    expect(() => new SGD({ params, weightDecay: -1 })).toThrow(/SGD: weightDecay/);
  });
});

describe('Lion', () => {
  const defaults: LionSettings = { lr: 1e-4, betas: [0.9, 0.99], weightDecay: 0, fused: true };

  test('by its formula', () => {
    check(
      defaults,
      [{ lr: 0.1 }, { betas: [0.1, 0.99] }, { betas: [0.9, 0.2] }, { weightDecay: 0.5 }],
      (settings, shape) => {
        const p = param(START, shape);
        return { p, optimizer: new Lion({ params: [p], ...settings }) };
      },
      lionByHand,
    );
  });

  test('misuse', () => {
    const params = [param([1])];
    expect(() => new Lion({ params, lr: -1 })).toThrow(/Lion: lr/);
    expect(() => new Lion({ params, betas: [2, 0] })).toThrow(/betas/);
    expect(() => new Lion({ params, weightDecay: -1 })).toThrow(/Lion: weightDecay/);
    expect(() => new Lion({ params, fused: null as unknown as boolean })).toThrow(/Lion: fused/);
  });
});

describe('Adafactor', () => {
  const defaults: AdafactorSettings = {
    lr: 1e-2,
    beta2Decay: -0.8,
    eps: [null, 1e-3],
    clipThreshold: 1,
    weightDecay: 0,
  };
  const changes: Partial<AdafactorSettings>[] = [
    { lr: 0.3 },
    { beta2Decay: -0.3 },
    { eps: [2, 1e-3] },
    { eps: [null, 10] },
    { clipThreshold: 1.05 },
    { weightDecay: 0.5 },
  ];

  for (const factored of [true, false]) {
    test(`by its formula, ${factored ? 'a matrix' : 'a vector'}`, () => {
      check(
        defaults,
        changes,
        (settings, shape) => {
          const p = param(START, shape);
          return { p, optimizer: new Adafactor({ params: [p], ...settings }) };
        },
        (settings) => adafactorByHand(settings, factored),
        factored ? [2, 3] : [6],
      );
    });
  }

  test('misuse', () => {
    const params = [param([1])];
    expect(() => new Adafactor({ params, lr: -1 })).toThrow(/Adafactor: lr/);
    expect(() => new Adafactor({ params, beta2Decay: 0.5 })).toThrow(/beta2Decay of at most 0, received 0.5/);
    expect(() => new Adafactor({ params, eps: [-1, 1] })).toThrow(/eps\[0\]/);
    expect(() => new Adafactor({ params, eps: [null, -1] })).toThrow(/eps\[1\]/);
    expect(() => new Adafactor({ params, clipThreshold: 0.5 })).toThrow(
      /clipThreshold: expected a finite number of at least 1/,
    );
    expect(() => new Adafactor({ params, weightDecay: -1 })).toThrow(/Adafactor: weightDecay/);
  });
});
