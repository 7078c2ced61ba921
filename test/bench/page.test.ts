// The page of the last figures: a benchmark's block is written anew, all else stays; what the command refuses at once.
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import type { Report } from '../../bench/harness.js';
import { withBlock } from '../../bench/page.js';

const report: Report = {
  ...{ benchmark: 'step', cpu: 'A processor', cores: 2, node: 'v20.20.0', libtorch: '2.14.1', rounds: 5, timings: [] },
  ratios: { 'a: time': 0.5, 'b: time': 1.234, 'c: peak MB': 1234.5 },
  goals: { 'a: time': { atMost: 0.6 }, 'b: time': { atLeast: 1.5 } },
};

describe('withBlock', () => {
  it('writes figures with their goals and verdicts, and touches nothing else', () => {
    const page = 'Before.\n\n<!-- step -->\nold\n<!-- end of step -->\n\n<!-- zero -->\nkept\n<!-- end of zero -->\n';
    const written = withBlock(page, report, '2026-11-28');
    expect(written).toContain('2026-11-28, A processor, 2 cores, Node v20.20.0, libtorch 2.14.1, 5 rounds.');
    expect(written).toContain('| a: time | 0.50 | at most 0.6 | met |');
    expect(written).toContain('| b: time | 1.23 | at least 1.5 | **missed** |');
    expect(written).toContain('| c: peak MB | 1,235 |  |  |');
    expect(written).not.toContain('old');
    expect(written).toMatch(/^Before\./);
    expect(written.endsWith('<!-- zero -->\nkept\n<!-- end of zero -->\n')).toBe(true);
    expect(withBlock(written, report, '2026-11-28')).toBe(written);
  });

  it('refuses a page without the block', () => {
    expect(() => withBlock('text', report, '2026-11-28')).toThrow('expected a page with <!-- step -->');
  });
});

it.each([
  [['nothing'], 'there is no benchmark nothing'],
  [['--jsn'], "Unknown option '--jsn'"],
  [['step', '--page', 'missing.md'], 'there is no page missing.md'],
  [['step', '--page', 'README.md'], 'README.md has no block <!-- step -->'],
])('npm run bench -- %j is refused before anything runs', (args, text) => {
  const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'bench/index.ts', ...args], {
    encoding: 'utf8',
  });
  expect(stderr).toContain(text);
  expect(stderr).toContain('usage: npm run bench');
  expect(status).toBe(2);
});
