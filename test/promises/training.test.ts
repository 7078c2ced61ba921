// Promise: a training loop neither leaks tensors nor memory. Short here; ten thousand steps in `npm run soak`.
import { expect, test } from 'vitest';
import { runTraining } from '../fuzz/runner.js';
import { faultsOfTrace } from '../fuzz/verdict.js';

test('a thousand training steps leave live tensors and resident memory flat', { timeout: 120_000 }, async () => {
  const trace = await runTraining(1000);
  expect(trace.resident.length).toBe(20);
  expect(faultsOfTrace(trace)).toEqual([]);
});

test('a leak would be noticed', () => {
  const flat = { losses: [2, 1], handles: [5, 5, 0], bytes: [8, 8], resident: [1, 1, 1] };
  expect(faultsOfTrace(flat)).toEqual([]);
  expect(faultsOfTrace({ ...flat, handles: [5, 6, 0] })[0]).toContain('live tensors changed');
  expect(faultsOfTrace({ ...flat, handles: [5, 5, 1] })[0]).toContain('1 tensors are alive');
  expect(faultsOfTrace({ ...flat, bytes: [8, 9] })[0]).toContain('live bytes changed');
  expect(faultsOfTrace({ ...flat, resident: [1, 1, 2 ** 30] })[0]).toContain('resident memory grew');
  expect(faultsOfTrace({ ...flat, losses: [1, 2] })[0]).toContain('did not fall');
});
