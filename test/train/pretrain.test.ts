// Pretraining in this process: the options of its own, the event loop, and the tokenizer that goes with the model.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadModel } from '../../lib/models/index.js';
import { type PretrainOptions, pretrain } from '../../lib/train/pretrain.js';
import { losses, metricsOf } from './tiny.js';

let folder: string;
let runs = 0;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'shardloop-pretrain-'));
  const text = Array.from({ length: 60 }, (_, i) => `Line ${i}: the cat sat on the mat ${i % 7} times.`).join('\n\n');
  writeFileSync(join(folder, 'text.txt'), text);
});
afterAll(() => rmSync(folder, { recursive: true }));

async function run(more: Partial<PretrainOptions> = {}, options = {}) {
  const out = join(folder, `run-${runs++}`);
  const shape = { layers: 1, heads: 2, width: 16, seqLen: 32, microBatch: 8, threads: 1 };
  const { summary } = await pretrain({ data: join(folder, 'text.txt'), out, ...shape, ...more }, options);
  return { out, summary };
}

it('leaves a model folder of the shape that was asked for', async () => {
  const { summary } = await run({ layers: 3, heads: 4, width: 32, dropout: 0.25, seqLen: 24, precision: 'bf16' });
  const { model, tokenizer, config } = await loadModel(summary.result!);
  expect(config).toMatchObject({ n_layer: 3, n_head: 4, n_embd: 32, n_positions: 24, vocab_size: tokenizer.vocabSize });
  expect(config).toMatchObject({
    resid_pdrop: 0.25,
    embd_pdrop: 0.25,
    attn_pdrop: 0.25,
    eos_token_id: tokenizer.eosId,
  });
  expect(model.parameters()[0]!.dtype).toBe('bfloat16');
  model.dispose();
  const again = await run({ tokenizer: summary.result, seqLen: 24 });
  expect(readFileSync(join(again.summary.result!, 'tokenizer.json'), 'utf8')).toBe(
    readFileSync(join(summary.result!, 'tokenizer.json'), 'utf8'),
  );
});

it('goes on only with the shape that a checkpoint was made with, also where all tensors would fit', async () => {
  const { out } = await run({ saveSteps: 1, maxSteps: 3 });
  const resume = join(out, 'checkpoint-2');
  await expect(run({ resume, maxSteps: 3, heads: 4 })).rejects.toMatchObject({
    code: 'BAD_CHECKPOINT',
    message: expect.stringContaining('heads: expected 2, with which it was made, received 4'),
  });
  expect((await run({ resume, maxSteps: 3 })).summary.notes).toBeUndefined();
});

describe('options change what they name', () => {
  it.each<[string, Partial<PretrainOptions>]>([
    ['layers', { layers: 2 }],
    ['heads', { heads: 4 }],
    ['width', { width: 32 }],
    ['dropout', { dropout: 0.3 }],
    ['seqLen', { seqLen: 16 }],
    ['evalSplit', { evalSplit: 0.3 }],
    ['seed', { seed: 2 }],
  ])('%s', async (_, changed) => {
    const [plain, other] = [await run({ maxSteps: 4 }), await run({ maxSteps: 4, ...changed })];
    expect(losses(other.out)).not.toEqual(losses(plain.out));
  });

  it('evalData, evalSteps', async () => {
    const { out, summary } = await run({ evalData: join(folder, 'text.txt'), evalSteps: 3, maxSteps: 7 });
    expect(metricsOf(out).flatMap((m) => (m.evalLoss === undefined ? [] : [m.step]))).toEqual([3, 6, 7]);
    expect(summary.evalLoss!).toBeLessThan(summary.evalLossBefore!);
  });

  it('format, and what cannot be: heads that do not divide the width, an empty file', async () => {
    const records = join(folder, 'records');
    writeFileSync(records, '{"text": "one"}\n{"text": "two and three"}\n');
    expect((await run({ data: records, format: 'jsonl' })).summary.steps).toBe(1);
    await expect(run({ data: records })).rejects.toMatchObject({ code: 'BAD_RECORD' });
    await expect(run({ heads: 3 })).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    writeFileSync(join(folder, 'empty.txt'), '\n');
    await expect(run({ data: join(folder, 'empty.txt') })).rejects.toMatchObject({ code: 'BAD_RECORD' });
  });
});

it('lets timers and signals through while it trains', async () => {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  const { summary } = await run({ epochs: 3 });
  clearInterval(timer);
  expect(summary.steps).toBeGreaterThan(20);
  expect(ticks).toBeGreaterThan(10);
});
