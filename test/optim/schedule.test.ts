// Schedules against their formulas, and the object that sets them on an optimizer.
import { describe, expect, test } from 'vitest';
import { AdamW, constant, cosine, linear, Schedule, SGD, wsd } from '../../lib/optim/index.js';
import { param } from './run.js';

const table = (factor: (step: number) => number, steps: number[]): number[] =>
  steps.map((s) => Number(factor(s).toFixed(10)));

describe('factors', () => {
  test('constant', () => {
    expect(table(constant(), [0, 1, 1000])).toEqual([1, 1, 1]);
    expect(table(constant({ warmup: 4 }), [0, 1, 2, 3, 4, 5])).toEqual([0.2, 0.4, 0.6, 0.8, 1, 1]);
  });

  test('linear', () => {
    expect(table(linear({ total: 10 }), [0, 1, 5, 9, 10, 99])).toEqual([1, 0.9, 0.5, 0.1, 0, 0]);
    expect(table(linear({ total: 14, warmup: 4, final: 0.5 }), [0, 3, 4, 9, 14, 15])).toEqual([
      0.2, 0.8, 1, 0.75, 0.5, 0.5,
    ]);
  });

  test('cosine', () => {
    const known = (s: number): number => 0.1 + 0.9 * 0.5 * (1 + Math.cos((Math.PI * (s - 2)) / 8));
    const steps = [2, 3, 4, 7, 9];
    expect(table(cosine({ total: 10, warmup: 2, final: 0.1 }), steps)).toEqual(table(known, steps));
    expect(table(cosine({ total: 10, warmup: 2, final: 0.1 }), [0, 1, 10, 11])).toEqual([
      0.3333333333, 0.6666666667, 0.1, 0.1,
    ]);
    expect(table(cosine({ total: 4 }), [0, 2, 4])).toEqual([1, 0.5, 0]);
  });

  test('wsd', () => {
    const options = { total: 20, warmup: 4, decay: 10 };
    expect(table(wsd(options), [0, 4, 7, 10, 11, 15, 20, 21])).toEqual([0.2, 1, 1, 1, 0.9, 0.5, 0, 0]);
    expect(table(wsd({ ...options, final: 0.2 }), [15, 20])).toEqual([0.6, 0.2]);
    expect(table(wsd({ ...options, shape: 'sqrt' }), [10, 15, 20])).toEqual([
      1,
      Number((1 - Math.sqrt(0.5)).toFixed(10)),
      0,
    ]);
    expect(table(wsd({ total: 5, decay: 0 }), [0, 4, 5])).toEqual([1, 1, 0]);
  });

  test('misuse', () => {
    expect(() => constant({ warmup: -1 })).toThrow(/warmup: expected a number of steps of at least 0, received -1/);
    expect(() => linear({ total: 1.5 })).toThrow(/linear: total/);
    expect(() => linear({ total: 3, warmup: 4 })).toThrow(/warmup of at most total \(3\), received 4/);
    expect(() => cosine({ total: 3, final: 2 })).toThrow(/cosine: expected final in \[0, 1\]/);
    expect(() => wsd({ total: 3, decay: -1 })).toThrow(/wsd: decay/);
    expect(() => wsd({ total: 10, warmup: 5, decay: 6 })).toThrow(
      /warmup \+ decay of at most total \(10\), received 11/,
    );
    expect(() => wsd({ total: 10, decay: 6, shape: 'cubic' as 'sqrt' })).toThrow(/shape to be 'linear' or 'sqrt'/);
  });
});

describe('Schedule', () => {
  const make = (): AdamW =>
    new AdamW({ lr: 0.1, groups: [{ params: [param([1])] }, { params: [param([1])], lr: 0.4 }] });

  test('scales every group from its own base rate', () => {
    const optimizer = make();
    const schedule = new Schedule(optimizer, linear({ total: 4 }));
    const rates = [];
    for (let i = 0; i < 3; i++, schedule.advance())
      rates.push(optimizer.groups.map((group) => Number(group.lr.toFixed(12))));
    expect(rates).toEqual([
      [0.1, 0.4],
      [0.075, 0.3],
      [0.05, 0.2],
    ]);
    expect(schedule.step).toBe(3);
    expect(schedule.lr).toBeCloseTo(0.025, 12);
  });

  test('resumes', () => {
    const optimizer = make();
    const schedule = new Schedule(optimizer, cosine({ total: 10, warmup: 2 }));
    for (let i = 0; i < 5; i++) schedule.advance();
    const again = make();
    const resumed = new Schedule(again, cosine({ total: 10, warmup: 2 }));
    again.loadStateDict(optimizer.stateDict());
    resumed.loadStateDict(JSON.parse(JSON.stringify(schedule.stateDict())));
    expect(again.groups[0]!.lr).toBe(optimizer.groups[0]!.lr);
    resumed.advance();
    schedule.advance();
    expect(resumed.lr).toBe(schedule.lr);
    expect(() => resumed.loadStateDict({})).toThrow(/schedule: step/);
  });

  test('refuses a factor that is no number', () => {
    expect(() => new Schedule(new SGD({ params: [param([1])] }), () => Number.NaN)).toThrow(/finite factor for step 0/);
  });
});
