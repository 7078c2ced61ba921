// Autograd functions written in TypeScript: gradients, what is saved and freed, errors, and residuals around them.
import { describe, expect, it } from 'vitest';
import {
  backward,
  call,
  customFunction,
  grad,
  isGradEnabled,
  memory,
  noGrad,
  scope,
  type Tensor,
  tensor,
} from '../../lib/index.js';
import { raises } from './raises.js';

const leaf = (values: number[]) => tensor(values, { requiresGrad: true });

const square = customFunction({
  forward(ctx, x: Tensor) {
    ctx.save(x);
    return x.mul(x);
  },
  backward(ctx, g) {
    return g!.mul(ctx.saved[0]!).mul(2);
  },
});

describe('customFunction', () => {
  it('computes, and its gradient is the one that was written', () => {
    const x = leaf([1, -2, 3]);
    const y = square(x);
    expect(y.requiresGrad).toBe(true);
    y.sum().backward();
    expect(x.grad?.toArray()).toEqual([2, -4, 6]);
  });

  it('stands in the middle of a graph, with a residual around it', () => {
    const x = leaf([2]);
    const h = x.mul(3); // 6
    square(h).add(h).sum().backward(); // d/dx (9x^2 + 3x) = 18x + 3
    expect(x.grad?.toArray()).toEqual([39]);
  });

  it('takes several inputs and gives several outputs', () => {
    const both = customFunction({
      forward(ctx, a: Tensor, b: Tensor) {
        ctx.save(a, b);
        return [a.mul(b), a.add(b)];
      },
      backward(ctx, product, sum) {
        const [a, b] = ctx.saved;
        return [product!.mul(b!).add(sum!), product!.mul(a!).add(sum!)];
      },
    });
    const a = leaf([2]);
    const b = leaf([5]);
    const [product, sum] = both(a, b) as Tensor[];
    backward([product!.sum(), sum!.mul(10).sum()]);
    expect([a.grad?.toArray(), b.grad?.toArray()]).toEqual([[15], [12]]);
  });

  it('an output that took no part has no gradient or zeros; an input that needs none may get null', () => {
    const seen: boolean[][] = [];
    const pick = customFunction({
      forward(ctx, a: Tensor, b: Tensor) {
        seen.push([...ctx.needsGrad]);
        return [a.mul(2), b.mul(2)];
      },
      backward(_ctx, first, second) {
        seen.push([first === null, second === null]);
        return [first === null ? null : first.mul(2), null];
      },
    });
    const a = leaf([1]);
    const [first] = pick(a, tensor([1])) as Tensor[];
    first!.sum().backward();
    expect(a.grad?.toArray()).toEqual([2]);
    expect(seen[0]).toEqual([true, false]);
    expect(seen[1]?.[0]).toBe(false);
  });

  it('runs forward and backward without recording', () => {
    const modes: boolean[] = [];
    const f = customFunction({
      forward(_ctx, x: Tensor) {
        modes.push(isGradEnabled());
        return x.mul(1);
      },
      backward(_ctx, g) {
        modes.push(isGradEnabled());
        return g;
      },
    });
    f(leaf([1]))
      .sum()
      .backward();
    expect(modes).toEqual([false, false]);
    expect(noGrad(() => f(leaf([1])).requiresGrad)).toBe(false);
    expect(f(tensor([1])).requiresGrad).toBe(false);
  });

  it('may return its input', () => {
    const identity = customFunction({ forward: (_ctx, x: Tensor) => x, backward: (_ctx, g) => g!.mul(10) });
    const x = leaf([1]);
    identity(x).sum().backward();
    expect(x.grad?.toArray()).toEqual([10]);
    expect(x.isDisposed).toBe(false);
  });

  it('keeps other things for backward', () => {
    const scaled = customFunction({
      forward(ctx, x: Tensor) {
        ctx.factor = 7;
        return x.mul(7);
      },
      backward: (ctx, g) => g!.mul(ctx.factor as number),
    });
    const x = leaf([1]);
    scaled(x).sum().backward();
    expect(x.grad?.toArray()).toEqual([7]);
  });

  it('works within grad() and in a graph of many', () => {
    const x = leaf([2]);
    let y: Tensor = x;
    for (let i = 0; i < 3; i++) y = square(y); // x^8
    expect(grad([y.sum()], [x])[0]?.toArray()).toEqual([1024]);
  });

  it('can be called back from the helper thread that CUDA needs', () => {
    call('shardloop::force_backward_helper', true);
    try {
      const x = leaf([3]);
      square(x).sum().backward();
      expect(x.grad?.toArray()).toEqual([6]);
    } finally {
      call('shardloop::force_backward_helper', false);
    }
  });

  it('may call backward inside backward', () => {
    const nested = customFunction({
      forward: (ctx, x: Tensor) => {
        ctx.save(x);
        return x.mul(x);
      },
      backward(ctx, g) {
        const copy = tensor(ctx.saved[0]!.toArray() as number[], { requiresGrad: true });
        square(copy).sum().backward();
        return g!.mul(copy.grad!);
      },
    });
    const x = leaf([4]);
    // Recording is off in backward; the inner graph turns it on for itself.
    expect(() => nested(x).sum().backward()).toThrow();
  });
});

describe('memory', () => {
  it('frees what was saved, and what backward made', () => {
    const x = leaf([1, 2]);
    const before = memory.stats();
    for (let i = 0; i < 100; i++) {
      scope(() => square(square(x)).sum().backward());
    }
    x.grad = null;
    expect(memory.stats()).toEqual({ ...before, bytes: memory.stats().bytes });
  });

  it('keeps what was saved while the graph is retained', () => {
    const x = leaf([3]);
    const y = square(x).sum();
    y.backward(undefined, { retainGraph: true });
    y.backward();
    expect(x.grad?.toArray()).toEqual([12]);
    raises('OP_FAILED', () => y.backward());
  });

  it('what was saved outlives the scope of forward', () => {
    const x = leaf([3]);
    const y = scope(() => square(x));
    y.sum().backward();
    expect(x.grad?.toArray()).toEqual([6]);
  });

  it('a saved tensor that is changed in place is found out', () => {
    const x = leaf([3]);
    const h = x.mul(1);
    const y = square(h);
    h.detach().add_(1);
    expect(raises('OP_FAILED', () => y.sum().backward()).message).toContain('in place');
  });
});

describe('errors', () => {
  it('of backward come out as they are', () => {
    const failure = new TypeError('mine');
    const f = customFunction({
      forward: (_ctx, x: Tensor) => x.mul(1),
      backward() {
        throw failure;
      },
    });
    let caught: unknown;
    try {
      f(leaf([1, 2]))
        .sum()
        .backward();
    } catch (error) {
      caught = error;
    }
    expect(caught).toBe(failure);
    expect(memory.stats().scopeDepth).toBe(0);
  });

  it('of forward too', () => {
    const f = customFunction({
      forward(): Tensor {
        throw new TypeError('mine');
      },
      backward: (_ctx, g) => g,
    });
    expect(() => f(leaf([1]))).toThrow('mine');
    expect(isGradEnabled()).toBe(true);
  });

  it('for results of the wrong kind or number', () => {
    const run = (forward: () => unknown, back: () => unknown): void => {
      const f = customFunction({ forward, backward: back } as never);
      f(leaf([1, 2]))
        .sum()
        .backward();
    };
    raises('BAD_ARGUMENT', () =>
      run(
        () => 5,
        () => null,
      ),
    );
    raises('BAD_ARGUMENT', () =>
      run(
        () => [tensor([1]), 5],
        () => null,
      ),
    );
    raises('BAD_ARGUMENT', () =>
      run(
        () => tensor([1]),
        () => [null, null],
      ),
    );
    raises('BAD_ARGUMENT', () =>
      run(
        () => tensor([1]),
        () => 5,
      ),
    );
    raises('SCOPE_ASYNC', () =>
      run(
        () => tensor([1]),
        async () => null,
      ),
    );
    raises('SCOPE_ASYNC', () =>
      run(
        async () => tensor([1]),
        () => null,
      ),
    );
    raises('OP_FAILED', () =>
      run(
        () => tensor([1]),
        () => tensor([1, 2, 3]),
      ),
    );
    raises('BAD_ARGUMENT', () => customFunction({} as never));
    raises('TENSOR_FOREIGN', () => square(5 as never));
  });
});
