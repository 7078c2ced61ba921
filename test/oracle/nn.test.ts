// Every layer and loss of nn, forward and backward, against torch.nn with the same weights; dropout from the same seed.
import { beforeAll, describe, expect, test } from 'vitest';
import {
  type DType,
  manualSeed,
  noGrad,
  ones,
  ops,
  randint,
  randn,
  type Tensor,
  tensor,
} from '../../lib/core/index.js';
import {
  attention,
  crossEntropy,
  Dropout,
  Embedding,
  gelu,
  LayerNorm,
  Linear,
  type Module,
  mse,
  RMSNorm,
  SelfAttention,
  silu,
} from '../../lib/nn/index.js';
import { type HostTensor, python, relativeError, toHost } from './python.js';

const SEED = 99;
const DTYPES: readonly (readonly [DType, number])[] = [
  ['float64', 1e-12],
  ['float32', 1e-5],
  ['bfloat16', 2e-2],
];

interface Case {
  readonly kind: string;
  readonly options: object;
  readonly inputs: Tensor[];
  readonly module?: Module;
  readonly run: (inputs: Tensor[]) => Tensor;
  /** Inputs that carry no gradient although they are floating. */
  readonly constant?: number[];
  readonly seed?: boolean;
}

beforeAll(() => {
  manualSeed(23);
});

async function compare(
  { kind, options, inputs, module, run, constant = [], seed }: Case,
  tolerance: number,
): Promise<void> {
  inputs.forEach((x, i) => {
    if (x.dtype !== 'int64' && x.dtype !== 'bool' && !constant.includes(i)) x.requiresGrad = true;
  });
  if (module !== undefined) for (const p of module.parameters()) noGrad(() => p.normal_({ std: 0.3 }));
  if (seed) manualSeed(SEED);
  const y = run(inputs);
  const gradient = randn([...y.shape], { dtype: y.dtype });
  y.backward(gradient);
  const sent = new Map<string, HostTensor>([['gradient', toHost(gradient)]]);
  inputs.forEach((x, i) => {
    sent.set(`x.${i}`, toHost(x));
  });
  for (const [name, p] of module?.namedParameters() ?? []) sent.set(`p.${name}`, toHost(p));
  const args = {
    kind,
    options,
    inputs: inputs.length,
    constant: constant.map((i) => `x.${i}`),
    ...(seed ? { seed: SEED } : {}),
  };
  const { tensors } = await python('nn', args, sent);

  const actual = new Map([['y', y]]);
  inputs.forEach((x, i) => {
    if (x.grad !== null) actual.set(`x.${i}`, x.grad);
  });
  for (const [name, p] of module?.namedParameters() ?? []) actual.set(`p.${name}`, p.grad!);
  expect([...actual.keys()].sort()).toEqual([...tensors.keys()].sort());
  for (const [name, t] of actual) {
    expect(t.dtype, name).toBe(tensors.get(name)!.dtype);
    const expected = tensors.get(name)!;
    if (name === 'p.key.bias') expectNothing(t, actual.get('p.key.weight')!, tolerance);
    else expect(relativeError(toHost(t), expected), name).toBeLessThanOrEqual(tolerance);
  }
}

/** A bias of the keys shifts all scores of a query alike, so its gradient is rounding and nothing else. */
function expectNothing(t: Tensor, beside: Tensor, tolerance: number): void {
  const [most, scale] = [t, beside].map((x) => x.abs().max().itemSync() as number);
  expect(most! / scale!).toBeLessThanOrEqual(tolerance);
}

const layer = (
  kind: string,
  module: Module & { forward(x: Tensor): Tensor },
  x: Tensor,
  options: object = {},
): Case => ({
  kind,
  options,
  module,
  inputs: [x],
  run: ([input]) => module.forward(input!),
});

describe.each(DTYPES)('%s', (dtype, tolerance) => {
  const random = (...shape: number[]): Tensor => randn(shape, { dtype });
  const padding = tensor([
    [true, true, true, false],
    [false, true, true, true],
  ]);

  test.each([true, false])('Linear, bias %s', (bias) =>
    compare(layer('Linear', new Linear({ in: 6, out: 4, bias, dtype }), random(2, 3, 6), { bias }), tolerance),
  );

  test('Embedding', () =>
    compare(layer('Embedding', new Embedding({ count: 9, size: 4, dtype }), randint(0, 9, [3, 5])), tolerance));

  test.each([[{}], [{ eps: 0.1, bias: false }]])('LayerNorm %o', (options) =>
    compare(layer('LayerNorm', new LayerNorm({ size: 8, dtype, ...options }), random(3, 8), options), tolerance),
  );

  test.each([[{}], [{ eps: 0.1 }]])('RMSNorm %o', (options) =>
    compare(layer('RMSNorm', new RMSNorm({ size: 8, dtype, ...options }), random(3, 8), options), tolerance),
  );

  test('Dropout draws the same numbers from the same seed', () =>
    compare({ ...layer('Dropout', new Dropout(0.3), random(50, 20), { p: 0.3 }), seed: true }, tolerance));

  test.each([[{}], [{ approximate: 'tanh' as const }]])('gelu %o', (options) =>
    compare({ kind: 'gelu', options, inputs: [random(40)], run: ([x]) => gelu(x!, options) }, tolerance),
  );

  test('silu', () => compare({ kind: 'silu', options: {}, inputs: [random(40)], run: ([x]) => silu(x!) }, tolerance));

  test.each([
    [{}],
    [{ reduction: 'sum' as const }],
    [{ reduction: 'none' as const }],
    [{ ignoreIndex: 3 }],
    [{ labelSmoothing: 0.2, reduction: 'mean' as const }],
  ])('crossEntropy %o', (options) => {
    const labels = randint(0, 7, [2, 5]);
    labels.set([0, 2], -100);
    if ('ignoreIndex' in options) labels.set([0, 2], 3);
    return compare(
      {
        kind: 'crossEntropy',
        options,
        inputs: [random(2, 5, 7), labels],
        run: ([x, y]) => crossEntropy(x!, y!, options),
      },
      tolerance,
    );
  });

  test.each([[{}], [{ reduction: 'sum' as const }], [{ reduction: 'none' as const }]])('mse %o', (options) =>
    compare(
      { kind: 'mse', options, inputs: [random(3, 4), random(3, 4)], run: ([x, y]) => mse(x!, y!, options) },
      tolerance,
    ),
  );

  test.each([
    [{}, 4, 4, false],
    [{ causal: true }, 4, 4, false],
    [{ causal: true, scale: 0.7 }, 2, 4, false],
    [{ scale: 0.7 }, 4, 4, true],
    [{ causal: true }, 4, 4, true],
  ])('attention %o, %d queries, %d keys, padding %s', (options, queries, keys, padded) => {
    const inputs = [
      random(2, 4, queries, 8),
      random(2, 2, keys, 8),
      random(2, 2, keys, 8),
      ...(padded ? [padding.clone()] : []),
    ];
    return compare(
      { kind: 'attention', options, inputs, run: ([q, k, v, mask]) => attention(q!, k!, v!, { ...options, mask }) },
      tolerance,
    );
  });

  test('attention with an added mask for each query', () =>
    compare(
      {
        kind: 'attention',
        options: { causal: true },
        inputs: [random(2, 4, 4, 8), random(2, 4, 4, 8), random(2, 4, 4, 8), random(2, 4, 4)],
        constant: [3],
        run: ([q, k, v, mask]) => attention(q!, k!, v!, { causal: true, mask }),
      },
      tolerance,
    ));

  test.each([
    [{ heads: 4, kvHeads: 4, causal: true }, true],
    [{ heads: 4, kvHeads: 2, causal: false }, false],
  ])('SelfAttention %o, bias %s', (options, bias) => {
    const module = new SelfAttention({ size: 16, bias, dtype, ...options });
    return compare(
      {
        kind: 'SelfAttention',
        options,
        module,
        inputs: [random(2, 4, 16), padding.clone()],
        run: ([x, mask]) => module.forward(x!, { mask }),
      },
      tolerance,
    );
  });
});

test('a mask of ones changes nothing', () => {
  const q = randn([1, 2, 3, 4]);
  const mask = ones([1, 3], { dtype: 'bool' });
  expect(ops.allclose(attention(q, q, q, { mask }), attention(q, q, q), { atol: 1e-6 })).toBe(true);
});
