// Segments: the cut, and a hand-written loop over segments that gives the same gradients as whole backward.
import { beforeEach, describe, expect, test } from 'vitest';
import { backward, manualSeed, noGrad, ones, ops, randn, scope, type Tensor, tensor } from '../../lib/core/index.js';
import { stats } from '../../lib/core/memory.js';
import {
  type Carry,
  cut,
  Linear,
  Module,
  type Segment,
  segment,
  segmentParameters,
  segmentsOf,
} from '../../lib/nn/index.js';

class Net extends Module {
  enter = new Linear({ in: 3, out: 4, dtype: 'float64' });
  blocks = [0, 1].map(() => new Linear({ in: 4, out: 4, dtype: 'float64' }));
  leave = new Linear({ in: 4, out: 1, dtype: 'float64' });

  override segments(): Segment[] {
    return [
      // The skip goes around both blocks; the mask rides along.
      segment('enter', [this.enter], ([x, mask]) => {
        const y = this.enter.forward(x!);
        return [y, ops.tanh(y), mask!];
      }),
      ...this.blocks.map((block, i) =>
        segment(`blocks.${i}`, [block], ([x, skip, mask]) => [ops.tanh(block.forward(x!)), skip!, mask!]),
      ),
      segment('leave', [this.leave], ([x, skip, mask]) => [
        this.leave.forward(ops.masked_fill(ops.add(x!, skip!), mask!, 0)).sum(),
      ]),
    ];
  }

  forward(x: Tensor, mask: Tensor): Tensor {
    let carry: Carry = [x, mask];
    for (const part of this.segments()) carry = part.forward(carry);
    return carry[0]!;
  }
}

/** Forward cut by cut, then backward in reverse: the shape of a training loop. */
function bySegments(parts: Segment[], input: Carry, recompute: boolean): number {
  const inputs: Carry[] = [input];
  const outputs: Carry[] = [];
  for (const part of parts) {
    const output = recompute ? noGrad(() => part.forward(inputs.at(-1)!)) : part.forward(inputs.at(-1)!);
    outputs.push(output);
    inputs.push(cut(part, inputs.at(-1)!, output, { recorded: !recompute }));
  }
  const loss = outputs.at(-1)![0]!.itemSync() as number;
  for (let k = parts.length - 1; k >= 0; k--) {
    const output = recompute ? parts[k]!.forward(inputs[k]!) : outputs[k]!;
    const last = k === parts.length - 1;
    const roots = output
      .map((t, i) => ({ t, gradient: last ? null : inputs[k + 1]![i]!.grad }))
      .filter(({ t, gradient }) => t.requiresGrad && (last || gradient));
    backward(
      roots.map(({ t }) => t),
      roots.map(({ gradient }) => gradient),
    );
  }
  return loss;
}

const gradients = (net: Module): unknown[] => net.parameters().map((t) => t.grad?.toArray() ?? null);

beforeEach(() => manualSeed(2));

describe('the loop over segments', () => {
  for (const recompute of [false, true]) {
    test(`gives the gradients of whole backward, ${recompute ? 'recomputing' : 'recording'}`, () => {
      const net = new Net();
      const x = randn([5, 3], { dtype: 'float64' });
      const mask = tensor([[false, true, false, false]]);
      const whole = net.forward(x, mask);
      whole.backward();
      const expected = gradients(net);
      net.zeroGrad();
      const loss = scope(() => bySegments(segmentsOf(net), [x, mask], recompute));
      expect(loss).toBe(whole.itemSync());
      expect(gradients(net)).toEqual(expected);
    });

    test(`with a frozen first segment nothing goes back into it, ${recompute ? 'recomputing' : 'recording'}`, () => {
      const net = new Net();
      net.enter.requiresGrad(false);
      scope(() =>
        bySegments(
          segmentsOf(net),
          [ones([1, 3], { dtype: 'float64' }), tensor([[false, false, false, true]])],
          recompute,
        ),
      );
      expect(net.enter.weight.grad).toBeNull();
      expect(net.blocks[0]!.weight.grad).not.toBeNull();
    });
  }
});

describe('cut', () => {
  const identity = segment('identity', [new Linear({ in: 1, out: 1 })], (carry) => carry);

  test('makes leaves of activations that share memory, and hands the rest on', () => {
    const x = ones([2], { requiresGrad: true });
    const y = ops.mul(x, 2);
    const constant = ones([1]);
    const ids = tensor([1n]);
    const [a, b, c] = cut(identity, [x], [y, constant, ids], { recorded: true });
    expect(a!.isLeaf).toBe(true);
    expect(a!.requiresGrad).toBe(true);
    y.detach().set([0], 9);
    expect(a!.toArray()).toEqual([9, 2]);
    expect(b).toBe(constant);
    expect(c).toBe(ids);
  });

  test('without a recording, a floating item counts unless it came in without gradient', () => {
    const mask = ones([1]);
    const made = ones([2]);
    const [a, b] = cut(identity, [mask], [made, mask], { recorded: false });
    expect(a).not.toBe(made);
    expect(a!.requiresGrad).toBe(true);
    expect(b).toBe(mask);
    const frozen = segment('frozen', [new Linear({ in: 1, out: 1 }).requiresGrad(false)], (carry) => carry);
    expect(cut(frozen, [mask], [made], { recorded: false })[0]).toBe(made);
  });
});

describe('segments of a model', () => {
  test('a model that declares none is one segment', () => {
    class Plain extends Module {
      inner = new Linear({ in: 2, out: 2 });
      forward(x: Tensor, y: Tensor): Tensor {
        return ops.add(this.inner.forward(x), y);
      }
    }
    const plain = new Plain();
    const [only, ...rest] = segmentsOf(plain);
    expect(rest).toEqual([]);
    expect(only!.name).toBe('Plain');
    expect(only!.modules).toEqual([plain]);
    const [x, y] = [ones([1, 2]), ones([1, 2])];
    expect(only!.forward([x, y])[0]!.toArray()).toEqual(plain.forward(x, y).toArray());
  });

  test('parameters of a segment come once', () => {
    const a = new Linear({ in: 2, out: 2 });
    const b = new Linear({ in: 2, out: 2, bias: false });
    b.weight = a.weight;
    expect(segmentParameters(segment('both', [a, b], (carry) => carry))).toEqual([a.weight, a.bias]);
  });

  test('a segment frees what it does not return, and must return tensors', () => {
    const part = segment('part', [], ([x]) => [ops.add(ops.mul(x!, 2), 1)]);
    const x = ones([1]);
    const before = stats().handles;
    const [y] = part.forward([x]);
    expect(stats().handles).toBe(before + 1);
    y!.dispose();
    const odd = segment('odd', [], () => ones([1]) as unknown as Carry);
    expect(() => odd.forward([])).toThrow(/segment "odd": expected its forward to return an array of tensors/);
  });
});
