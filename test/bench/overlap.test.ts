// The bench of hidden communication, on a tiny model: its report has each case that was asked for, with what each waits for.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import type { Report } from '../../bench/harness.js';

const bench = (env: Record<string, string>) =>
  promisify(execFile)(process.execPath, ['--import', 'tsx', 'bench/index.ts', 'overlap', '--json'], {
    env: { ...process.env, SHARDLOOP_BENCH_SHAPE: '2,64,2,256', SHARDLOOP_BENCH_ROUNDS: '2', ...env },
  });

it('npm run bench -- overlap', { timeout: 60_000 }, async () => {
  const cases = ['replicate-shm-1', 'stage2-gloo-2'];
  const { stdout } = await bench({ SHARDLOOP_BENCH_CASES: cases.join() });
  const report = JSON.parse(stdout) as Report & { details: Record<string, { where: string; ms: number }[]> };
  expect(report.rounds).toBe(2);
  expect(report.timings.map(({ name }) => name)).toEqual(cases);
  expect(Object.keys(report.ratios)).toHaveLength(2 * cases.length);
  for (const name of cases) {
    const hidden = `${name}: hidden, of the communication`;
    expect(report.goals[hidden]).toEqual({ atLeast: 0.7 });
    expect(report.ratios[hidden]).toBeGreaterThan(0);
    expect(report.ratios[hidden]).toBeLessThanOrEqual(1);
  }
  const waits = cases.map((name) => report.details[name]!.map(({ where }) => where));
  // "max" is how many rows of the tied table the ranks have.
  expect(waits[0]!.every((where) => /^all_reduce \((sum|max)\) behind /.test(where))).toBe(true);
  expect(waits[0]).toContain('all_reduce (sum) behind backward 0');
  expect(waits[1]).toContain('reduce_scatter (sum) behind backward 0');
  expect(waits[1]!.some((where) => where.startsWith('all_gather behind optimizer'))).toBe(true);
});

it.each(['stage4-shm-1', 'stage1-nccl-1', 'stage1-shm', 'stage1-shm-0'])('knows no case %s', async (name) => {
  await expect(bench({ SHARDLOOP_BENCH_CASES: name })).rejects.toThrow(`unknown case ${name}: expected replicate`);
});
