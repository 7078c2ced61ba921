// Attention against a plain loop over heads, queries and keys; each option, and misuse.
import { beforeEach, describe, expect, test } from 'vitest';
import { manualSeed, ones, randn, type Tensor, tensor } from '../../lib/core/index.js';
import { type AttentionOptions, attention, SelfAttention } from '../../lib/nn/index.js';
import { gradError, leaf } from './gradcheck.js';

type Heads = number[][][][];

/** softmax(scale q k^T + bias) v in numbers; bias(b, h, i, j) is -Infinity where key j is hidden from query i. */
function byHand(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  bias: (b: number, h: number, i: number, j: number) => number,
  scale?: number,
) {
  const [Q, K, V] = [q.toArray() as Heads, k.toArray() as Heads, v.toArray() as Heads];
  const factor = scale ?? 1 / Math.sqrt(q.shape[3]!);
  return Q.map((heads, b) =>
    heads.map((queries, h) => {
      const g = Math.floor((h * K[b]!.length) / heads.length);
      return queries.map((query, i) => {
        const scores = K[b]![g]!.map(
          (key, j) => factor * key.reduce((sum, x, d) => sum + x * query[d]!, 0) + bias(b, h, i, j),
        );
        const weights = scores.map((s) => Math.exp(s));
        const total = weights.reduce((sum, w) => sum + w, 0);
        return query.map((_, d) =>
          total === 0 ? 0 : weights.reduce((sum, w, j) => sum + w * V[b]![g]![j]![d]!, 0) / total,
        );
      });
    }),
  );
}

const numbers = (values: unknown): number[] => (values as unknown[]).flat(4) as number[];

function expectSame(actual: Tensor, expected: unknown): void {
  const [a, b] = [numbers(actual.toArray()), numbers(expected)];
  expect(a).toHaveLength(b.length);
  a.forEach((x, i) => {
    expect(x).toBeCloseTo(b[i]!, 10);
  });
}

const make = (heads: number, length: number): Tensor => randn([2, heads, length, 4], { dtype: 'float64' });
const open = (): number => 0;

beforeEach(() => manualSeed(3));

describe('attention', () => {
  test('full, and with a scale of its own', () => {
    const [q, k, v] = [make(2, 3), make(2, 5), make(2, 5)];
    expectSame(attention(q, k, v), byHand(q, k, v, open));
    expectSame(attention(q, k, v, { scale: 0.3 }), byHand(q, k, v, open, 0.3));
  });

  test('causal; with fewer queries than keys they are the last ones', () => {
    const hide = (offset: number) => (_b: number, _h: number, i: number, j: number) =>
      j <= i + offset ? 0 : -Infinity;
    const [k, v] = [make(2, 5), make(2, 5)];
    for (const length of [5, 3, 1]) {
      const q = make(2, length);
      expectSame(attention(q, k, v, { causal: true }), byHand(q, k, v, hide(5 - length)));
    }
  });

  test('grouped heads', () => {
    const [q, k, v] = [make(4, 3), make(2, 3), make(2, 3)];
    expectSame(attention(q, k, v), byHand(q, k, v, open));
    expectSame(
      attention(q, k, v, { causal: true }),
      byHand(q, k, v, (_b, _h, i, j) => (j <= i ? 0 : -Infinity)),
    );
  });

  const bias = (rows: boolean[][]) => (b: number, _h: number, _i: number, j: number) => (rows[b]![j] ? 0 : -Infinity);
  const padding = [
    [true, true, false],
    [true, true, true],
  ];

  test('a padding mask, alone and with causal, as bool and as numbers', () => {
    const [q, k, v] = [make(2, 3), make(2, 3), make(2, 3)];
    const asBool = tensor(padding);
    const asNumbers = tensor(
      padding.map((row) => row.map((x) => (x ? 0 : -Infinity))),
      { dtype: 'float64' },
    );
    const causal = (b: number, h: number, i: number, j: number) => (j <= i ? bias(padding)(b, h, i, j) : -Infinity);
    for (const mask of [asBool, asNumbers]) {
      expectSame(attention(q, k, v, { mask }), byHand(q, k, v, bias(padding)));
      expectSame(attention(q, k, v, { mask, causal: true }), byHand(q, k, v, causal));
    }
  });

  test('masks of three and four dimensions, and numbers that are added', () => {
    const [q, k, v] = [make(2, 3), make(2, 3), make(2, 3)];
    const added = randn([2, 3, 3], { dtype: 'float64' });
    const rows = added.toArray() as number[][][];
    expectSame(
      attention(q, k, v, { mask: added }),
      byHand(q, k, v, (b, _h, i, j) => rows[b]![i]![j]!),
    );
    const perHead = randn([1, 2, 1, 3], { dtype: 'float64' });
    const heads = perHead.toArray() as Heads;
    expectSame(
      attention(q, k, v, { mask: perHead }),
      byHand(q, k, v, (_b, h, _i, j) => heads[0]![h]![0]![j]!),
    );
  });

  test('a query that may see nothing gives zeros', () => {
    const [q, k, v] = [make(1, 2), make(1, 2), make(1, 2)];
    const mask = tensor([
      [false, false],
      [true, true],
    ]);
    expect(numbers(attention(q, k, v, { mask }).get(0).toArray())).toEqual(Array(8).fill(0));
  });

  test('dropout drops weights', () => {
    const q = make(2, 3);
    const plain = numbers(attention(q, q, q).toArray());
    expect(numbers(attention(q, q, q, { dropout: 0.5 }).toArray())).not.toEqual(plain);
    expect(numbers(attention(q, q, q, { dropout: 0 }).toArray())).toEqual(plain);
  });

  test('gradients', () => {
    const [q, k, v] = [leaf(1, 2, 3, 2), leaf(1, 1, 3, 2), leaf(1, 1, 3, 2)];
    const options: AttentionOptions[] = [{}, { causal: true }, { mask: tensor([[true, true, false]]), causal: true }];
    for (const option of options) expect(gradError(() => attention(q, k, v, option), [q, k, v])).toBeLessThan(1e-7);
  });

  test('misuse', () => {
    const q = make(4, 3);
    expect(() => attention(q, make(3, 3), make(3, 3))).toThrow(
      /H a multiple of G; received \[2, 4, 3, 4\], \[2, 3, 3, 4\]/,
    );
    expect(() => attention(q.get(0), q, q)).toThrow(/expected q \(B, H, T, D\)/);
    expect(() => attention(q, q, q, { mask: ones([4, 4], { dtype: 'bool' }) })).toThrow(
      /mask that is \(B, S\).*\[4, 4\]/,
    );
    expect(() => attention(q, q, q, { mask: ones([2, 3], { dtype: 'int64' }) })).toThrow(/received int64/);
    expect(() => attention(q, q, q, { dropout: 1 })).toThrow(/attention: dropout/);
    expect(() => attention(q, q, q, { scale: 0 })).toThrow(/attention: scale/);
  });
});

describe('SelfAttention', () => {
  const x = (): Tensor => randn([2, 3, 8], { dtype: 'float64' });

  test('has the shapes that its options say', () => {
    const layer = new SelfAttention({ size: 8, heads: 4, kvHeads: 2, bias: false, dtype: 'float64' });
    expect(layer.key.weight.shape).toEqual([4, 8]);
    expect(layer.value.weight.shape).toEqual([4, 8]);
    expect(layer.query.bias).toBeNull();
    expect(new SelfAttention({ size: 8, heads: 2 }).output.bias!.shape).toEqual([8]);
    expect(new SelfAttention({ size: 8, heads: 2, device: 'meta' }).query.weight.device).toBe('meta');
    expect(layer.forward(x()).shape).toEqual([2, 3, 8]);
    expect(layer.extraRepr()).toBe('heads=4, kvHeads=2, causal=true, dropout=0');
  });

  test('causal: the past does not see the future', () => {
    const input = x();
    for (const causal of [true, false]) {
      const layer = new SelfAttention({ size: 8, heads: 2, causal, dtype: 'float64' });
      const whole = numbers(layer.forward(input).get('...', 0, null, 0).toArray());
      const short = numbers(
        layer
          .forward(input.narrow(1, 0, 1))
          .get('...', 0, null, 0)
          .toArray(),
      );
      if (causal) expect(short[0]).toBeCloseTo(whole[0]!, 12);
      else expect(Math.abs(short[0]! - whole[0]!)).toBeGreaterThan(1e-6);
    }
  });

  test('mask and dropout are passed on; dropout only while training', () => {
    const layer = new SelfAttention({ size: 8, heads: 2, dropout: 0.5, causal: false, dtype: 'float64' }).eval();
    const input = x();
    const plain = numbers(layer.forward(input).toArray());
    expect(numbers(layer.forward(input).toArray())).toEqual(plain);
    const mask = tensor([
      [true, true, false],
      [true, true, true],
    ]);
    expect(numbers(layer.forward(input, { mask }).toArray())).not.toEqual(plain);
    expect(numbers(layer.train().forward(input).toArray())).not.toEqual(plain);
  });

  test('gradients', () => {
    const layer = new SelfAttention({ size: 4, heads: 2, kvHeads: 1, dtype: 'float64' });
    const input = leaf(1, 3, 4);
    expect(gradError(() => layer.forward(input), [input, ...layer.parameters()])).toBeLessThan(1e-7);
  });

  test('misuse', () => {
    expect(() => new SelfAttention({ size: 8, heads: 3 })).toThrow(/size 8, heads 3, kvHeads 3/);
    expect(() => new SelfAttention({ size: 8, heads: 4, kvHeads: 3 })).toThrow(/kvHeads 3/);
    expect(() => new SelfAttention({ size: 8, heads: 4, dropout: 2 })).toThrow(/SelfAttention: dropout/);
  });
});
