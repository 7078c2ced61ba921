// Promise: the addon works in several worker threads at once, and survives their termination in the middle of an op.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect, test } from 'vitest';
import type { Report } from './workers.js';

const PROGRAM = fileURLToPath(new URL('./workers.ts', import.meta.url));

test('five workers a round, four of them terminated in mid-op', { timeout: 120_000 }, async () => {
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', PROGRAM, '5']);
  const report = JSON.parse(stdout) as Report;
  expect(report.terminated).toBe(20);
  expect(report.sums).toEqual(Array(5).fill(20_000));
  expect(report.foreign).toEqual(Array(5).fill('TENSOR_FOREIGN'));
  expect(report.handlesAfter).toBe(report.handlesBefore);
});
