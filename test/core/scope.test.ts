// Scopes, keep and disposeAll: what is freed when, what escapes, and what is refused.
import { describe, expect, it } from 'vitest';
import { disposeAll, keep, memory, ones, ops, scope, type Tensor, tensor, zeros } from '../../lib/index.js';
import { raises } from './raises.js';

const live = (): number => memory.stats().handles;

describe('scope', () => {
  it('frees what was made inside, at once', () => {
    const before = live();
    let inner: Tensor | undefined;
    const sum = scope(() => {
      inner = ones([3]).add(1);
      return inner.sum().itemSync();
    });
    expect(sum).toBe(6);
    expect(live()).toBe(before);
    expect(inner?.isDisposed).toBe(true);
    raises('TENSOR_DISPOSED', () => inner?.shape);
  });

  it.each<[string, (make: () => Tensor) => unknown]>([
    ['a tensor', (make) => make()],
    ['an array', (make) => [make(), make()]],
    ['a plain object', (make) => ({ a: make(), b: { c: [make()] } })],
    ['an object without a prototype', (make) => Object.assign(Object.create(null), { a: make() })],
    ['a Map', (make) => new Map([['a', make()]])],
    ['a Set', (make) => new Set([make()])],
    [
      'an array that contains itself',
      (make) => {
        const list: unknown[] = [make()];
        list.push(list);
        return list;
      },
    ],
  ])('lets %s escape', (_, body) => {
    const before = live();
    const made: Tensor[] = [];
    const result = scope(() => {
      zeros([2]);
      return body(() => {
        const t = zeros([1]);
        made.push(t);
        return t;
      });
    });
    expect(live()).toBe(before + made.length);
    for (const t of made) expect(t.isDisposed).toBe(false);
    disposeAll(result);
    expect(live()).toBe(before);
  });

  it('does not look into instances of classes', () => {
    class Box {
      constructor(readonly t: Tensor) {}
    }
    const box = scope(() => new Box(zeros([1])));
    expect(box.t.isDisposed).toBe(true);
  });

  it('nests: what escapes the inner one belongs to the outer one', () => {
    const before = live();
    let middle: Tensor | undefined;
    const out = scope(() => {
      middle = scope(() => {
        zeros([1]);
        return zeros([2]);
      });
      expect(live()).toBe(before + 1);
      expect(memory.stats().scopeDepth).toBe(1);
      return scope(() => scope(() => middle!.add(1)));
    });
    expect(middle?.isDisposed).toBe(true);
    expect(out.isDisposed).toBe(false);
    out.dispose();
    expect(live()).toBe(before);
  });

  it('leaves alone what was made outside, also when it is returned', () => {
    const outside = zeros([1]);
    expect(scope(() => outside)).toBe(outside);
    expect(outside.isDisposed).toBe(false);
    scope(() => {
      scope(() => outside);
    });
    expect(outside.isDisposed).toBe(false);
    outside.dispose();
  });

  it('frees everything when the callback throws, at any depth', () => {
    const before = live();
    const failure = new Error('mine');
    let caught: unknown;
    try {
      scope(() => {
        zeros([1]);
        scope(() => {
          zeros([1]);
          throw failure;
        });
      });
    } catch (error) {
      caught = error;
    }
    expect(caught).toBe(failure);
    expect(live()).toBe(before);
    expect(memory.stats().scopeDepth).toBe(0);
  });

  it('an error of an operation too, and one that is caught inside', () => {
    const before = live();
    expect(() => scope(() => ops.matmul(zeros([2, 3]), zeros([2, 3])))).toThrow();
    scope(() => {
      expect(() => scope(() => ops.matmul(zeros([2, 3]), zeros([2, 3])))).toThrow();
      expect(zeros([1]).isDisposed).toBe(false);
    });
    expect(live()).toBe(before);
  });

  it('a tensor that was disposed inside may be returned', () => {
    const before = live();
    const [gone, there] = scope(() => {
      const a = zeros([1]);
      const b = zeros([1]);
      a.dispose();
      return [a, b];
    });
    expect([gone?.isDisposed, there?.isDisposed]).toEqual([true, false]);
    there?.dispose();
    expect(live()).toBe(before);
  });

  it('a tensor that is returned twice in one value', () => {
    const before = live();
    const [a, b] = scope(() => {
      const t = zeros([1]);
      return [t, t];
    });
    expect(a).toBe(b);
    a?.dispose();
    expect(live()).toBe(before);
  });

  it('in-place results are the tensor itself', () => {
    const t = zeros([2]);
    scope(() => {
      expect(t.add_(1)).toBe(t);
      expect(ops.mul_(t, 2)).toBe(t);
    });
    expect(t.toArray()).toEqual([2, 2]);
    t.dispose();
  });

  it('a view escapes while its base is freed', () => {
    const view = scope(() => ones([4]).get(0));
    expect(view.itemSync()).toBe(1);
    view.dispose();
  });
});

describe('scope refuses', () => {
  it.each<[string, () => unknown]>([
    ['an async function', async () => 1],
    ['a function that returns a promise', () => Promise.resolve(zeros([1]))],
    ['a promise that fails', () => Promise.reject(new Error('unheard'))],
    // biome-ignore lint/suspicious/noThenProperty: a thenable is what this tests
    ['a thenable', () => ({ then: () => {} })],
    [
      'a generator function',
      function* () {
        yield 1;
      },
    ],
    [
      'a generator as the result',
      () =>
        (function* () {
          yield 1;
        })(),
    ],
    [
      'an async generator function',
      async function* () {
        yield 1;
      },
    ],
  ])('%s', async (_, body) => {
    const before = live();
    raises('SCOPE_ASYNC', () => scope(body));
    expect(memory.stats().scopeDepth).toBe(0);
    expect(live()).toBe(before);
    await new Promise(setImmediate);
  });

  it('what is no function', () => {
    raises('BAD_ARGUMENT', () => scope(undefined as never));
    raises('BAD_ARGUMENT', () => scope(zeros([1]) as never));
  });

  it('an async function is not even started', () => {
    let started = false;
    raises('SCOPE_ASYNC', () =>
      scope(async () => {
        started = true;
      }),
    );
    expect(started).toBe(false);
  });
});

describe('keep', () => {
  it('takes tensors out of every scope', () => {
    const before = live();
    let cache: { k: Tensor; v: Tensor[] } | undefined;
    scope(() => {
      scope(() => {
        cache = keep({ k: zeros([1]), v: [zeros([1])] });
        zeros([1]);
      });
    });
    expect(live()).toBe(before + 2);
    disposeAll(cache);
    expect(live()).toBe(before);
  });

  it('may be said twice, outside of scopes, and of what is no tensor', () => {
    const t = keep(keep(zeros([1])));
    expect(t.isDisposed).toBe(false);
    expect(keep(5)).toBe(5);
    expect(keep(null)).toBeNull();
    t.dispose();
    raises('TENSOR_DISPOSED', () => keep(t));
  });

  it('a kept tensor that is returned too is not freed by the scope around', () => {
    let kept: Tensor | undefined;
    scope(() => {
      kept = scope(() => keep(zeros([1])));
    });
    expect(kept?.isDisposed).toBe(false);
    kept?.dispose();
  });
});

it('disposeAll is quiet about what is gone', () => {
  const t = zeros([1]);
  disposeAll([t, t, { t }, 5, null]);
  disposeAll(t);
  expect(t.isDisposed).toBe(true);
});

it('thousands of scopes in scopes', () => {
  const before = live();
  const deep = (n: number): Tensor => (n === 0 ? tensor([1]) : scope(() => deep(n - 1).add(1)));
  const t = deep(1000);
  expect(t.itemSync()).toBe(1001);
  t.dispose();
  expect(live()).toBe(before);
});
