// `shardloop bench` as a program: two ranks over Gloo for every operation, what each option changes, the files, reports,
// comparisons, and what is refused.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BenchReport, BenchResult } from '../../lib/bench/index.js';
import { isCudaAvailable } from '../../lib/core/index.js';
import { freePort } from '../dist/ranks.js';
import { inProcess, shardloop } from './run.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'shardloop-cli-bench-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const small = ['-b', '64', '-e', '64', '-n', '2', '-w', '1'];

/** Runs a benchmark and reads its JSON file. */
async function results(...args: string[]): Promise<readonly BenchResult[]> {
  const file = join(folder, 'result.json');
  rmSync(file, { force: true });
  const { code, stderr } = await shardloop(['bench', ...args, '--json', file]);
  expect([code, stderr]).toEqual([0, '']);
  return (JSON.parse(readFileSync(file, 'utf8')) as BenchReport).results;
}

describe('shardloop bench', () => {
  it('runs every operation on two ranks into one report', async () => {
    const out = join(folder, 'report');
    const { code, stdout, stderr } = await shardloop(['bench', 'all', ...small, '-d', 'bfloat16', '--out', out]);
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout.match(/# Out of bounds values : 0 OK/g)).toHaveLength(9);
    expect(stdout.match(/2 ranks, shm/g)).toHaveLength(9);
    const { results } = JSON.parse(readFileSync(join(out, 'report.json'), 'utf8')) as BenchReport;
    expect(results.map((r) => r.operation)).toEqual([
      'all_reduce',
      'all_gather',
      'reduce_scatter',
      'broadcast',
      'reduce',
      'alltoall',
      'sendrecv',
      'gather',
      'scatter',
    ]);
    const withoutInPlace = results.filter(({ rows }) => rows[0]!.inPlace === null).map((r) => r.operation);
    expect(withoutInPlace).toEqual(['alltoall', 'sendrecv']);
    const report = readFileSync(join(out, 'report.md'), 'utf8');
    for (const { operation } of results) {
      expect(readFileSync(join(out, `${operation}.svg`), 'utf8')).toContain('<svg');
      expect(report).toContain(`## ${operation}\n\n![bus bandwidth](${operation}.svg)`);
    }
    expect(readFileSync(join(out, 'report.csv'), 'utf8').trim().split('\n')).toHaveLength(1 + 7 * 2 + 2);
  });

  it('reads every option of the sweep', async () => {
    const flags = ['-b', '1K', '-e', '4K', '-f', '4', '-n', '3', '-w', '2', '-c', '0', '-o', 'max', '-d', 'int32'];
    const [result] = await results('reduce', ...flags, '-r', '1', '--backend', 'gloo');
    expect(result).toMatchObject({
      operation: 'reduce',
      ranks: 2,
      backend: 'gloo',
      iters: 3,
      warmupIters: 2,
      check: 0,
    });
    expect(result!.rows.map(({ size, count, type, redop, root }) => [size, count, type, redop, root])).toEqual([
      [1024, 256, 'int32', 'max', 1],
      [4096, 1024, 'int32', 'max', 1],
    ]);
    expect(result!.rows[0]!.outOfPlace.wrong).toBeNull();
    expect(result!.fit).not.toBeNull();
  });

  it('takes equal steps, all dtypes, reductions and roots, and the number of ranks', async () => {
    const [steps] = await results(
      'broadcast',
      '--nproc',
      '3',
      '-b',
      '8',
      '-e',
      '24',
      '-i',
      '8',
      '-n',
      '1',
      '-r',
      'all',
    );
    expect([steps!.ranks, steps!.backend]).toEqual([3, 'shm']);
    expect(steps!.rows.map(({ size, root }) => `${root}:${size}`).join(' ')).toBe(
      '0:8 0:16 0:24 1:8 1:16 1:24 2:8 2:16 2:24',
    );
    const [all] = await results('all_reduce', ...small, '-d', 'all', '-o', 'all');
    expect(all!.rows).toHaveLength(36);
    expect(all!.outOfBounds).toBe(0);
  });

  it('writes CSV and a chart, and runs alone with one rank', async () => {
    const [csv, plot] = [join(folder, 'x.csv'), join(folder, 'x.svg')];
    const args = ['bench', 'all_gather', '--nproc', '1', ...small, '--csv', csv, '--plot', plot];
    const { code, stdout } = await shardloop(args);
    expect(code).toBe(0);
    expect(stdout).toContain('1 rank, none');
    expect(readFileSync(csv, 'utf8')).toMatch(
      /^operation,ranks,.*\nall_gather,1,none,64,16,float,none,-1,out_of_place,/,
    );
    expect(readFileSync(plot, 'utf8')).toContain('all_gather, 1 ranks over none');
  });

  it('joins ranks that a launcher started, and only rank 0 prints', async () => {
    const port = String(await freePort());
    const runs = await Promise.all(
      ['0', '1'].map((rank) =>
        shardloop(['bench', 'all_reduce', '--nproc', '5', ...small], {
          env: { RANK: rank, WORLD_SIZE: '2', MASTER_ADDR: '127.0.0.1', MASTER_PORT: port },
        }),
      ),
    );
    expect(runs.map(({ code, stderr }) => [code, stderr])).toEqual([
      [0, ''],
      [0, ''],
    ]);
    expect(runs[0]!.stdout).toContain('2 ranks, gloo'); // nobody says that they are on one host
    expect(runs[1]!.stdout).toBe('');
  });
});

describe('--compare', () => {
  const place = (p50Us: number) => ({ timeUs: p50Us, algbw: 1, busbw: 1, wrong: 0, p50Us, p99Us: p50Us, stdevUs: 0.1 });
  const write = (name: string, p50Us: number): string => {
    const row = { size: 8, count: 2, type: 'float', redop: 'sum', root: -1, outOfPlace: place(p50Us), inPlace: null };
    const file = join(folder, name);
    writeFileSync(
      file,
      JSON.stringify({ results: [{ operation: 'all_reduce', ranks: 2, backend: 'gloo', rows: [row] }] }),
    );
    return file;
  };

  it('ends with 1 only where B is slower', async () => {
    const [a, b] = [write('a.json', 10), write('b.json', 20)];
    const slower = await inProcess('bench', '--compare', a, b);
    expect([slower.code, slower.stderr]).toEqual([1, '']);
    expect(slower.stdout).toContain('# 0 faster, 1 slower, 0 same within noise');
    expect((await inProcess('bench', '--compare', b, a)).code).toBe(0);
    expect((await inProcess('bench', '--compare', a, a)).stdout).toContain('1 same within noise');
    expect((await inProcess('bench', '--help')).stdout).toMatch(/exit\s+code\s+1\s+where\s+B\s+is\s+slower/);
  });
});

describe('what is refused', () => {
  it.each([
    [['bench'], 'expected an operation or --compare A.json B.json, received neither; name one, or all'],
    [['bench', 'allreduce'], 'received "allreduce"'],
    [['bench', 'all_reduce', '-b', '8KB'], 'expected --minbytes as whole bytes above 0, received "8KB"'],
    [['bench', 'all_reduce', '-e', '-1'], 'expected --maxbytes'],
    [['bench', 'all_reduce', '-b', '8', '-e', '4'], 'raise -e or lower -b'],
    [['bench', 'all_reduce', '-f', '1'], 'expected --stepfactor above 1'],
    [['bench', 'all_reduce', '-i', '0'], 'expected --stepbytes'],
    [['bench', 'all_reduce', '-n', '0'], 'whole number of at least 1'],
    [['bench', 'all_reduce', '-o', 'mean'], 'received "mean"'],
    [['bench', 'all_reduce', '-d', 'fp8'], 'received "fp8"'],
    [['bench', 'reduce', '-r', '2'], 'expected --root from 0 to 1, or all, received 2; start more ranks'],
    [['bench', 'reduce', '-r', 'x'], 'received "x"'],
    [['bench', 'sendrecv', '--nproc', '1'], 'two ranks or more for sendrecv'],
    [['bench', 'all_reduce', '--backend', 'mpi'], 'Allowed choices are gloo, shm, nccl'],
    [['bench', 'all', '--plot', 'x.svg'], 'expected --out with all, received --plot'],
    [['bench', 'all_reduce', '--out', 'x'], 'expected all with --out, received all_reduce'],
    [['bench', '--compare', 'a.json'], 'received a.json; give exactly two files'],
    [['bench', 'all_reduce', '--compare', 'a.json', 'b.json'], 'nothing to run, received all_reduce a.json b.json'],
    [['bench', '--compare', 'no-such.json', 'b.json'], 'expected no-such.json to be a file'],
  ])('%j ends with 2', async (args, text) => {
    const { code, stderr } = await inProcess(...args);
    expect(stderr).toContain(text);
    expect(code).toBe(2);
    expect(stderr).not.toMatch(/\n\s+at .*:\d+:\d+/);
  });

  it('says that there is no CUDA device, before it starts ranks', async () => {
    if (isCudaAvailable()) return;
    const { code, stderr } = await inProcess('bench', 'all_reduce', '--backend', 'nccl');
    expect(code).toBe(1);
    expect(stderr).toContain('expected a CUDA device for --backend nccl, found none; see `npx shardloop doctor`');
  });
});
