// Gradient modes, autocast, threads, determinism: what they change, and that they end with their callback.
import { describe, expect, it } from 'vitest';
import {
  autocast,
  enableGrad,
  getNumThreads,
  isAutocastEnabled,
  isDeterministic,
  isGradEnabled,
  noGrad,
  ops,
  profileRange,
  setDeterministic,
  setNumThreads,
  tensor,
} from '../../lib/index.js';
import { raises } from './raises.js';

const failing = (): never => {
  throw new Error('mine');
};

describe('grad mode', () => {
  it('noGrad and enableGrad nest and end', () => {
    const w = tensor([1], { requiresGrad: true });
    expect(isGradEnabled()).toBe(true);
    noGrad(() => {
      expect(isGradEnabled()).toBe(false);
      expect(w.mul(2).requiresGrad).toBe(false);
      enableGrad(() => expect(w.mul(2).requiresGrad).toBe(true));
      expect(isGradEnabled()).toBe(false);
    });
    expect(isGradEnabled()).toBe(true);
  });

  it('end when the callback throws', () => {
    expect(() => noGrad(failing)).toThrow('mine');
    expect(isGradEnabled()).toBe(true);
  });

  it('refuse a promise and what is no function', () => {
    raises('SCOPE_ASYNC', () => noGrad(async () => 1));
    raises('SCOPE_ASYNC', () => enableGrad(() => Promise.reject(new Error('unheard'))));
    raises('BAD_ARGUMENT', () => noGrad(5 as never));
    expect(isGradEnabled()).toBe(true);
  });
});

describe('autocast', () => {
  const a = tensor([[1, 2]]);
  const b = tensor([[1], [1]]);

  it('runs products in half precision and ends', () => {
    autocast({}, () => {
      expect(isAutocastEnabled()).toBe(true);
      expect(ops.matmul(a, b).dtype).toBe('bfloat16');
      expect(autocast({ enabled: false }, () => ops.matmul(a, b).dtype)).toBe('float32');
      expect(autocast({ dtype: 'float16' }, () => ops.matmul(a, b).dtype)).toBe('float16');
      expect(ops.matmul(a, b).dtype).toBe('bfloat16');
    });
    expect(isAutocastEnabled()).toBe(false);
    expect(ops.matmul(a, b).dtype).toBe('float32');
  });

  it('for a device that is not used changes nothing here', () => {
    expect(autocast({ device: 'cuda' }, () => ops.matmul(a, b).dtype)).toBe('float32');
  });

  it('ends when the callback throws, and refuses what it cannot do', () => {
    expect(() => autocast({}, failing)).toThrow('mine');
    expect(isAutocastEnabled()).toBe(false);
    raises('BAD_ARGUMENT', () => autocast({ dtype: 'float32' }, () => 1));
    raises('BAD_ARGUMENT', () => autocast({ dtyp: 'float16' } as never, () => 1));
    raises('BAD_ARGUMENT', () => autocast({ enabled: 1 as never }, () => 1));
    raises('BAD_ARGUMENT', () => autocast({ device: 'gpu' as never }, () => 1));
    raises('BAD_ARGUMENT', () => autocast({}, undefined as never));
    raises('SCOPE_ASYNC', () => autocast({}, async () => 1));
    expect(isAutocastEnabled()).toBe(false);
  });
});

it('threads', () => {
  const before = getNumThreads();
  setNumThreads(1);
  expect(getNumThreads()).toBe(1);
  setNumThreads(before);
  for (const count of [0, -1, 1.5, Number.NaN, 1e9, '2']) raises('BAD_ARGUMENT', () => setNumThreads(count as never));
  expect(getNumThreads()).toBe(before);
});

it('deterministic mode refuses what has no deterministic form', () => {
  expect(isDeterministic()).toBe(false);
  setDeterministic(true);
  try {
    expect(isDeterministic()).toBe(true);
    raises('OP_FAILED', () => ops.put_(tensor([1, 2]), tensor([0n, 0n]), tensor([1, 2])));
  } finally {
    setDeterministic(false);
  }
  raises('BAD_ARGUMENT', () => setDeterministic(1 as never));
});

it('profiler ranges nest and end', () => {
  expect(profileRange('outer', () => profileRange('inner', () => 5))).toBe(5);
  expect(() => profileRange('fails', failing)).toThrow('mine');
  raises('BAD_ARGUMENT', () => profileRange('x', 1 as never));
});
