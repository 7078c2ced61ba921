// The sinks: what stands in the files afterwards.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GPT2LMHeadModel } from '../../lib/models/index.js';
import { csvSink } from '../../lib/train/csv.js';
import { drawLoss, lossChart } from '../../lib/train/loss-chart.js';
import { fanOut, jsonlSink, metricsLine, readMetrics, type StepMetrics } from '../../lib/train/metrics.js';
import { progressSink } from '../../lib/train/progress.js';
import { crc32c, tensorBoardSink, tfRecord } from '../../lib/train/tensorboard.js';
import { flopsPerToken, measurePeak } from '../../lib/train/utilization.js';

const metrics = (step: number, more: Partial<StepMetrics> = {}): StepMetrics => ({
  ...{ step, epoch: step / 10, loss: 3 / step, lr: 1e-3, tokens: 100, time: step, gradNorm: 1, tokensPerSecond: 1234 },
  ...{ utilization: 0.5, memoryPeak: 1e6 },
  ...more,
});

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'shardloop-metrics-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

describe('metrics.jsonl', () => {
  it('keeps numbers that JSON lacks, and reads them back', () => {
    const line = metricsLine(metrics(1, { loss: Number.NaN, gradNorm: Number.POSITIVE_INFINITY }));
    expect(JSON.parse(line)).toMatchObject({ loss: 'NaN', gradNorm: 'Infinity' });
    expect(line).not.toContain('null');
    const path = join(folder, 'metrics.jsonl');
    const sink = jsonlSink(path);
    sink.write(metrics(1, { loss: Number.NaN }));
    sink.close();
    expect(readMetrics(path)).toEqual([metrics(1, { loss: Number.NaN })]);
  });

  it('is on the disk as soon as it is written, begins anew, and continues after a resumed step', () => {
    const path = join(folder, 'metrics.jsonl');
    const first = jsonlSink(path);
    for (const step of [1, 2, 3]) first.write(metrics(step));
    expect(readMetrics(path)).toHaveLength(3);
    const resumed = jsonlSink(path, 2);
    resumed.write(metrics(3, { loss: 9 }));
    expect(readMetrics(path).map((m) => [m.step, m.loss])).toEqual([
      [1, 3],
      [2, 1.5],
      [3, 9],
    ]);
    jsonlSink(path);
    expect(readFileSync(path, 'utf8')).toBe('');
  });
});

describe('metrics.csv', () => {
  it('has a row a step under its header, begins anew, and continues after a resumed step', () => {
    const path = join(folder, 'metrics.csv');
    const first = csvSink(path);
    for (const step of [1, 2, 3]) first.write(metrics(step));
    const resumed = csvSink(path, 2);
    resumed.write(metrics(3, { loss: Number.NaN, evalLoss: 2.5, lossScale: 512, skippedSteps: 4 }));
    resumed.close();
    expect(readFileSync(path, 'utf8').split('\n')).toEqual([
      'step,epoch,loss,lr,tokens,time,gradNorm,tokensPerSecond,utilization,memoryPeak,evalLoss,evalPerplexity,lossScale,skippedSteps',
      '1,0.1,3,0.001,100,1,1,1234,0.5,1000000,,,,',
      '2,0.2,1.5,0.001,100,2,1,1234,0.5,1000000,,,,',
      '3,0.3,NaN,0.001,100,3,1,1234,0.5,1000000,2.5,,512,4',
      '',
    ]);
    csvSink(path).close();
    expect(readFileSync(path, 'utf8').split('\n')).toHaveLength(2);
  });
});

describe('utilization', () => {
  it('counts the products of a step, and measures a peak', () => {
    const shape = { n_layer: 2, n_embd: 8, n_head: 2, vocab_size: 10, n_positions: 16 };
    const model = new GPT2LMHeadModel(shape, { device: 'meta' });
    const matrices = 10 * 8 + 2 * (8 * 24 + 8 * 8 + 8 * 32 + 32 * 8); // the table as head, and each block's four
    expect(flopsPerToken(model, 16)).toBe(6 * matrices + 12 * 2 * 8 * 16);
    model.requiresGrad(false);
    expect(flopsPerToken(model, 16)).toBe(4 * matrices + 12 * 2 * 8 * 16);
    expect(measurePeak('float32', 'cpu')).toBeGreaterThan(1e8);
  });
});

it('closes every sink, and then throws the first failure', async () => {
  const closed: number[] = [];
  const sink = (n: number) => ({
    write: () => {},
    close: () => {
      closed.push(n);
      if (n < 3) throw new Error(`sink ${n}`);
    },
  });
  await expect(fanOut([sink(1), sink(2), sink(3)]).close()).rejects.toThrow('sink 1');
  expect(closed).toEqual([1, 2, 3]);
});

describe('TensorBoard', () => {
  it('computes CRC-32C as RFC 3720 lists it', () => {
    expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
    expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
    expect(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i))).toBe(0x46dd794e);
  });

  it('frames records by length', () => {
    const record = tfRecord(new Uint8Array([1, 2, 3]));
    expect(record.length).toBe(19);
    expect(record.readBigUInt64LE(0)).toBe(3n);
  });

  it('writes a file of its own for every run, also within a second', () => {
    tensorBoardSink(folder).close();
    tensorBoardSink(folder, { resumedStep: 3, text: 'x' }).close();
    expect(readdirSync(folder).filter((name) => name.startsWith('events.out.tfevents.'))).toHaveLength(2);
  });
});

describe('loss.svg', () => {
  it('draws steps and evaluations, leaves out a diverged loss, and nothing without steps', async () => {
    const path = join(folder, 'metrics.jsonl');
    const sink = jsonlSink(path);
    await drawLoss(path, join(folder, 'loss.svg'), 'none');
    expect(readdirSync(folder)).toEqual(['metrics.jsonl']);
    for (let step = 1; step <= 30; step++) sink.write(metrics(step, step % 10 ? {} : { evalLoss: 2 }));
    sink.write(metrics(31, { loss: Number.NaN }));
    await drawLoss(path, join(folder, 'loss.svg'), 'My run');
    const svg = readFileSync(join(folder, 'loss.svg'), 'utf8');
    expect(svg).toMatch(/^<svg[^>]*>/);
    expect(svg).toContain('My run');
    expect(svg).toContain('evaluation');
    expect(svg).not.toContain('NaN');
  });

  it('stays small for a long run', async () => {
    const svg = await lossChart(
      Array.from({ length: 50_000 }, (_, i) => metrics(i + 1)),
      'long',
    );
    expect(svg.length).toBeLessThan(200_000);
  });
});

describe('progress', () => {
  const recorder = (isTTY: boolean) => {
    const written: string[] = [];
    const stream = {
      isTTY,
      columns: 120,
      write: (text: string) => written.push(text),
      on: () => {},
      removeListener: () => {},
    };
    return { stream: stream as unknown as NodeJS.WriteStream, text: () => written.join('') };
  };

  it('prints plain lines without a terminal: the first, every N-th, the last, and evaluations', () => {
    const { stream, text } = recorder(false);
    const sink = progressSink({ label: 'finetune', total: 12, every: 5, stream });
    for (let step = 1; step <= 12; step++) sink.write(metrics(step, step === 7 ? { evalLoss: 1.5 } : {}));
    const lines = text().trimEnd().split('\n');
    expect(lines.map((line) => Number(/step (\d+)/.exec(line)![1]))).toEqual([1, 5, 7, 10, 12]);
    expect(lines[1]).toBe('finetune step 5/12 | loss 0.6000 | lr 1.00e-3 | 1,234 tokens/s | 7s left');
    expect(lines[2]).toContain('eval loss 1.5000');
  });

  it('tells the loss scale of fp16', () => {
    const { stream, text } = recorder(false);
    const sink = progressSink({ label: 'pretrain', total: 2, every: 1, stream });
    sink.write(metrics(1, { lossScale: 512, skippedSteps: 3 }));
    expect(text()).toContain('| scale 512, 3 skipped |');
  });

  it('draws a bar on a terminal', () => {
    const { stream, text } = recorder(true);
    const sink = progressSink({ label: 'pretrain', total: 3, every: 1, stream });
    for (let step = 1; step <= 3; step++) sink.write(metrics(step));
    sink.close();
    expect(text()).toContain('3/3');
    expect(text()).toContain('tokens/s');
  });
});
