// The native update of AdamW, SGD and Lion against the same arithmetic composed of libtorch's ops: bit for bit, over
// sizes, dtypes, settings, instruction sets, layouts and threads; and what the native ops refuse.
import { afterEach, describe, expect, test } from 'vitest';
import {
  call,
  type DType,
  getNumThreads,
  manualSeed,
  noGrad,
  ones,
  ops,
  randn,
  setNumThreads,
  type Tensor,
  tensor,
  zeros,
} from '../../lib/core/index.js';
import { AdamW, gradNorm, gradSquares, Lion, MasterWeights, type Optimizer, SGD } from '../../lib/optim/index.js';
import { raises } from '../core/raises.js';

const kernels = call('shardloop::cpu_kernels') as string[];
const threads = getNumThreads();

afterEach(() => {
  call('shardloop::use_cpu_kernels', kernels.at(-1)!);
  setNumThreads(threads);
});

type Make = (groups: { params: Tensor[] }[], fused: boolean) => Optimizer;
const RULES: Record<string, Make> = {
  AdamW: (groups, fused) => new AdamW({ groups, fused }),
  'AdamW, all settings': (groups, fused) =>
    new AdamW({ groups, fused, lr: 0.03, betas: [0.7, 0.95], eps: 1e-3, weightDecay: 0.3 }),
  'AdamW without decay': (groups, fused) => new AdamW({ groups, fused, weightDecay: 0, eps: 0 }),
  SGD: (groups, fused) => new SGD({ groups, fused, lr: 0.1 }),
  'SGD with decay': (groups, fused) => new SGD({ groups, fused, lr: 0.1, weightDecay: 0.2 }),
  'SGD with momentum': (groups, fused) => new SGD({ groups, fused, lr: 0.1, momentum: 0.9, weightDecay: 0.01 }),
  'SGD, Nesterov': (groups, fused) => new SGD({ groups, fused, lr: 0.1, momentum: 0.8, nesterov: true }),
  Lion: (groups, fused) => new Lion({ groups, fused, lr: 0.01 }),
  'Lion, all settings': (groups, fused) => new Lion({ groups, fused, lr: 0.02, betas: [0.5, 0.8], weightDecay: 0.4 }),
};

const SIZES = [0, 1, 2, 7, 16, 17, 31, 64, 65, 1023, 1024, 1025, 5000];
const numbers = (t: Tensor): Float32Array => t.dataSync() as Float32Array;

interface Setting {
  title: string;
  param: DType;
  grad: DType;
  master: boolean;
}
const SETTINGS: Setting[] = [
  { title: 'float32', param: 'float32', grad: 'float32', master: false },
  { title: 'bfloat16 with a master', param: 'bfloat16', grad: 'bfloat16', master: true },
  { title: 'bfloat16 with a master and float32 gradients', param: 'bfloat16', grad: 'float32', master: true },
  { title: 'float16 with a master', param: 'float16', grad: 'float16', master: true },
  { title: 'bfloat16 alone', param: 'bfloat16', grad: 'bfloat16', master: false },
  { title: 'float16 alone', param: 'float16', grad: 'float16', master: false },
  { title: 'float64', param: 'float64', grad: 'float64', master: false },
];

interface Run {
  steps: number;
  sizes?: number[];
  gradScale?: number;
  gradOf?: (size: number, step: number) => Tensor;
}

/** All parameters and states after some steps, with the same random numbers whatever `fused` is. */
function outcome(make: Make, fused: boolean, { param, grad, master }: Setting, run: Run): Record<string, Float32Array> {
  const { steps, sizes = SIZES, gradScale = 0.37, gradOf = (size) => randn([size]) } = run;
  manualSeed(3);
  const params = sizes.map((size) => randn([size]).to({ dtype: param }));
  const optimizer = master
    ? new MasterWeights({ groups: [{ params }], optimizer: (groups) => make(groups, fused) })
    : make([{ params }], fused);
  for (let step = 1; step <= steps; step++) {
    for (const p of params) p.grad = gradOf(p.numel, step).to({ dtype: grad });
    optimizer.step({ gradScale });
  }
  const found: Record<string, Float32Array> = {};
  params.forEach((p, i) => {
    found[`param ${i}`] = numbers(p);
  });
  for (const [name, t] of optimizer.stateDict().tensors) found[name] = numbers(t);
  optimizer.dispose();
  return found;
}

function expectSame(native: Record<string, Float32Array>, reference: Record<string, Float32Array>): void {
  expect(Object.keys(native)).toEqual(Object.keys(reference));
  for (const [name, row] of Object.entries(native)) {
    const other = reference[name]!;
    expect(row.length).toBe(other.length);
    expect(
      row.findIndex((x, i) => !Object.is(x, other[i])),
      name,
    ).toBe(-1);
  }
}

/** libtorch's square root of float64 may be off in its last bit, which a step turns into as many. */
function expectClose(native: Record<string, Float32Array>, reference: Record<string, Float32Array>): void {
  expect(Object.keys(native)).toEqual(Object.keys(reference));
  for (const [name, row] of Object.entries(native)) {
    const worst = row.reduce(
      (most, x, i) => Math.max(most, Math.abs(x - reference[name]![i]!) / (Math.abs(x) + 1e-3)),
      0,
    );
    expect(worst, name).toBeLessThan(1e-13);
  }
}

describe.each(Object.keys(RULES))('%s', (rule) => {
  const make = RULES[rule]!;

  for (const setting of SETTINGS) {
    test(`equals the composed update in every bit: ${setting.title}`, () => {
      const reference = outcome(make, false, setting, { steps: 5 });
      for (const name of kernels) {
        call('shardloop::use_cpu_kernels', name);
        const native = outcome(make, true, setting, { steps: 5 });
        if (setting.param === 'float64' && rule.startsWith('AdamW')) expectClose(native, reference);
        else expectSame(native, reference);
      }
      expect(reference['param 12']).not.toEqual(outcome(make, true, setting, { steps: 4 })['param 12']);
    });
  }

  test('over 50 steps, and a million elements', () => {
    const long = { steps: 50, sizes: [257], gradScale: 1 };
    expectSame(outcome(make, true, SETTINGS[0]!, long), outcome(make, false, SETTINGS[0]!, long));
    const large = { steps: 2, sizes: [3, 2 ** 20 + 5] };
    expectSame(outcome(make, true, SETTINGS[1]!, large), outcome(make, false, SETTINGS[1]!, large));
  });

  test('with gradients that are infinite, NaN, tiny, huge, and 0', () => {
    const odd = [Infinity, -Infinity, Number.NaN, 0, -0, 1e-45, -1e-39, 3e38, -3e38, 1e19, 65504, 6e-8, 1];
    const gradOf = (size: number, step: number): Tensor =>
      tensor(Array.from({ length: size }, (_, i) => odd[(i * step) % odd.length]!));
    for (const setting of SETTINGS.slice(0, 6)) {
      const run = { steps: 3, sizes: [odd.length, 40], gradOf };
      expectSame(outcome(make, true, setting, run), outcome(make, false, setting, run));
    }
  });

  test('every kernel, any number of threads: one result', () => {
    const run = { steps: 2, sizes: [70_000, 3, 50_001] };
    const results = kernels.flatMap((name) =>
      [1, 2, 3].map((n) => {
        call('shardloop::use_cpu_kernels', name);
        setNumThreads(n);
        return outcome(make, true, SETTINGS[1]!, run);
      }),
    );
    for (const result of results) expectSame(result, results[0]!);
  });

  test('parameters and gradients that are not contiguous', () => {
    const evenColumns = (t: Tensor): Tensor => ops.slice(t, { dim: 1, start: 0, end: 8, step: 2 }); // (6, 4)
    const result = (fused: boolean, strided: boolean): Float32Array[] => {
      manualSeed(4);
      const base = randn([6, 8]);
      const [every, turned] = strided
        ? [evenColumns(base), ops.t(ops.clone(ops.narrow(base, 1, 4, 4)))]
        : [ops.contiguous(evenColumns(base)), ops.contiguous(ops.t(ops.clone(ops.narrow(base, 1, 4, 4))))];
      const optimizer = make([{ params: [every, turned] }], fused);
      for (let i = 0; i < 3; i++) {
        const g = randn([4, 6]);
        every.grad = strided ? ops.t(g) : ops.contiguous(ops.t(g));
        turned.grad = randn([1]).expand([4, 6]);
        optimizer.step();
      }
      return [numbers(every), numbers(turned)];
    };
    expect(result(true, true)).toEqual(result(true, false));
    expect(result(true, true)).toEqual(result(false, true));
  });

  test('fused: false does not call the native op, which refuses shared memory', () => {
    const run = (fused: boolean): void => {
      const p = ones([4]);
      p.grad = p.view([4]);
      make([{ params: [p] }], fused).step();
    };
    expect(() => run(false)).not.toThrow();
    expect(() => run(true)).toThrow(/expected tensors that share no memory; .*masters\[0\]/);
  });

  test('gradients are not changed by gradScale', () => {
    const p = ones([3]);
    p.grad = tensor([1, 2, 3]);
    for (const fused of [true, false]) make([{ params: [p] }], fused).step({ gradScale: 0.5 });
    expect([...numbers(p.grad!)]).toEqual([1, 2, 3]);
  });
});

test('a step is seen by autograd: backward through what it changed is refused', () => {
  const p = ones([3], { requiresGrad: true });
  const loss = ops.sum(ops.mul(p, p));
  p.grad = ones([3]);
  new AdamW({ params: [p] }).step();
  expect(() => loss.backward()).toThrow(/modified by an inplace operation/);
});

describe('what the ops refuse', () => {
  type Lists = [masters: Tensor[], parameters: Tensor[], gradients: Tensor[], m: Tensor[], v: Tensor[]];
  const adamw = (lists: Lists, numbers: number[] = [0.1, 0.9, 0.99, 1e-8, 0, 0.1, 0.01, 1]) =>
    raises('BAD_ARGUMENT', () => noGrad(() => call('shardloop::adamw_step_', ...lists, ...numbers))).message;
  const of = (dtype: DType, shape = [4]) => [zeros(shape, { dtype })];
  const f = () => of('float32');

  test('lists that do not fit together', () => {
    expect(adamw([f(), [], [], f(), f()])).toMatch(/lists of one length, received 1 masters and 0 gradients/);
    expect(adamw([f(), [...f(), ...f()], f(), f(), f()])).toMatch(/1 masters and 2 parameters/);
    expect(adamw([f(), [], f(), f(), []])).toMatch(/0 second states/);
    expect(adamw([f(), [], of('float32', [5]), f(), f()])).toMatch(/gradients\[0\] of shape \[4\], received \[5\]/);
    expect(adamw([f(), [], f(), of('float32', [2, 2]), f()])).toMatch(/states\[0\] of shape/);
    expect(adamw([[...f(), ...of('bfloat16')], [], [...f(), ...f()], [...f(), ...f()], [...f(), ...f()]])).toMatch(
      /one dtype on cpu, received masters\[1\] of BFloat16/,
    );
  });

  test('dtypes', () => {
    expect(adamw([f(), [], of('float64'), f(), f()])).toMatch(/gradients of at most float32/);
    expect(adamw([f(), f(), f(), f(), f()])).toMatch(/parameters of bfloat16 or float16 beside masters of float32/);
    expect(adamw([of('float64'), of('bfloat16'), of('float64'), of('float64'), of('float64')])).toMatch(/beside/);
    expect(adamw([f(), [], f(), of('bfloat16'), f()])).toMatch(/states of the masters' dtype/);
    expect(adamw([of('int64'), [], f(), of('int64'), of('int64')])).toMatch(/masters and gradients of float64/);
  });

  test('memory that is shared or missing', () => {
    const one = zeros([8]);
    const [head, tail] = [ops.narrow(one, 0, 0, 5), ops.narrow(one, 0, 3, 5)];
    const pair = () => [zeros([5]), zeros([5])];
    expect(adamw([[head, tail], [], pair(), pair(), pair()])).toMatch(/masters\[0\] and masters\[1\] do/);
    const m = f();
    expect(adamw([f(), [], f(), m, m])).toMatch(/states\[0\] and .*states\[0\] do/);
    expect(adamw([[ones([1]).expand([4])], [], f(), f(), f()])).toMatch(/memory for each element/);
    const [first, second] = [ops.narrow(one, 0, 0, 4), ops.narrow(one, 0, 4, 4)]; // neighbours are fine
    const two = () => [...f(), ...f()];
    noGrad(() => call('shardloop::sgd_step_', [first, second], [], two(), [], 0.1, 0, 0, false, 1));
    const shared = zeros([4]);
    noGrad(() => call('shardloop::sgd_step_', two(), [], [shared, shared], [], 0.1, 0, 0, false, 1)); // only read
  });

  test('numbers, and grad mode', () => {
    expect(adamw([f(), [], f(), f(), f()], [Number.NaN, 0.9, 0.99, 1e-8, 0, 0.1, 0.01, 1])).toMatch(/finite lr/);
    expect(adamw([f(), [], f(), f(), f()], [1, 0.9, 0.99, 1e-8, 0, 0.1, 0.01, Infinity])).toMatch(/finite grad_scale/);
    const p = ones([4], { requiresGrad: true });
    const step = () => call('shardloop::lion_step_', [p], [], f(), f(), 0.1, 0.9, 0.99, 0, 1);
    expect(raises('BAD_ARGUMENT', step).message).toMatch(/requires a gradient and is updated in place/);
    expect(() => call('shardloop::use_cpu_kernels', 'mmx')).toThrow(/expected one of cpu_kernels\(\)/);
    expect(() => noGrad(() => call('shardloop::sgd_step_', [], [], [], [], 0.1, 0, 0, false, 1))).toThrow();
  });
});

describe('gradSquares', () => {
  const withGrad = (grad: Tensor): Tensor => {
    const p = zeros(grad.shape as number[], { dtype: grad.dtype });
    p.grad = grad;
    return p;
  };

  test('sums in float64 whatever the dtype, the same with any kernel and number of threads', () => {
    manualSeed(8);
    for (const dtype of ['float32', 'bfloat16', 'float16', 'float64'] as const) {
      const params = [1, 15, 16, 17, 300_001].map((n) => withGrad(randn([n]).to({ dtype })));
      const exact = params.flatMap((p) => [...numbers(p.grad!)]).reduce((sum, x) => sum + x * x, 0);
      const sums = kernels.flatMap((name) =>
        [1, 2].map((n) => {
          call('shardloop::use_cpu_kernels', name);
          setNumThreads(n);
          return gradSquares(params).sum;
        }),
      );
      expect(new Set(sums).size).toBe(1);
      expect(Math.abs(sums[0]! - exact)).toBeLessThan(1e-12 * exact);
      expect(gradNorm(params)).toBe(Math.sqrt(sums[0]!));
    }
    expect(gradSquares([withGrad(tensor([1e30, 1e30]))]).sum).toBe(2 * Math.fround(1e30) ** 2); // beyond float32
    expect(gradSquares([])).toEqual({ sum: 0, nonFinite: null });
  });

  test('names the first parameter whose gradient is not finite', () => {
    const params = [4, 40_000, 3, 5].map((n) => withGrad(ones([n])));
    expect(gradSquares(params).nonFinite).toBeNull();
    params[3]!.grad!.fill_(Infinity);
    expect(gradSquares(params).nonFinite).toBe(params[3]);
    ops.select(params[1]!.grad!, 0, 39_999).fill_(Number.NaN);
    const { sum, nonFinite } = gradSquares(params);
    expect(nonFinite).toBe(params[1]);
    expect(sum).toBeNaN();
    const strided = withGrad(ops.t(ones([2, 3])));
    const spread = zeros([2, 2]);
    spread.grad = ones([1]).expand([2, 2]);
    expect(gradSquares([strided, spread]).sum).toBe(10);
  });
});
