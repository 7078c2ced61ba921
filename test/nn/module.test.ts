// Module: how fields become members, what forward frees, state dicts, moving, replacing, printing, and misuse.
import { inspect } from 'node:util';
import { beforeEach, describe, expect, test } from 'vitest';
import { keep, manualSeed, noGrad, ones, ops, randn, scope, type Tensor, tensor, zeros } from '../../lib/core/index.js';
import { stats } from '../../lib/core/memory.js';
import { buffer, Dropout, Embedding, Linear, Module, type Parameter, parameter } from '../../lib/nn/index.js';

class Block extends Module {
  first = new Linear({ in: 2, out: 3 });
  second = new Linear({ in: 3, out: 2, bias: false });

  forward(x: Tensor): Tensor {
    return ops.add(x, this.second.forward(ops.relu(this.first.forward(x))));
  }
}

class Net extends Module {
  table = new Embedding({ count: 5, size: 2 });
  blocks = [new Block(), new Block()];
  heads = { main: new Linear({ in: 2, out: 5, bias: false }) };
  scale: Parameter = parameter(ones([2]));
  steps = buffer(tensor([3n]));
  cache = buffer(zeros([1]), { persistent: false });
  config = { width: 2, names: ['a', 'b'] };
  nothing: Linear | null = null;

  forward(ids: Tensor): Tensor {
    let x = ops.mul(this.table.forward(ids), this.scale);
    for (const block of this.blocks) x = block.forward(x);
    return this.heads.main.forward(x);
  }
}

beforeEach(() => manualSeed(1));

const names = (pairs: readonly (readonly [string, unknown])[]): string[] => pairs.map(([name]) => name);

describe('members', () => {
  test("are found in fields, arrays and plain objects, a module's own tensors before its children's", () => {
    const net = new Net();
    expect(names(net.namedParameters())).toEqual([
      'scale',
      'table.weight',
      ...[0, 1].flatMap((i) => [`blocks.${i}.first.weight`, `blocks.${i}.first.bias`, `blocks.${i}.second.weight`]),
      'heads.main.weight',
    ]);
    expect(names(net.namedBuffers())).toEqual(['steps', 'cache']);
    expect(names(net.children())).toEqual(['table', 'blocks.0', 'blocks.1', 'heads.main']);
    expect(names(net.namedModules())).toEqual([
      '',
      'table',
      'blocks.0',
      'blocks.0.first',
      'blocks.0.second',
      'blocks.1',
      'blocks.1.first',
      'blocks.1.second',
      'heads.main',
    ]);
    expect(net.parameters()).toHaveLength(9);
  });

  test('a tied weight is one parameter and two entries of the state dict', () => {
    const net = new Net();
    net.heads.main.weight = net.table.weight;
    expect(names(net.namedParameters())).not.toContain('heads.main.weight');
    expect(net.stateDict().get('heads.main.weight')).toBe(net.table.weight);
    const state = new Map(net.stateDict());
    state.delete('heads.main.weight');
    expect(() => net.loadStateDict(state)).not.toThrow();
  });

  test('a module in two places is visited once, and a module inside itself does not loop', () => {
    class Ring extends Module {
      self: Module = this;
      a = new Linear({ in: 1, out: 1 });
      b = this.a;
      forward(x: Tensor): Tensor {
        return this.a.forward(x);
      }
    }
    const ring = new Ring();
    expect(names(ring.namedModules())).toEqual(['', 'a']);
    expect([...ring.stateDict().keys()]).toEqual(['a.weight', 'a.bias', 'b.weight', 'b.bias']);
    expect(inspect(ring)).toContain('(self): Ring(...)');
  });

  test('a plain tensor is no member, but one that requires grad is refused', () => {
    class Odd extends Module {
      cache = zeros([2]);
      forward(): void {}
    }
    const odd = new Odd();
    expect(odd.namedParameters()).toEqual([]);
    odd.cache.requiresGrad = true;
    expect(() => odd.namedParameters()).toThrow(/"cache".*nn\.parameter/);
  });

  test('parameter and buffer refuse what they cannot be', () => {
    expect(() => parameter(3 as unknown as Tensor)).toThrow(/expected a Tensor, received 3/);
    expect(() => buffer({} as Tensor)).toThrow(/expected a Tensor/);
    expect(() => parameter(tensor([1n]))).toThrow(/floating dtype, received int64/);
    expect(parameter(tensor([1n]), { requiresGrad: false }).requiresGrad).toBe(false);
    const x = ones([1], { requiresGrad: true });
    expect(() => parameter(ops.mul(x, 2))).toThrow(/leaf/);
  });
});

describe('forward is a scope', () => {
  test('only its outputs live on', () => {
    let inner: Tensor | undefined;
    class Pair extends Module {
      forward(x: Tensor): { sum: Tensor; parts: Tensor[] } {
        inner = ops.mul(x, 3);
        return { sum: ops.add(inner, 1), parts: [ops.neg(x), x] };
      }
    }
    const x = ones([2]);
    const pair = new Pair();
    const before = stats().handles;
    const { sum, parts } = pair.forward(x);
    expect(inner!.isDisposed).toBe(true);
    expect(sum.toArray()).toEqual([4, 4]);
    expect(parts[1]).toBe(x);
    expect(stats().handles).toBe(before + 2);
    sum.dispose();
    parts[0]!.dispose();
    expect(x.isDisposed).toBe(false);
  });

  test('a hundred steps with gradients leave the number of live tensors flat', () => {
    const net = new Net();
    const ids = tensor([0n, 1n, 2n]);
    const step = (): void =>
      scope(() => {
        net.forward(ids).sum().backward();
        net.zeroGrad();
      });
    step();
    const before = stats().handles;
    for (let i = 0; i < 100; i++) step();
    expect(stats().handles).toBe(before);
  });

  test('keep takes a cache out, an error frees everything, and a promise is refused by name', () => {
    class Caching extends Module {
      cache: Tensor | null = null;
      forward(x: Tensor, fail: boolean): Tensor {
        this.cache = keep(ops.add(x, 1));
        const lost = ops.mul(x, 2);
        if (fail) throw new Error('on purpose');
        return lost;
      }
    }
    const module = new Caching();
    const x = ones([1]);
    const before = stats().handles;
    expect(() => module.forward(x, true)).toThrow('on purpose');
    expect(module.cache!.toArray()).toEqual([2]);
    expect(stats().handles).toBe(before + 1);

    class Late extends Module {
      async forward(y: Tensor): Promise<Tensor> {
        return y;
      }
    }
    expect(() => new Late().forward(x)).toThrow(expect.objectContaining({ code: 'SCOPE_ASYNC' }));
  });

  test('holds for inherited and overridden forwards too', () => {
    const made: Tensor[] = [];
    class Base extends Module {
      forward(x: Tensor): Tensor {
        made.push(ops.add(x, 1));
        return ops.add(made.at(-1)!, 1);
      }
    }
    class Derived extends Base {
      override forward(x: Tensor): Tensor {
        made.push(super.forward(x));
        return ops.mul(made.at(-1)!, 10);
      }
    }
    class Heir extends Derived {}
    for (const module of [new Heir(), new Derived()]) {
      expect(module.forward(ones([1])).toArray()).toEqual([30]);
    }
    expect(new Base().forward(ones([1])).toArray()).toEqual([3]);
    expect(made.every((t) => t.isDisposed)).toBe(true);
  });

  test('parameters made inside a scope outlive it', () => {
    const net = scope(() => new Linear({ in: 2, out: 2 }));
    expect(net.weight.isDisposed).toBe(false);
    net.dispose();
    expect(net.weight.isDisposed).toBe(true);
  });
});

describe('state dict', () => {
  test('copies values into the same tensors, converting the dtype', () => {
    const [a, b] = [new Net(), new Net()];
    const weight = b.table.weight;
    const state = new Map(
      [...a.stateDict()].map(([name, t]) => [name, t.dtype === 'float32' ? t.to({ dtype: 'float64' }) : t]),
    );
    expect([...state.keys()]).toContain('steps');
    expect([...state.keys()]).not.toContain('cache');
    expect(b.loadStateDict(state)).toEqual({ missing: [], unexpected: [] });
    expect(b.table.weight).toBe(weight);
    expect(weight.dtype).toBe('float32');
    const ids = tensor([[0n, 4n]]);
    expect(b.forward(ids).toArray()).toEqual(a.forward(ids).toArray());
  });

  test('strict names what is missing, unexpected or of the wrong shape', () => {
    const net = new Net();
    const state = new Map<string, Tensor>(net.stateDict());
    state.delete('scale');
    state.set('odd', zeros([1]));
    expect(() => net.loadStateDict(state)).toThrow(/Net:\n {2}missing: scale\n {2}unexpected: odd\n.*strict: false/);
    expect(net.loadStateDict(state, { strict: false })).toEqual({ missing: ['scale'], unexpected: ['odd'] });
    state.set('scale', zeros([3]));
    expect(() => net.loadStateDict(state, { strict: false })).toThrow(/"scale": expected shape \[2\], received \[3\]/);
    state.set('scale', 5 as unknown as Tensor);
    expect(() => net.loadStateDict(state, { strict: false })).toThrow(/"scale": expected a Tensor, received 5/);
  });

  test('a failed load changes nothing', () => {
    const net = new Net();
    const before = net.scale.toArray();
    const state = new Map<string, Tensor>([
      ['scale', zeros([2])],
      ['table.weight', zeros([1])],
    ]);
    expect(() => net.loadStateDict(state, { strict: false })).toThrow();
    expect(net.scale.toArray()).toEqual(before);
  });

  test('assign takes the tensors themselves, in their dtype, and keeps ties', () => {
    const net = new Net();
    net.heads.main.weight = net.table.weight;
    net.table.weight.requiresGrad = false;
    const old = net.table.weight;
    const given = zeros([5, 2], { dtype: 'float64' });
    net.loadStateDict(new Map([['table.weight', given]]), { strict: false, assign: true });
    expect(net.table.weight).toBe(given);
    expect(net.heads.main.weight).toBe(given);
    expect(given.requiresGrad).toBe(false);
    expect(old.isDisposed).toBe(true);
    expect(names(net.namedParameters())).toContain('table.weight');
  });

  test('assign fills a model that was made without memory', () => {
    const empty = new Linear({ in: 2, out: 2, device: 'meta' });
    expect(empty.weight.device).toBe('meta');
    const full = new Linear({ in: 2, out: 2 });
    empty.loadStateDict(new Map([...full.stateDict()].map(([name, t]) => [name, noGrad(() => t.clone())])), {
      assign: true,
    });
    const x = randn([1, 2]);
    expect(empty.forward(x).toArray()).toEqual(full.forward(x).toArray());
    expect(empty.weight.requiresGrad).toBe(true);
  });
});

describe('modes and places', () => {
  test('train and eval reach every module', () => {
    class Holder extends Module {
      inner = [new Dropout(0.5)];
      forward(): void {}
    }
    const holder = new Holder();
    expect(holder.eval().inner[0]!.training).toBe(false);
    expect(holder.training).toBe(false);
    expect(holder.train().inner[0]!.training).toBe(true);
    expect(holder.train(false).training).toBe(false);
  });

  test('to converts floating tensors in place and leaves integers alone', () => {
    const net = new Net();
    const weight = net.table.weight;
    net
      .forward(tensor([0n]))
      .sum()
      .backward();
    expect(net.to({ dtype: 'bfloat16' })).toBe(net);
    expect(net.table.weight).toBe(weight);
    expect(weight.dtype).toBe('bfloat16');
    expect(weight.requiresGrad).toBe(true);
    expect(weight.grad!.dtype).toBe('bfloat16');
    expect(net.steps.dtype).toBe('int64');
    expect(net.cache.dtype).toBe('bfloat16');
    expect(net.forward(tensor([0n])).dtype).toBe('bfloat16');
    expect(net.to({ device: 'cpu' }).scale.device).toBe('cpu');
    expect(() => net.to({ dtype: 'int64' })).toThrow(/floating dtype/);
  });

  test('after to, backward accumulates in the new dtype', () => {
    const layer = new Linear({ in: 2, out: 1 });
    layer
      .forward(ones([1, 2]))
      .sum()
      .backward();
    layer.zeroGrad();
    layer.to({ dtype: 'float64' });
    layer
      .forward(ones([1, 2], { dtype: 'float64' }))
      .sum()
      .backward();
    expect(layer.weight.grad!.dtype).toBe('float64');
    expect(layer.weight.grad!.toArray()).toEqual([[1, 1]]);
  });

  test('requiresGrad freezes and zeroGrad drops gradients', () => {
    const layer = new Linear({ in: 2, out: 1 }).requiresGrad(false);
    expect(layer.parameters().map((t) => t.requiresGrad)).toEqual([false, false]);
    layer.requiresGrad();
    layer
      .forward(ones([1, 2]))
      .sum()
      .backward();
    expect(layer.weight.grad).not.toBeNull();
    layer.zeroGrad();
    expect(layer.weight.grad).toBeNull();
  });
});

describe('submodules by name', () => {
  test('are found and replaced', () => {
    const net = new Net();
    expect(net.getSubmodule('')).toBe(net);
    expect(net.getSubmodule('blocks.1.first')).toBe(net.blocks[1]!.first);
    const old = net.blocks[1]!.first;
    const fresh = new Linear({ in: 2, out: 3, bias: false });
    expect(net.setSubmodule('blocks.1.first', fresh)).toBe(old);
    expect(net.blocks[1]!.first).toBe(fresh);
    net.setSubmodule('blocks.0', new Block());
    net.setSubmodule('heads.main', new Linear({ in: 2, out: 7 }));
    expect(net.forward(tensor([1n])).shape).toEqual([1, 7]);
  });

  test('misuse is named', () => {
    const net = new Net();
    expect(() => net.getSubmodule('blocks.7')).toThrow(/no submodule "blocks\.7" in Net; it has table, blocks\.0/);
    expect(() => net.getSubmodule('blocks.0.first.weight')).toThrow(/no submodule "weight" in Linear; it has none/);
    expect(() => net.setSubmodule('table', {} as Module)).toThrow(/expected a Module/);
  });
});

test('printing folds equal neighbours', () => {
  const net = new Net();
  net.heads.main = new Linear({ in: 2, out: 5, bias: false });
  expect(inspect(net)).toBe(`Net(
  (table): Embedding(count=5, size=2)
  (blocks): ModuleList(
    (0-1): 2 x Block(
      (first): Linear(in=2, out=3, bias=true)
      (second): Linear(in=3, out=2, bias=false)
    )
  )
  (heads): ModuleDict(
    (main): Linear(in=2, out=5, bias=false)
  )
)`);
  expect(String(new Dropout(0.25))).toBe('Dropout(p=0.25)');
  class Grid extends Module {
    rows = [[new Dropout(0), new Dropout(0)], [new Dropout(0.5)]];
    forward(): void {}
  }
  expect(String(new Grid())).toBe(`Grid(
  (rows): ModuleList(
    (0): ModuleList(
      (0-1): 2 x Dropout(p=0)
    )
    (1): ModuleList(
      (0): Dropout(p=0.5)
    )
  )
)`);
  expect(names(new Grid().children())).toEqual(['rows.0.0', 'rows.0.1', 'rows.1.0']);
});

test('dispose and using free parameters, buffers and gradients', () => {
  const before = stats().handles;
  {
    using net = new Net();
    scope(() =>
      net
        .forward(tensor([0n]))
        .sum()
        .backward(),
    );
    expect(stats().handles).toBe(before + 11);
  }
  expect(stats().handles).toBe(before);
});
