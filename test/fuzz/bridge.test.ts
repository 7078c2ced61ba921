// The short form of the soak: a few thousand random calls of random ops in child processes; no death, no nameless error, no
// leak. The long form is `npm run soak`.
import { expect, test } from 'vitest';
import { runChild } from './runner.js';
import { faultsOfOutcome } from './verdict.js';

test.each([101, 102])('seed %i: 2,500 random calls', { timeout: 180_000 }, async (seed) => {
  const run = await runChild(seed, 2500);
  expect(faultsOfOutcome(run)).toEqual([]);
  // Enough of them must reach a kernel, or the fuzzer fuzzes nothing.
  expect(run.outcome!.succeeded).toBeGreaterThan(300);
});

test('a death would be noticed and named', async () => {
  const run = await runChild(1, 50, '^aten::no_such_op$');
  expect(faultsOfOutcome(run)[0]).toContain('the process ended');
  expect(faultsOfOutcome({ seed: 1, how: 'SIGSEGV', call: 'aten::x()' })).toEqual([
    'seed 1: the process ended (SIGSEGV) in aten::x()',
  ]);
});
