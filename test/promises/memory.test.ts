// Promise: what a rank holds of a sharded model is ZeRO's formula, by our own count and by the kernel's, and all of it is
// given back. The short form of `npm run bench -- memory`, on 58 million parameters.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';

interface Result {
  stage: number;
  formula: number;
  bound: number;
  moments: Record<string, { counted: number; resident: number }>;
}

it.runIf(process.platform === 'linux')(
  'stages 1, 2 and 3 on two ranks',
  async () => {
    // With a fixed threshold glibc keeps no freed blocks from 4 MiB up, so that the kernel counts what is in use.
    const heap = { MALLOC_MMAP_THRESHOLD_: String(4 << 20) };
    const env = { ...process.env, ...heap, SHARDLOOP_BENCH_SHAPE: '8,640,10,28000' };
    const args = ['--import', 'tsx', 'bench/index.ts', 'memory', '--json'];
    const { stdout } = await promisify(execFile)(process.execPath, args, { env, maxBuffer: 2 ** 24 });
    const { details: results } = JSON.parse(stdout) as { details: Result[] };
    expect(results.map(({ stage }) => stage)).toEqual([1, 2, 3]);
    for (const { stage, formula, bound, moments } of results) {
      const [peak, rest, freed] = ['peak', 'trimmed', 'freed'].map((kind) =>
        kind === 'freed' ? moments['all of it freed, trimmed'] : moments[`two more steps, ${kind}`],
      );
      expect(peak!.counted, `peak of stage ${stage}`).toBeLessThan(bound);
      expect(peak!.counted, `peak of stage ${stage}`).toBeGreaterThan(formula);
      expect(Math.abs(peak!.resident / peak!.counted - 1), `peak of stage ${stage}`).toBeLessThan(0.05);
      expect(Math.abs(rest!.resident / rest!.counted - 1), `stage ${stage} at rest`).toBeLessThan(0.05);
      expect(freed!.counted, `stage ${stage}, freed`).toBeLessThan(1e6);
      expect(freed!.resident, `stage ${stage}, freed`).toBeLessThan(0.06 * formula);
    }
  },
  120_000,
);
