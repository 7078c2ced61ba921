// What is made of measurements: spreads, the fitted line, the table, CSV, charts, and the verdicts of a comparison.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { bandwidthChart } from '../../lib/bench/chart.js';
import { compareResults, comparisonText, readResults, verdictOf } from '../../lib/bench/compare.js';
import type { Measurement } from '../../lib/bench/measure.js';
import { planBench } from '../../lib/bench/options.js';
import type { BenchResult, Row } from '../../lib/bench/run.js';
import { fitLine, fitText, spread } from '../../lib/bench/statistics.js';
import { csvOf, tableFoot, tableHead, tableRow } from '../../lib/bench/table.js';

const measured = (timeUs: number, stdevUs = 0.1, wrong: number | null = 0): Measurement => ({
  ...{ timeUs, algbw: 1.5, busbw: 2.25, wrong },
  ...{ p50Us: timeUs, p99Us: timeUs, stdevUs },
});
const row = (size: number, outOfPlace: Measurement, inPlace: Measurement | null = outOfPlace): Row => ({
  ...{ size, count: size / 4, type: 'float', redop: 'sum', root: -1, outOfPlace, inPlace },
});
const result = (rows: Row[], more: Partial<BenchResult> = {}): BenchResult => ({
  ...{ operation: 'all_reduce', backend: 'gloo', ranks: 4, iters: 20, warmupIters: 5, check: 1, libtorch: '2' },
  ...{ rows, outOfBounds: 0, averageBusBandwidth: 2.25, fit: null },
  ...more,
});

describe('statistics', () => {
  it('takes percentiles by the nearest rank', () => {
    const times = Array.from({ length: 100 }, (_, i) => i + 1);
    expect(spread(times)).toMatchObject({ p50Us: 50, p99Us: 99 });
    expect(spread([3, 1, 2])).toEqual({ p50Us: 2, p99Us: 3, stdevUs: 1 });
    expect(spread([7])).toEqual({ p50Us: 7, p99Us: 7, stdevUs: 0 });
  });

  it('finds latency and bandwidth again', () => {
    const points = [8, 1024, 65_536, 2 ** 20, 2 ** 26].map((bytes) => ({ bytes, timeUs: 50 + bytes / 2000 })); // 2 GB/s
    const fit = fitLine(points)!;
    expect(fit.alphaUs).toBeCloseTo(50, 6);
    expect(fit.betaGBs).toBeCloseTo(2, 6);
    expect(fit.medianError).toBeLessThan(1e-9);
    expect(fitText(fit)).toMatch(
      /^# Hypothesis: t = alpha \+ S\/beta with alpha = 50.00 us, beta = 2.000 GB\/s; .*0.0 %$/,
    );
  });

  it('weighs relative errors: one slow large size does not bend the latency', () => {
    const points = [8, 64, 512, 4096, 2 ** 26].map((bytes) => ({ bytes, timeUs: 50 + bytes / 2000 }));
    points[4] = { bytes: 2 ** 26, timeUs: 2 * points[4]!.timeUs };
    const { alphaUs } = fitLine(points)!;
    expect(alphaUs).toBeGreaterThan(49);
    expect(alphaUs).toBeLessThan(51);
  });

  it('never makes latency or bandwidth negative, and needs two sizes', () => {
    expect(fitLine([8, 16].map((bytes) => ({ bytes, timeUs: bytes - 7 })))!.alphaUs).toBe(0);
    const falling = fitLine([8, 1024].map((bytes) => ({ bytes, timeUs: 100 / bytes })))!;
    expect(falling.betaGBs).toBeNull();
    expect(fitText(falling)).toContain('time does not grow with size');
    expect(fitLine([{ bytes: 8, timeUs: 1 }])).toBeNull();
    expect(fitText(null)).toContain('needs two sizes');
  });
});

describe('table', () => {
  const plan = planBench({ operation: 'all_reduce' });
  it("has nccl-tests' columns, twice the measured ones", () => {
    const head = tableHead(plan, { ranks: 4, backend: 'gloo' }).split('\n');
    const four = ['time', 'algbw', 'busbw', '#wrong'];
    expect(head.at(-2)!.split(/\s+/)).toEqual(['#', 'size', 'count', 'type', 'redop', 'root', ...four, ...four]);
    expect(head[0]).toContain('4 ranks, gloo; 5 warm-up and 20 timed iterations');
    const line = tableRow(row(1024, measured(12.345), measured(1234.5, 0, 3)));
    expect(line.trim().split(/\s+/)).toEqual([
      '1024',
      '256',
      'float',
      'sum',
      '-1',
      '12.35',
      '1.50',
      '2.25',
      '0',
      '1235',
      '1.50',
      '2.25',
      '3',
    ]);
    expect(line).toHaveLength(head.at(-2)!.length);
    expect(
      tableRow(row(8, measured(1, 0, null), null))
        .trim()
        .split(/\s+/)
        .slice(8),
    ).toEqual(Array(5).fill('N/A'));
  });

  it('ends with the verdict, the average and the fit', () => {
    expect(tableFoot(result([]))).toContain('# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 2.25');
    expect(tableFoot(result([], { outOfBounds: 3 }))).toContain('# Out of bounds values : 3 FAILED');
    expect(tableFoot(result([], { check: 0 }))).toContain('not checked');
  });

  it('is CSV too, a line for each place', () => {
    const lines = csvOf([result([row(8, measured(1, 0, null), null), row(16, measured(2))])])
      .trim()
      .split('\n');
    expect(lines).toHaveLength(4);
    expect(new Set(lines.map((line) => line.split(',').length))).toEqual(new Set([16]));
    expect(lines[1]).toBe('all_reduce,4,gloo,8,2,float,sum,-1,out_of_place,1,1.5,2.25,,1,1,0');
    expect(lines[3]).toContain(',in_place,2,');
  });

  it('is a chart too', async () => {
    const svg = await bandwidthChart(result([row(8, measured(1)), row(1024, measured(2), null)]));
    expect(svg).toMatch(/^<svg/);
    expect(svg).toContain('all_reduce, 4 ranks over gloo');
    expect(svg).toContain('bus bandwidth (GB/s)');
  });
});

describe('compare', () => {
  it.each([
    [100, 1, 120, 1, 'slower'],
    [100, 1, 80, 1, 'faster'],
    [100, 1, 104, 1, 'same'], // within 5 %
    [100, 30, 120, 30, 'same'], // within the deviation
    [100, 0, 120, 30, 'same'], // 30 pooled with 0 is 21
    [100, 0, 120, 20, 'slower'],
  ] as const)('%d +- %d, then %d +- %d: %s', (a, deviationA, b, deviationB, verdict) => {
    expect(verdictOf(measured(a, deviationA), measured(b, deviationB))).toBe(verdict);
  });

  it('matches rows by size, dtype, reduction, root and place', () => {
    const before = result([row(8, measured(10), measured(10)), row(16, measured(10), null), row(32, measured(10))]);
    const after = result([row(8, measured(10), measured(20)), row(16, measured(5))]);
    const comparisons = compareResults([before], [after]);
    expect(comparisons.map(({ row: { size }, place, verdict }) => [size, place, verdict])).toEqual([
      [8, 'out-of-place', 'same'],
      [8, 'in-place', 'slower'],
      [16, 'out-of-place', 'faster'],
    ]);
    expect(comparisonText(comparisons, ['a.json', 'b.json'])).toMatch(
      /# A: a.json[\s\S]* 10.00 +20.00 +2.000 {2}slower\n[\s\S]*# 1 faster, 1 slower, 1 same within noise$/,
    );
    expect(() => compareResults([before], [result([], { ranks: 2 })])).toThrow(
      /in common, received all_reduce on 4 ranks over gloo \(3 rows\) and all_reduce on 2 ranks .*; run both/,
    );
  });

  it('refuses files that are not its own', () => {
    const folder = mkdtempSync(join(tmpdir(), 'shardloop-bench-'));
    try {
      const file = join(folder, 'x.json');
      for (const text of ['', '[]', 'null', '{"results":[{"operation":"x","rows":[{}]}]}', '{"results":5}']) {
        writeFileSync(file, text);
        expect(() => readResults(file)).toThrow(/expected .*x.json to be a file that `shardloop bench --json` wrote/);
      }
      expect(() => readResults(join(folder, 'absent.json'))).toThrow(/absent.json/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
