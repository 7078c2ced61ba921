// The forecast against ZeRO's formulas for the states, and against what a run of the same shape takes.
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { memory } from '../../lib/core/index.js';
import type { PlanConfig } from '../../lib/train/config.js';
import { forecast, forecastTable } from '../../lib/train/forecast.js';
import type { RunSummary } from '../../lib/train/summary.js';

const MIB = 2 ** 20;
const folder = mkdtempSync(join(tmpdir(), 'shardloop-forecast-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('the states of 124 M parameters in bf16 with fp32 masters and AdamW, by ZeRO’s formulas', () => {
  const small = { seqLen: 32, microBatch: 1, precision: 'bf16', gradAccum: 2 } as const;
  // Bytes a parameter at rest on N ranks; stages 1 and 2 end alike here, since the sums live in shards in both.
  it.each([
    [0, 4, 16],
    [1, 4, 2 + 14 / 4],
    [2, 4, 2 + 14 / 4],
    [3, 4, 16 / 4],
    [3, 1024, 16 / 1024],
  ])('stage %i on %i ranks', async (zero, world, bytes) => {
    const { parameters: psi, memory: use } = await forecast({ ...small, zero, world });
    const states = use.parameters + use.optimizer + use.gradients;
    const buckets = zero === 0 ? 0 : 2 * (16 + 16 / world) * MIB; // two of the default size, and what they receive
    const padding = 64 * 16 * 14; // 16 elements a rank and unit at most
    expect(states).toBeLessThanOrEqual(1.05 * bytes * psi + buckets + padding);
    expect(states).toBeGreaterThanOrEqual(bytes * psi);
  });

  it('local accumulation holds whole gradients, as ZeRO-1’s 4 Psi + 12 Psi/N says', async () => {
    const [one, two] = [
      await forecast({ ...small, zero: 1, world: 4 }),
      await forecast({ ...small, zero: 2, world: 4 }),
    ];
    expect(one.memory.peak - two.memory.peak).toBeGreaterThan(0.5 * 2 * one.parameters * (3 / 4)); // less what is freed as the last backward goes on
    expect(one.memory.peak).toBeLessThan(1.05 * (4 + 12 / 4 + 2 / 4) * one.parameters + 60 * MIB);
  });

  it('but not the sums of a shard besides, which would be 2 Psi/N more', async () => {
    const { parameters: psi, memory: use } = await forecast({ ...small, zero: 1, world: 2 });
    const embedding = 2 * (50257 + 32) * 768; // its gradient of the last micro-batch's head, beside the sum of those before
    const buckets = 2 * (16 + 16 / 2) * MIB;
    expect(use.peak).toBeLessThan(1.03 * (4 + 12 / 2) * psi + embedding + buckets);
  });
});

it('the tied table has one gradient, not a second one of the embedding', async () => {
  for (const [precision, bytes] of [
    ['fp32', 4 + 8 + 4],
    ['bf16', 2 + 12 + 2],
  ] as const) {
    const { parameters: psi, memory: use } = await forecast({ seqLen: 32, microBatch: 1, precision });
    expect(use.peak).toBeLessThan(bytes * psi + 2 * MIB); // parameters, optimizer, gradients; the table has 77 or 154 MB
  }
});

it.each([0, 1, 2, 3])('a world of a million ranks is planned as one of a thousand is, stage %i', async (zero) => {
  const world = 1_000_000;
  const { parameters: psi, memory: use, wire } = await forecast({ zero, world, seqLen: 32, microBatch: 1 });
  const units = 64; // at most, of which a rank holds 16 elements at least
  const shard = (psi / world + 16 * units) * 4;
  if (zero === 3) expect(use.parameters).toBeLessThan(shard);
  if (zero > 0) expect(use.optimizer).toBeLessThan(2 * shard);
  if (zero > 0) expect(wire.reduce_scatter).toBeGreaterThan(4 * psi * 0.999);
  else expect(wire.all_reduce! / (8 * psi)).toBeCloseTo(1, 3);
});

it('refuses a world that no number of 32 bits holds, and plans the largest that one does', async () => {
  const small = { layers: 1, heads: 2, width: 64, vocabulary: 300, seqLen: 32, microBatch: 1, zero: 3 } as const;
  await expect(forecast({ ...small, world: Number.MAX_SAFE_INTEGER })).rejects.toMatchObject({
    code: 'BAD_CONFIG',
    message: expect.stringMatching(/world.*2147483647/),
  });
  expect((await forecast({ ...small, world: 2 ** 31 - 1 })).ranks).toBe(2 ** 31 - 1);
});

describe('forecast', () => {
  const shape = { layers: 2, heads: 2, width: 64, vocabulary: 300, seqLen: 32, microBatch: 2 } as const;
  const peak = async (more: Partial<PlanConfig>) => (await forecast({ ...shape, ...more })).memory.peak;
  const sent = async (more: Partial<PlanConfig>) => (await forecast({ ...shape, world: 4, ...more })).wire;

  it('reads every option', async () => {
    const base = await forecast(shape);
    expect(base).toMatchObject({ ranks: 1, globalBatch: 2, tokens: 64, wire: {}, trainable: base.parameters });
    for (const more of [{ layers: 3 }, { width: 96 }, { vocabulary: 400 }, { seqLen: 64 }, { microBatch: 4 }]) {
      expect(await peak(more), JSON.stringify(more)).toBeGreaterThan(base.memory.peak);
    }
    for (const more of [{ method: 'lora' }, { optimizer: 'sgd' }, { optimizer: 'sgd', beta1: 0 }] as const) {
      expect(await peak(more), JSON.stringify(more)).toBeLessThan(base.memory.peak);
    }
    expect(await peak({ optimizer: 'sgd', beta1: 0 })).toBeLessThan(await peak({ optimizer: 'sgd' }));
    expect(await peak({ precision: 'bf16' })).not.toBe(base.memory.peak);
    expect(await peak({ microBatch: 64, checkpointing: 'full' })).toBeLessThan(await peak({ microBatch: 64 }));
    const lora = await forecast({ ...shape, method: 'lora', loraRank: 4, targetModules: ['c_attn'] });
    expect(lora.trainable).toBe(2 * 4 * (64 + 3 * 64));
    expect((await forecast({ ...shape, world: 8, gradAccum: 3 })).globalBatch).toBe(48);
    await expect(forecast({ ...shape, heads: 3 })).rejects.toThrow('heads: expected a divisor of width 64');
    await expect(forecast({ ...shape, world: 4, zero: 1, shardRanks: 3 })).rejects.toThrow('a divisor of 4 ranks');
  });

  it('counts the bytes that cross the wire', async () => {
    const { parameters: psi } = await forecast(shape);
    const ddp = await sent({});
    // Gradients end to end and a count a parameter, times 2 (n - 1) / n.
    expect(ddp.all_reduce! / (1.5 * 4 * psi)).toBeCloseTo(1, 2);
    const [one, two, three] = [await sent({ zero: 1 }), await sent({ zero: 2, gradAccum: 2 }), await sent({ zero: 3 })];
    expect(one.reduce_scatter! / (0.75 * 4 * psi)).toBeCloseTo(1, 1);
    expect(one.all_gather! / (0.75 * 4 * psi)).toBeCloseTo(1, 1);
    expect(two.reduce_scatter).toBe(2 * one.reduce_scatter!);
    expect(three.all_gather).toBeGreaterThan(1.5 * one.all_gather!); // gathered for forward and backward, the head once
    const hybrid = await sent({ zero: 3, shardRanks: 2 });
    expect(hybrid.all_reduce).toBeGreaterThan(psi);
    expect((await sent({ zero: 1, reduceDtype: 'bf16' })).reduce_scatter).toBe(one.reduce_scatter! / 2);
    const sentAs = async (more: Partial<PlanConfig>) =>
      (await sent({ zero: 1, ...more })).all_to_all! / one.reduce_scatter!;
    expect(await sentAs({ compress: 'int8' })).toBeCloseTo(260 / 1024, 2);
    expect(await sentAs({ compress: 'topk' })).toBeCloseTo(0.01 * 2, 2);
    expect(await sentAs({ compress: 'topk', compressRatio: 0.1 })).toBeCloseTo(0.1 * 2, 2);
    const small = await forecast({ ...shape, world: 4, zero: 2, bucketMb: 0.01 });
    expect(small.memory.gradients).toBeLessThan((await forecast({ ...shape, world: 4, zero: 2 })).memory.gradients);
  });

  it('leaves nothing behind', async () => {
    await forecast(shape);
    const before = [memory.stats().handles, memory.allocatorStats('meta').allocated];
    for (const zero of [0, 3]) await forecast({ ...shape, world: 4, zero });
    expect([memory.stats().handles, memory.allocatorStats('meta').allocated]).toEqual(before);
  });

  it('is what a run takes, within 3 % and what Gloo copies', async () => {
    const data = join(folder, 'text.txt');
    writeFileSync(data, 'The quick brown fox jumps over the lazy dog. '.repeat(400));
    const cli = fileURLToPath(new URL('../../dist/cli/index.js', import.meta.url));
    const run = async (...args: string[]) =>
      JSON.parse((await promisify(execFile)(process.execPath, [cli, ...args, '--json'])).stdout);
    const common = ['--layers', '3', '--heads', '4', '--width', '256', '--seq-len', '128', '--micro-batch', '4'];
    for (const more of [[], ['--zero', '2', '--grad-accum', '2'], ['--zero', '3', '--precision', 'bf16']]) {
      const out = join(folder, `run${more.join('')}`);
      const place = ['--data', data, '--out', out, '--max-steps', '3', '--nproc', '2'];
      const { memory: real }: RunSummary = await run('pretrain', ...place, ...common, ...more);
      const { memory: told } = await run('plan', '--world', '2', '--vocabulary', '258', ...common, ...more);
      for (const kind of ['parameters', 'optimizer', 'gradients', 'peak'] as const) {
        // Gloo copies what it sends: two buckets of 4 MiB on the way.
        const copies = kind === 'peak' ? 8 * MIB : 0;
        expect(Math.abs(real![kind] - told[kind]), `${more} ${kind}`).toBeLessThan(0.03 * told[kind] + copies);
      }
    }
  });

  it('tells people', async () => {
    const text = forecastTable(await forecast({ ...shape, world: 1024, zero: 3 }));
    expect(text).toContain('2,048 sequences over 1,024 ranks');
    expect(text).toMatch(/on the wire a rank .* all_gather/);
  });

  it('tells people of a small model, on one rank', async () => {
    const small = { layers: 1, heads: 2, width: 16, vocabulary: 100, seqLen: 16 };
    const text = forecastTable(await forecast(small));
    expect(text).toContain('4 sequences over 1 rank,');
    expect(text).toMatch(/parameters a rank +│ 20\.2 KiB/); // 4 x 5,168
    expect(forecastTable(await forecast({ ...small, width: 256 }))).toMatch(/parameters a rank +│ 3\.1 MiB/);
    expect(forecastTable(await forecast({ ...small, world: 2, zero: 1 }))).toMatch(/all_reduce \d+ bytes/);
  });
});
