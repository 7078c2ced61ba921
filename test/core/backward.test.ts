// backward and grad: several roots, chosen inputs, retained graphs, gradients of gradients, and what is refused.
import { describe, expect, it } from 'vitest';
import { backward, grad, memory, ops, scope, tensor } from '../../lib/index.js';
import { raises } from './raises.js';

const leaf = (values: number[]) => tensor(values, { requiresGrad: true });

describe('backward', () => {
  it('adds to grad, step by step', () => {
    const x = leaf([1, 2, 3]);
    ops.sum(x.mul(x)).backward();
    expect(x.grad?.toArray()).toEqual([2, 4, 6]);
    ops.sum(x).backward();
    expect(x.grad?.toArray()).toEqual([3, 5, 7]);
  });

  it('takes a gradient for a root that is no scalar', () => {
    const x = leaf([1, 2]);
    x.mul(x).backward(tensor([1, 10]));
    expect(x.grad?.toArray()).toEqual([2, 40]);
    raises('OP_FAILED', () => x.mul(2).backward());
    raises('OP_FAILED', () => x.mul(2).backward(tensor([1, 2, 3])));
    raises('TENSOR_FOREIGN', () => x.mul(2).backward(5 as never));
  });

  it('goes from several roots at once', () => {
    const x = leaf([2]);
    const a = x.mul(3);
    const b = x.mul(x);
    backward([a, b], [tensor([1]), tensor([10])]);
    expect(x.grad?.toArray()).toEqual([43]);
    const y = leaf([2]);
    backward([y.mul(3).sum(), y.sum()]);
    expect(y.grad?.toArray()).toEqual([4]);
  });

  it('only into the inputs that are named', () => {
    const x = leaf([1]);
    const y = leaf([1]);
    backward([x.add(y).sum()], undefined, { inputs: [x] });
    expect(x.grad?.toArray()).toEqual([1]);
    expect(y.grad).toBeNull();
    backward([x.add(y).sum()], undefined, { inputs: [] });
    expect(y.grad).toBeNull();
  });

  it('runs twice through a graph that was retained, and not otherwise', () => {
    const x = leaf([3]);
    const y = ops.sum(x.mul(x));
    y.backward(undefined, { retainGraph: true });
    y.backward();
    expect(x.grad?.toArray()).toEqual([12]);
    raises('OP_FAILED', () => y.backward());
    const z = ops.sum(x.mul(x));
    backward([z], [null], { retainGraph: true });
    backward([z]);
  });

  it('leaves no handle behind', () => {
    const x = leaf([3]);
    const before = memory.stats().handles;
    scope(() => ops.sum(x.mul(x)).backward());
    expect(memory.stats().handles).toBe(before);
  });

  it('refuses', () => {
    raises('BAD_ARGUMENT', () => backward(leaf([1]) as never));
    raises('BAD_ARGUMENT', () => backward([leaf([1]).sum()], [null, null]));
    raises('TENSOR_FOREIGN', () => backward([{} as never]));
    raises('OP_FAILED', () => backward([tensor([1])]));
    raises('BAD_ARGUMENT', () => backward([leaf([1]).sum()], undefined, { retain: true } as never));
  });
});

describe('grad', () => {
  it('gives gradients as values and accumulates nothing', () => {
    const x = leaf([2]);
    const y = leaf([5]);
    const [dx, dy] = grad([x.mul(y)], [x, y]);
    expect([dx?.toArray(), dy?.toArray(), x.grad]).toEqual([[5], [2], null]);
    const [scaled] = grad([x.mul(y)], [x], { gradients: [tensor([10])] });
    expect(scaled?.toArray()).toEqual([50]);
  });

  it('an input that took no part is an error, or null when allowed', () => {
    const x = leaf([2]);
    const y = leaf([5]);
    raises('OP_FAILED', () => grad([x.mul(2)], [x, y]));
    expect(grad([x.mul(2)], [x, y], { allowUnused: true })[1]).toBeNull();
  });

  it('of gradients', () => {
    const x = leaf([3]);
    const [first] = grad([x.pow(3)], [x], { createGraph: true });
    const [second] = grad([first!], [x]);
    expect([first?.itemSync(), second?.itemSync()]).toEqual([27, 18]);
    raises('OP_FAILED', () => {
      const [plain] = grad([x.pow(3)], [x]);
      grad([plain!], [x]);
    });
  });

  it('keeps the graph when asked', () => {
    const x = leaf([3]);
    const y = x.mul(x);
    grad([y], [x], { retainGraph: true });
    grad([y], [x]);
    raises('OP_FAILED', () => grad([y], [x]));
  });

  it('refuses options that it does not know', () => {
    raises('BAD_ARGUMENT', () => grad([leaf([1])], [leaf([1])], { allow_unused: true } as never));
  });
});
