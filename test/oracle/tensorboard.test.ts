// Event files read back by TensorBoard: scalars, text, non-finite values, and a resumed run that rewrites steps.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import type { StepMetrics } from '../../lib/train/metrics.js';
import { tensorBoardSink } from '../../lib/train/tensorboard.js';
import { python } from './python.js';

type Scalars = Record<string, [step: number, value: number | string, time: number][]>;

const folder = mkdtempSync(join(tmpdir(), 'shardloop-oracle-tensorboard-'));
afterAll(() => rmSync(folder, { recursive: true }));

const metrics = (step: number, more: Partial<StepMetrics> = {}): StepMetrics => ({
  ...{ step, epoch: step / 4, loss: 3 / step, lr: 1e-3 * step, tokens: 100, time: step, gradNorm: 0.5 },
  ...{ tokensPerSecond: 1e5 + step, utilization: 1 / step, memoryPeak: 2 ** 20 * step },
  ...more,
});

it('reads what the sink writes', async () => {
  const began = Date.now() / 1000;
  const first = tensorBoardSink(folder, { text: 'the config\nwith "quotes" and 中文' });
  for (let step = 1; step <= 300; step++)
    first.write(metrics(step, step % 100 ? {} : { evalLoss: 1, evalPerplexity: 2.5 }));
  first.close();

  const { value } = await python<{ scalars: Scalars; texts: Record<string, string>; version: number }>(
    'tensorboard_events',
    {
      dir: folder,
    },
  );
  expect(value.version).toBe(2);
  expect(value.texts).toEqual({ 'config/text_summary': 'the config\nwith "quotes" and 中文' });
  const at = (tag: string, step: number) => value.scalars[tag]!.find((event) => event[0] === step)!;
  expect(value.scalars['train/loss']).toHaveLength(300);
  for (const step of [1, 127, 128, 129, 300]) {
    expect(at('train/loss', step)[1]).toBe(Math.fround(3 / step));
    expect(at('train/lr', step)[1]).toBe(Math.fround(1e-3 * step));
    expect(at('speed/tokens_per_second', step)[1]).toBe(Math.fround(1e5 + step));
    expect(at('speed/utilization', step)[1]).toBe(Math.fround(1 / step));
    expect(at('memory/peak_bytes', step)[1]).toBe(2 ** 20 * step);
    expect(Number(at('train/loss', step)[2])).toBeGreaterThanOrEqual(began - 1);
  }
  expect(value.scalars['eval/loss']!.map(([step]) => step)).toEqual([100, 200, 300]);
  expect(value.scalars['eval/perplexity']![0]![1]).toBe(2.5);
});

it('forgets the later steps of the run before it, and keeps values that JSON and float32 lack', async () => {
  const resumed = tensorBoardSink(folder, { resumedStep: 150 });
  for (let step = 151; step <= 160; step++)
    resumed.write(metrics(step, { loss: 7, gradNorm: 1e300, lossScale: step, skippedSteps: 3 }));
  resumed.write(metrics(161, { loss: Number.NaN, gradNorm: Number.POSITIVE_INFINITY }));
  resumed.close();
  const { value } = await python<{ scalars: Scalars }>('tensorboard_events', { dir: folder });
  const loss = value.scalars['train/loss']!;
  expect(loss.map(([step]) => step)).toEqual(Array.from({ length: 161 }, (_, i) => i + 1));
  expect(loss[150]![1]).toBe(7);
  expect(loss[160]![1]).toBe('nan');
  expect(value.scalars['train/grad_norm']![155]![1]).toBeGreaterThan(3e38);
  expect(value.scalars['train/loss_scale']![0]!.slice(0, 2)).toEqual([151, 151]);
  expect(value.scalars['train/skipped_steps']![0]!.slice(0, 2)).toEqual([151, 3]);
});
