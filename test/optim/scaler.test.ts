// The loss scale: when it rises and falls, what ends a run, its state, and a loop by hand in float16.
import { describe, expect, test } from 'vitest';
import { noGrad, ops, type Tensor, tensor } from '../../lib/core/index.js';
import { gradSquares, LossScaler, MasterWeights, SGD } from '../../lib/optim/index.js';
import { raises } from '../core/raises.js';

/** The scales before each step; `pattern` has an x where gradients overflow. */
function scales(scaler: LossScaler, pattern: string): number[] {
  return [...pattern].map((mark) => {
    const before = scaler.scale;
    expect(scaler.update(mark !== 'x')).toBe(mark !== 'x');
    return before;
  });
}

describe('LossScaler', () => {
  test('rises after a window, falls at overflows', () => {
    const scaler = new LossScaler({ initial: 16, window: 3, hysteresis: 1 });
    expect(scales(scaler, '....x..x....')).toEqual([16, 16, 16, 32, 32, 16, 16, 16, 8, 8, 8, 16]);
    expect(scaler.skipped).toBe(2);
    const defaults = new LossScaler();
    expect(scales(defaults, 'xx.')).toEqual([65536, 65536, 32768]);
    expect(scales(defaults, '.'.repeat(1000)).at(-1)).toBe(65536); // the 1000th good step was the one before
  });

  test('growth and backoff', () => {
    const scaler = new LossScaler({ initial: 64, window: 1, hysteresis: 1, growth: 4, backoff: 0.25 });
    expect(scales(scaler, '.xx.')).toEqual([64, 256, 64, 16]);
  });

  test('hysteresis: the first overflows of a window do not lower it', () => {
    const scaler = new LossScaler({ initial: 64, window: 2, hysteresis: 3 });
    expect(scales(scaler, 'xxxx')).toEqual([64, 64, 64, 32]);
    expect(scales(scaler, '..xxx.')).toEqual([16, 16, 32, 32, 32, 16]);
  });

  test('an overflow at the minimum names the tensor', () => {
    const scaler = new LossScaler({ initial: 8, minimum: 3, hysteresis: 1 });
    expect(scales(scaler, 'xx')).toEqual([8, 4]);
    expect(scaler.scale).toBe(3);
    expect(raises('NON_FINITE', () => scaler.update(false, 'h.0.weight')).message).toMatch(
      /the gradient of h\.0\.weight is infinite or NaN at the least loss scale 3/,
    );
    expect(raises('NON_FINITE', () => scaler.update(false)).message).toMatch(/a gradient \(of another rank\)/);
  });

  test('a fixed scale stays, and an overflow is an error', () => {
    const scaler = new LossScaler({ initial: 128, dynamic: false, window: 1 });
    expect(scales(scaler, '...')).toEqual([128, 128, 128]);
    expect(raises('NON_FINITE', () => scaler.update(false, 'w')).message).toMatch(/at the fixed loss scale 128/);
  });

  test('does not rise beyond float32', () => {
    const scaler = new LossScaler({ initial: 2 ** 125, window: 1 });
    expect(scales(scaler, '....')).toEqual([2 ** 125, 2 ** 126, 2 ** 126, 2 ** 126]);
  });

  test('goes on from its state', () => {
    const options = { initial: 64, window: 3, hysteresis: 2 };
    const [whole, first, second] = [new LossScaler(options), new LossScaler(options), new LossScaler(options)];
    const expected = scales(whole, '..x.x..x...x..');
    scales(first, '..x.x..');
    second.loadStateDict(JSON.parse(JSON.stringify(first.stateDict())));
    expect(scales(second, 'x...x..')).toEqual(expected.slice(7));
    expect(second.skipped).toBe(whole.skipped);
    const fixed = new LossScaler({ initial: 8, dynamic: false });
    fixed.loadStateDict(first.stateDict());
    expect([fixed.scale, fixed.skipped]).toEqual([8, first.skipped]); // it was asked for
    expect(raises('BAD_ARGUMENT', () => second.loadStateDict({ scale: 1 })).message).toMatch(/loadStateDict: good/);
  });

  test('misuse', () => {
    for (const [options, text] of [
      [{ initial: 0 }, /initial: expected a number of at least the minimum 1, received 0/],
      [{ initial: 2, minimum: 4 }, /initial/],
      [{ minimum: -1 }, /minimum: expected a positive number/],
      [{ growth: 1 }, /growth: expected a number above 1/],
      [{ backoff: 1 }, /backoff/],
      [{ window: 0 }, /window/],
      [{ hysteresis: 1.5 }, /hysteresis/],
      [{ dynamic: 'no' as unknown as boolean }, /dynamic: expected true or false/],
      [{ interval: 3 } as object, /options: expected initial, .*received "interval"/],
    ] as const) {
      expect(raises('BAD_ARGUMENT', () => new LossScaler(options)).message).toMatch(text);
    }
  });
});

test('a loop by hand: small gradients survive in float16, and an overflow is skipped', () => {
  const train = (scaler: LossScaler | null): number => {
    const w = tensor([1], { dtype: 'float16', requiresGrad: true });
    const optimizer = new MasterWeights({
      groups: [{ params: [w] as Tensor[] }],
      optimizer: (groups) => new SGD({ groups, lr: 1e6 }),
    });
    for (let step = 0; step < 20; step++) {
      // The gradient is 1e-8, which float16 rounds to 0.
      const loss = ops.mul(ops.sum(ops.to(w, { dtype: 'float32' })), 1e-8);
      const scale = scaler?.scale ?? 1;
      (scaler?.scaleLoss(loss) ?? loss).backward();
      const finite = Number.isFinite(gradSquares([w]).sum);
      if (scaler?.update(finite) ?? finite) optimizer.step({ gradScale: 1 / scale });
      optimizer.zeroGrad();
    }
    return noGrad(() => Number(w.itemSync()));
  };
  expect(train(null)).toBe(1);
  expect(train(new LossScaler())).toBeCloseTo(0.8, 3);
  const high = new LossScaler({ initial: 2 ** 44, hysteresis: 1 }); // 2^44 x 1e-8 overflows; 2^42 does not
  expect(train(high)).toBeCloseTo(0.82, 3);
  expect(high.skipped).toBe(2);
});
