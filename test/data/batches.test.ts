// Batches: the same global batch however it is split, nothing lost or doubled, exact resume, packing, padding.
import { fc, test as property } from '@fast-check/vitest';
import { describe, expect, it } from 'vitest';
import { type BatchOptions, BatchSource, collate, type Step } from '../../lib/data/batches.js';
import type { Example } from '../../lib/data/encode.js';
import { exampleSequences, pack, packedSequences, type SequenceSet } from '../../lib/data/sequences.js';
import { textBlocks } from '../../lib/data/text-blocks.js';

/** Example i: `length` tokens that all are i + 1, of which the last `learned` have labels. */
const example = (i: number, length: number, learned = length - 1): Example => ({
  ids: new Int32Array(length).fill(i + 1),
  labels: Int32Array.from({ length }, (_, t) => (t < length - learned ? -100 : i + 1)),
  source: { file: 'f', line: i + 1 },
});
const many = (count: number) => Array.from({ length: count }, (_, i) => example(i, 2 + (i % 5)));
const steps = (set: SequenceSet, options: BatchOptions) => [...new BatchSource(set, { epochs: 1, ...options })];
/** The first tokens of the real rows of all micro-batches: which examples a rank computed. */
const rows = (step: Step) =>
  step.microBatches.flatMap(({ ids, shape, sequences }) =>
    Array.from({ length: sequences }, (_, row) => Number(ids[row * shape[1]]) - 1),
  );
const sorted = (values: Iterable<number>) => [...values].sort((a, b) => a - b);

describe('sharding', () => {
  it('shows 1 rank x 6 and 3 ranks x 2 the same records in the same step', () => {
    const set = exampleSequences(many(20));
    const one = steps(set, { microBatch: 6, seed: 3 });
    const three = [0, 1, 2].map((rank) => steps(set, { microBatch: 2, rank, worldSize: 3, seed: 3 }));
    expect(one).toHaveLength(4);
    for (const [s, step] of one.entries()) {
      expect(sorted(three.flatMap((ranks) => rows(ranks[s]!)))).toEqual(sorted(rows(step)));
      for (const ranks of three) {
        expect(ranks[s]).toMatchObject({ labelledTokens: step.labelledTokens, indexes: step.indexes });
      }
    }
  });

  const shape = {
    count: fc.integer({ min: 1, max: 60 }),
    worldSize: fc.integer({ min: 1, max: 7 }),
    microBatch: fc.integer({ min: 1, max: 5 }),
    gradAccum: fc.integer({ min: 1, max: 4 }),
    seed: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
    shuffle: fc.boolean(),
  };

  property.prop([fc.record(shape)])('loses and doubles nothing in an epoch, and keeps the ranks in step', (options) => {
    const { count, worldSize, microBatch } = options;
    const set = exampleSequences(many(count));
    const ranks = Array.from({ length: worldSize }, (_, rank) => steps(set, { ...options, rank }));
    expect(sorted(ranks.flatMap((list) => list.flatMap(rows)))).toEqual(Array.from({ length: count }, (_, i) => i));
    for (const [s, step] of ranks[0]!.entries()) {
      const mine = ranks.map((list) => list[s]!);
      expect(new Set(mine.map((one) => one.microBatches.length)).size).toBe(1);
      const shares = mine.map((one) => rows(one).length);
      expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(1);
      const labelled = mine.flatMap((one) => one.microBatches.map((batch) => batch.labelledTokens));
      expect(labelled.reduce((a, b) => a + b)).toBe(step.labelledTokens);
      for (const { microBatches } of mine) {
        for (const batch of microBatches) expect(batch.sequences).toBeLessThanOrEqual(microBatch);
      }
    }
  });

  property.prop([fc.record(shape), fc.nat(200), fc.integer({ min: 1, max: 7 })])(
    'resumes anywhere, with the same steps and on another number of ranks without loss',
    (options, stop, otherWorld) => {
      const set = exampleSequences(many(options.count));
      const settings = { ...options, epochs: 3 };
      const all = [...new BatchSource(set, settings)];
      const first = new BatchSource(set, settings);
      const seen: number[] = [];
      for (let s = 0; s < stop % (all.length + 1); s++) seen.push(...first.next()!.indexes);
      const position = JSON.parse(JSON.stringify(first.position()));
      const same = new BatchSource(set, settings);
      same.seek(position);
      expect([...same]).toEqual(all.slice(stop % (all.length + 1)));
      const other = new BatchSource(set, { ...settings, worldSize: otherWorld });
      other.seek(position);
      for (const step of other) seen.push(...step.indexes);
      expect(sorted(seen)).toEqual(sorted(all.flatMap((step) => step.indexes)));
    },
  );

  it('gives a rank without records a batch of filling', () => {
    const [step] = steps(exampleSequences(many(1)), { microBatch: 2, rank: 1, worldSize: 2, padId: 7 });
    expect(step!.microBatches).toEqual([
      {
        shape: [1, 1],
        ids: BigInt64Array.of(7n),
        targets: BigInt64Array.of(-100n),
        mask: Uint8Array.of(0),
        documentIds: null,
        positionIds: null,
        labelledTokens: 0,
        sequences: 0,
      },
    ]);
    expect(step).toMatchObject({ sequences: 1, labelledTokens: 1 });
  });
});

describe('order', () => {
  const order = (options: Partial<BatchOptions>) =>
    steps(exampleSequences(many(40)), { microBatch: 40, ...options }).map((step) => step.indexes);

  it('depends on the seed and the epoch alone', () => {
    expect(order({ seed: 1 })).toEqual(order({ seed: 1 }));
    expect(order({ seed: 1 })).not.toEqual(order({ seed: 2 }));
    expect(order({ seed: 1 })).not.toEqual(order({ seed: 1 + 2 ** 32 }));
    const [first, second] = order({ seed: 1, epochs: 2 });
    expect(first).not.toEqual(second);
    expect(sorted(first!)).toEqual(sorted(second!));
  });

  it('is the order of the file without shuffling', () => {
    expect(order({ shuffle: false })).toEqual([Array.from({ length: 40 }, (_, i) => i)]);
  });

  it('is pinned: checkpoints of older versions must go on as they would have', () => {
    const [step] = steps(exampleSequences(many(10)), { microBatch: 10, seed: 42 });
    expect(step!.indexes).toEqual(PINNED);
  });
});
const PINNED = [1, 0, 6, 5, 3, 4, 7, 8, 2, 9];

describe('epochs', () => {
  it.each([
    [1, 4],
    [2, 8],
    [0.5, 2],
    [1.3, 6],
  ])('%d epochs are %d steps', (epochs, expected) => {
    const source = new BatchSource(exampleSequences(many(10)), { microBatch: 3, epochs });
    expect(source.totalSteps).toBe(expected);
    const all = [...source];
    expect(all.map((step) => step.step)).toEqual(Array.from({ length: expected }, (_, i) => i + 1));
    expect(all.map((step) => step.epoch)).toEqual(Array.from({ length: expected }, (_, i) => Math.floor(i / 4)));
    expect(source.next()).toBeNull();
  });

  it('never end without a number', () => {
    const source = new BatchSource(exampleSequences(many(2)), { microBatch: 2 });
    expect(source.totalSteps).toBe(Number.POSITIVE_INFINITY);
    for (let s = 0; s < 10; s++) expect(source.next()).not.toBeNull();
  });
});

it('counts the global batch', () => {
  const source = new BatchSource(exampleSequences(many(50)), { microBatch: 2, gradAccum: 3, rank: 1, worldSize: 4 });
  expect([source.globalBatch, source.stepsPerEpoch]).toEqual([24, 3]);
  expect(source.next()!.microBatches).toHaveLength(3);
});

it('fills short rows and shifts the targets', () => {
  const set = exampleSequences([example(0, 3, 1), example(1, 2)]);
  const [step] = steps(set, { microBatch: 2, shuffle: false, padId: 9 });
  expect(step!.microBatches[0]).toMatchObject({
    shape: [2, 3],
    ids: BigInt64Array.of(1n, 1n, 1n, 2n, 2n, 9n),
    targets: BigInt64Array.of(-100n, 1n, -100n, 2n, -100n, -100n),
    mask: Uint8Array.of(1, 1, 1, 1, 1, 0),
    labelledTokens: 2,
  });
});

describe('packing', () => {
  it('joins documents that do not see each other', () => {
    const set = packedSequences([example(0, 3), example(1, 2), example(2, 4)], 5);
    expect([set.count, set.packed]).toEqual([2, true]);
    const [step] = steps(set, { microBatch: 2, shuffle: false });
    expect(step!.microBatches[0]).toMatchObject({
      shape: [2, 5],
      ids: BigInt64Array.of(1n, 1n, 1n, 2n, 2n, 3n, 3n, 3n, 3n, 0n),
      targets: BigInt64Array.of(1n, 1n, -100n, 2n, -100n, 3n, 3n, 3n, -100n, -100n),
      documentIds: Int32Array.of(0, 0, 0, 1, 1, 0, 0, 0, 0, -1),
      positionIds: BigInt64Array.of(0n, 1n, 2n, 0n, 1n, 0n, 1n, 2n, 3n, 0n),
    });
    expect(step!.labelledTokens).toBe(6);
  });

  property.prop([fc.array(fc.integer({ min: 1, max: 16 }), { minLength: 1, maxLength: 80 })])(
    'keeps every example once within the capacity',
    (lengths) => {
      const groups = pack(lengths, 16);
      expect(sorted(groups.flat())).toEqual(lengths.map((_, i) => i));
      const fill = groups.map((group) => group.reduce((sum, i) => sum + lengths[i]!, 0));
      expect(Math.max(...fill)).toBeLessThanOrEqual(16);
      expect(fill.filter((total) => total <= 8).length).toBeLessThanOrEqual(1); // two of them would have been one
    },
  );

  it('refuses an example that does not fit', () => {
    expect(() => packedSequences([example(0, 6)], 5)).toThrow(/at most 5 tokens to pack, got 6/);
  });
});

describe('text blocks', () => {
  const tokens = Int32Array.from({ length: 24 }, (_, i) => i);

  it('predict every token but the first once in a sequential epoch', () => {
    const all = steps(textBlocks(tokens, { seqLen: 5 }), { microBatch: 2 });
    const targets = all.flatMap((step) => step.microBatches.flatMap((batch) => [...batch.targets].map(Number)));
    expect(sorted(targets.filter((target) => target !== -100))).toEqual([...tokens.slice(1)]);
    expect(all.reduce((sum, step) => sum + step.labelledTokens, 0)).toBe(23);
  });

  it('come from random places that the seed and the epoch decide', () => {
    const starts = (seed: number, order: 'random' | 'sequential' = 'random') => {
      const set = textBlocks(tokens, { seqLen: 5, order, seed });
      return [0, 1].map((epoch) => Array.from({ length: set.count }, (_, i) => set.get(i, epoch).ids[0]));
    };
    expect(starts(1)).toEqual(starts(1));
    expect(starts(1)).not.toEqual(starts(2));
    expect(starts(1)[0]).not.toEqual(starts(1)[1]);
    expect(starts(1, 'sequential')).toEqual([
      [0, 5, 10, 15, 20],
      [0, 5, 10, 15, 20],
    ]);
    const { ids, targets } = textBlocks(tokens, { seqLen: 5, order: 'random' }).get(0, 0);
    expect([...targets]).toEqual([...ids].map((id) => id + 1));
  });

  it('take 16-bit tokens and texts shorter than a block, and refuse less than two tokens', () => {
    expect(textBlocks(Uint16Array.of(1, 2, 3), { seqLen: 9 }).get(0, 0).ids).toEqual(Int32Array.of(1, 2));
    expect(textBlocks(Uint16Array.of(1, 2, 3), { seqLen: 9, order: 'random' }).count).toBe(1);
    expect(() => textBlocks(Int32Array.of(1), { seqLen: 4 })).toThrow(/at least two tokens, got 1/);
    expect(() => textBlocks(tokens, { seqLen: 0 })).toThrow(/seqLen/);
  });
});

describe('misuse', () => {
  const set = exampleSequences(many(4));

  it.each([
    [{ microBatch: 0 }, /microBatch .* got 0/],
    [{ microBatch: 1.5 }, /microBatch .* got 1\.5/],
    [{ microBatch: 1, gradAccum: 0 }, /gradAccum/],
    [{ microBatch: 1, rank: 2, worldSize: 2 }, /rank below worldSize 2, got 2/],
    [{ microBatch: 1, worldSize: 0 }, /worldSize/],
    [{ microBatch: 1, rank: -1 }, /rank/],
    [{ microBatch: 1, seed: -1 }, /seed/],
    [{ microBatch: 1, padId: -1 }, /padId/],
    [{ microBatch: 1, epochs: 0 }, /epochs/],
    [{ microBatch: 1, epochs: Number.NaN }, /epochs/],
  ])('%j is refused', (options, message) => {
    expect(() => new BatchSource(set, options)).toThrow(expect.objectContaining({ code: 'BAD_ARGUMENT' }));
    expect(() => new BatchSource(set, options)).toThrow(message);
  });

  it('no examples are refused', () => {
    expect(() => exampleSequences([])).toThrow(/at least one example/);
    expect(() => packedSequences([], 4)).toThrow(/at least one example/);
  });

  it('positions of other data, another seed, or nonsense are refused', () => {
    const source = new BatchSource(set, { microBatch: 1, seed: 5 });
    const position = source.position();
    const refused = (change: object) => () => source.seek({ ...position, ...change });
    expect(refused({ seed: 6 })).toThrow(/seed 6, this run has 5/);
    expect(refused({ fingerprint: 1 })).toThrow(/other training data/);
    expect(refused({ offset: 5 })).toThrow(/within 4 sequences/);
    expect(refused({ epoch: -1 })).toThrow(expect.objectContaining({ code: 'BAD_CHECKPOINT' }));
    const others = [
      exampleSequences(many(3)),
      packedSequences(many(4), 9),
      exampleSequences([...many(3), example(3, 5, 1)]),
    ];
    for (const other of others) expect(other.fingerprint).not.toBe(set.fingerprint);
    const text = Int32Array.of(1, 2, 3, 4);
    const blocks = [{ seqLen: 2 }, { seqLen: 3 }, { seqLen: 2, order: 'random' as const }];
    expect(new Set(blocks.map((options) => textBlocks(text, options).fingerprint)).size).toBe(3);
  });
});

it('makes one row of filling out of no sequences', () => {
  expect(collate([], 3, true)).toMatchObject({ shape: [1, 1], documentIds: Int32Array.of(-1), sequences: 0 });
});
