// Conv1D: a Linear whose weight is stored transposed.
import { describe, expect, it } from 'vitest';
import { ops, randn } from '../../lib/core/index.js';
import { Conv1D, Linear } from '../../lib/nn/index.js';

describe('Conv1D', () => {
  it('is a Linear with the transposed weight, gradients included', () => {
    const conv = new Conv1D({ in: 3, out: 5 });
    const linear = new Linear({ in: 3, out: 5 });
    linear.loadStateDict(
      new Map([
        ['weight', ops.t(conv.weight)],
        ['bias', conv.bias!],
      ]),
    );
    const x = randn([2, 4, 3]);
    for (const layer of [conv, linear]) ops.sum(ops.square(layer.forward(x))).backward();
    expect(conv.weight.shape).toEqual([3, 5]);
    expect(ops.allclose(conv.forward(x), linear.forward(x), { atol: 1e-6 })).toBe(true);
    expect(ops.allclose(conv.weight.grad!, ops.t(linear.weight.grad!), { rtol: 1e-4, atol: 1e-5 })).toBe(true);
    expect(ops.allclose(conv.bias!.grad!, linear.bias!.grad!, { rtol: 1e-4, atol: 1e-5 })).toBe(true);
  });

  it('starts small, with a bias of zero or none', () => {
    const conv = new Conv1D({ in: 200, out: 200, dtype: 'float64' });
    expect(ops.std(conv.weight).itemSync()).toBeCloseTo(0.02, 3);
    expect(conv.weight.dtype).toBe('float64');
    expect(ops.any(conv.bias!).itemSync()).toBe(false);
    expect(new Conv1D({ in: 2, out: 2, bias: false }).bias).toBeNull();
    expect(String(conv)).toContain('in=200, out=200, bias=true');
  });

  it('refuses sizes that are none', () => {
    expect(() => new Conv1D({ in: 0, out: 2 })).toThrow(/Conv1D: in: expected an integer of at least 1/);
    expect(() => new Conv1D({ in: 2, out: 1.5 })).toThrow(/Conv1D: out/);
  });
});
