// Held-out data: how much, which, and always the same.
import { fc, test as property } from '@fast-check/vitest';
import { expect, it } from 'vitest';
import { splitRecords, splitTail } from '../../lib/data/split.js';

const items = Array.from({ length: 50 }, (_, i) => i);

property.prop([fc.integer({ min: 2, max: 200 }), fc.double({ min: 0, max: 0.5, noNaN: true }), fc.nat()])(
  'loses and doubles nothing, and keeps the order',
  (count, fraction, seed) => {
    const { train, heldOut } = splitRecords(
      Array.from({ length: count }, (_, i) => i),
      fraction,
      seed,
    );
    expect(heldOut).toHaveLength(fraction === 0 ? 0 : Math.max(1, Math.round(count * fraction)));
    expect([...train, ...heldOut].sort((a, b) => a - b)).toEqual(Array.from({ length: count }, (_, i) => i));
    for (const part of [train, heldOut]) expect(part).toEqual([...part].sort((a, b) => a - b));
  },
);

it('depends on the seed', () => {
  expect(splitRecords(items, 0.2, 1)).toEqual(splitRecords(items, 0.2, 1));
  expect(splitRecords(items, 0.2, 1).heldOut).not.toEqual(splitRecords(items, 0.2, 2).heldOut);
});

it('holds out the tail of a text', () => {
  const { train, heldOut } = splitTail(Int32Array.of(1, 2, 3, 4, 5), 0.4);
  expect([[...train], [...heldOut]]).toEqual([
    [1, 2, 3],
    [4, 5],
  ]);
});

it('refuses fractions that leave nothing or mean nothing', () => {
  for (const fraction of [-0.1, 1, Number.NaN])
    expect(() => splitRecords(items, fraction, 0)).toThrow(/from 0 to below 1/);
  expect(() => splitRecords([1], 0.1, 0)).toThrow(/leaves nothing/);
});
