// Training with --precision fp16: float16 weights with float32 masters under a loss scale, its options, what a run says of
// it, and that a resumed run goes on with it.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { loadModel } from '../../lib/models/index.js';
import { type PretrainOptions, pretrain } from '../../lib/train/pretrain.js';
import { losses, makeTiny, metricsOf, type Tiny, tune } from './tiny.js';

let folder: string;
let tiny: Tiny;
let runs = 0;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'shardloop-float16-'));
  tiny = await makeTiny();
  const text = Array.from({ length: 60 }, (_, i) => `Line ${i}: the cat sat on the mat ${i % 7} times.`).join('\n\n');
  writeFileSync(join(folder, 'text.txt'), text);
});
afterAll(() => {
  for (const made of [folder, tiny.folder]) rmSync(made, { recursive: true });
});

async function run(more: Partial<PretrainOptions> = {}) {
  const out = more.out ?? join(folder, `run-${runs++}`);
  const shape = { layers: 1, heads: 2, width: 16, seqLen: 32, microBatch: 8, threads: 1, maxSteps: 6 };
  const { summary } = await pretrain({ data: join(folder, 'text.txt'), precision: 'fp16', ...shape, ...more, out });
  return { out, summary };
}

const scalesOf = (out: string) => metricsOf(out).map((m) => m.lossScale);

it('trains as float32 does, and writes float16', async () => {
  const long = { maxSteps: 12, epochs: 9, lr: 5e-3 };
  const [half, full] = [await run(long), await run({ ...long, precision: 'fp32' })];
  const [a, b] = [losses(half.out), losses(full.out)];
  // 11 bits of mantissa through one block; the curve falls by 1 and more meanwhile.
  for (const [i, loss] of a.entries()) expect(Math.abs(loss - b[i]!)).toBeLessThan(2e-3 * b[i]!);
  expect(b[0]! - b.at(-1)!).toBeGreaterThan(0.1);
  expect(metricsOf(half.out).map((m) => m.gradNorm)[0]! / metricsOf(full.out)[0]!.gradNorm).toBeCloseTo(1, 1);
  expect(metricsOf(full.out)[0]).not.toHaveProperty('lossScale');
  const { model } = await loadModel(half.summary.result!);
  expect(model.parameters()[0]!.dtype).toBe('float16');
  model.dispose();
});

it('lossScale: a fixed one', async () => {
  const { out } = await run({ lossScale: 256, lossScaleWindow: 1 });
  expect(scalesOf(out)).toEqual(Array(6).fill(256));
  await expect(run({ lossScale: 2 ** 40 })).rejects.toMatchObject({
    code: 'NON_FINITE',
    message: expect.stringMatching(/the gradient of transformer\.\S+ is infinite or NaN at the fixed loss scale/),
  });
});

it('lossScaleInitial, lossScaleWindow', async () => {
  const { out } = await run({ lossScaleInitial: 64, lossScaleWindow: 2 });
  expect(scalesOf(out)).toEqual([64, 64, 128, 128, 256, 256]);
  expect(scalesOf((await run()).out)).toEqual(Array(6).fill(65536));
});

it('lossScaleHysteresis: overflows are skipped, counted, and lower the scale', async () => {
  const high = { lossScaleInitial: 2 ** 60 };
  const one = await run({ ...high, lossScaleHysteresis: 1 });
  expect(scalesOf(one.out)).toEqual([60, 59, 58, 57, 56, 55].map((n) => 2 ** n));
  expect(metricsOf(one.out).map((m) => m.skippedSteps)).toEqual([1, 2, 3, 4, 5, 6]);
  const three = await run({ ...high, lossScaleHysteresis: 3 });
  expect(scalesOf(three.out)).toEqual([60, 60, 60, 59, 58, 57].map((n) => 2 ** n));
  expect(metricsOf(three.out)[0]!.gradNorm).not.toSatisfy(Number.isFinite);
});

it('minLossScale: an overflow at it ends the run with the name of the tensor', async () => {
  const least = { lossScaleInitial: 2 ** 60, minLossScale: 2 ** 59, lossScaleHysteresis: 1 };
  await expect(run(least)).rejects.toMatchObject({
    code: 'NON_FINITE',
    message: expect.stringMatching(/gradient of \S+ is infinite or NaN at the least loss scale 5764/),
  });
  await expect(run({ lossScaleInitial: 2, minLossScale: 4 })).rejects.toMatchObject({ code: 'BAD_CONFIG' });
});

it('resumes with the scale and the count, to the same losses', async () => {
  const scale = { lossScaleInitial: 2 ** 26, lossScaleWindow: 3, lossScaleHysteresis: 1 };
  const whole = await run({ ...scale, saveSteps: 5, maxSteps: 10 });
  const again = await run({ ...scale, maxSteps: 10, resume: join(whole.out, 'checkpoint-5') });
  const rest = (out: string) =>
    metricsOf(out)
      .filter(({ step }) => step > 5)
      .map(({ loss, lossScale, skippedSteps }) => ({ loss, lossScale, skippedSteps }));
  expect(rest(again.out)).toEqual(rest(whole.out));
  expect(rest(whole.out)[0]!.skippedSteps).toBeGreaterThan(0);
});

it('tunes an adapter on float16 weights', async () => {
  const [half, full] = [await tune(tiny, { precision: 'fp16' }), await tune(tiny)];
  for (const [i, loss] of losses(half.out).entries())
    expect(Math.abs(loss - losses(full.out)[i]!)).toBeLessThan(5e-3 * losses(full.out)[i]!);
});
