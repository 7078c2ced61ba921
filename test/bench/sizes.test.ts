// Sizes as they are written, sweeps, and what a benchmark cannot be asked for.
import { describe, expect, it } from 'vitest';
import { combinations, planBench, rootsOf } from '../../lib/bench/options.js';
import { parseSize, sweep } from '../../lib/bench/sizes.js';

describe('parseSize', () => {
  it.each([
    ['8', 8],
    ['64K', 65_536],
    ['64k', 65_536],
    ['1.5M', 1_572_864],
    ['2G', 2_147_483_648],
  ])('%s is %d bytes', (text, bytes) => expect(parseSize(text)).toBe(bytes));

  it.each(['', '0', '-8', '8KB', '1.3', '1e3', 'many', '9999999999G'])('refuses %j', (text) => {
    expect(() => parseSize(text, '--minbytes')).toThrow(
      /expected --minbytes as whole bytes above 0, received .*; write it/,
    );
  });
});

describe('sweep', () => {
  it('multiplies, or adds, and ends at the largest size', () => {
    expect(sweep({ minBytes: 8, maxBytes: 64, stepFactor: 2 })).toEqual([8, 16, 32, 64]);
    expect(sweep({ minBytes: 8, maxBytes: 64, stepFactor: 3 })).toEqual([8, 24]);
    expect(sweep({ minBytes: 4, maxBytes: 7, stepFactor: 1.1 })).toEqual([4, 5, 6, 7]);
    expect(sweep({ minBytes: 8, maxBytes: 32, stepFactor: 2, stepBytes: 12 })).toEqual([8, 20, 32]);
    expect(sweep({ minBytes: 8, maxBytes: 8, stepFactor: 2 })).toEqual([8]);
  });

  it.each([
    [{ minBytes: 8, maxBytes: 4, stepFactor: 2 }, /--maxbytes of at least --minbytes, received 4 below 8; raise -e/],
    [{ minBytes: 8, maxBytes: 64, stepFactor: 1 }, /--stepfactor above 1, received 1; use 2/],
    [{ minBytes: 1, maxBytes: 100_000, stepFactor: 2, stepBytes: 1 }, /at most 10000 sizes/],
  ])('refuses %j', (options, message) => expect(() => sweep(options)).toThrow(message));
});

describe('planBench', () => {
  it("has nccl-tests' words and these defaults", () => {
    const plan = planBench({ operation: 'all_reduce' });
    expect(plan).toMatchObject({ iters: 20, warmupIters: 5, check: 1, ops: ['sum'], types: ['float'], root: 0 });
    expect([plan.sizes[0], plan.sizes.at(-1), plan.sizes.length]).toEqual([8, 64 * 2 ** 20, 24]);
  });

  it('spells out all, and leaves out averages of whole numbers', () => {
    const plan = planBench({ operation: 'reduce', op: 'all', datatype: 'all', root: 'all' });
    expect(plan.types).toHaveLength(8);
    expect(combinations(plan)).toHaveLength(8 * 5 - 4);
    expect(rootsOf(plan, 3)).toEqual([0, 1, 2]);
    expect(planBench({ operation: 'alltoall', op: 'all' }).ops).toEqual(['none']);
    expect(rootsOf(planBench({ operation: 'all_gather' }), 3)).toEqual([-1]);
  });

  it.each([
    [{ operation: 'allreduce' }, /the operation to be one of all_reduce, .*scatter, received "allreduce"; see/],
    [{ operation: 'toString' }, /received "toString"/],
    [{ operation: 'all_reduce', op: 'product' }, /--op to be one of sum, prod, min, max, avg, all, received "product"/],
    [{ operation: 'all_reduce', datatype: 'fp8' }, /--datatype to be one of float, .*all, received "fp8"/],
    [{ operation: 'all_reduce', op: 'avg', datatype: 'int8' }, /a floating --datatype for --op avg, received "int8"/],
    [{ operation: 'reduce', root: '-1' }, /--root as a whole number of at least 0, or all, received "-1"/],
    [{ operation: 'all_reduce', iters: 0 }, /--iters as a whole number of at least 1, received 0/],
    [{ operation: 'all_reduce', warmupIters: -1 }, /--warmup_iters/],
    [{ operation: 'all_reduce', check: 0.5 }, /--check/],
  ])('refuses %j', (options, message) => {
    expect(() => planBench(options)).toThrow(
      expect.objectContaining({ code: 'BAD_ARGUMENT', message: expect.stringMatching(message) }),
    );
  });

  it('knows what a group is too small for', () => {
    expect(() => rootsOf(planBench({ operation: 'reduce', root: '2' }), 2)).toThrow(
      /--root from 0 to 1, or all, received 2/,
    );
    expect(() => rootsOf(planBench({ operation: 'sendrecv' }), 1)).toThrow(
      /two ranks or more for sendrecv, received 1/,
    );
  });
});
