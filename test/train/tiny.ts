// A tiny byte-level GPT-2 folder and a file of records, for tests that train.
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { manualSeed } from '../../lib/core/index.js';
import { byteTokenizer } from '../../lib/data/index.js';
import { GPT2LMHeadModel, saveModel } from '../../lib/models/index.js';
import { type FinetuneOptions, finetune } from '../../lib/train/finetune.js';
import { readMetrics, type StepMetrics } from '../../lib/train/metrics.js';
import type { RunOptions } from '../../lib/train/run.js';

export interface Tiny {
  /** A folder for everything of one test file. */
  folder: string;
  /** The model folder in it. */
  model: string;
  /** 22 records of different lengths. */
  data: string;
}

/** Dropouts are 0 unless asked for: runs of different shapes are then comparable. */
export async function makeTiny(options: { dropout?: number } = {}): Promise<Tiny> {
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-train-'));
  const { dropout = 0 } = options;
  manualSeed(7);
  const tokenizer = byteTokenizer();
  const model = new GPT2LMHeadModel({
    ...{ n_layer: 2, n_head: 2, n_embd: 32, n_positions: 96, vocab_size: tokenizer.vocabSize },
    ...{ resid_pdrop: dropout, embd_pdrop: dropout, attn_pdrop: dropout },
    ...{ eos_token_id: tokenizer.eosId, bos_token_id: tokenizer.bosId },
  });
  await saveModel(model, join(folder, 'model'), { tokenizer });
  model.dispose();
  const records = Array.from({ length: 22 }, (_, i) => ({
    prompt: `Say ${i} ${'x'.repeat(i % 5)}`,
    response: `It is ${'yes'.repeat(1 + (i % 4))} ${i}.`,
  }));
  writeFileSync(join(folder, 'records.json'), JSON.stringify(records, null, 1));
  return { folder, model: join(folder, 'model'), data: join(folder, 'records.json') };
}

let runs = 0;

/** A run into a folder of its own; 22 records in batches of 8 are 3 steps an epoch, the last of 6 records. */
export async function tune(tiny: Tiny, more: Partial<FinetuneOptions> = {}, options: RunOptions = {}) {
  const out = more.out ?? join(tiny.folder, `run-${runs++}`);
  const given = { model: tiny.model, data: tiny.data, out, microBatch: 8, lr: 1e-2, threads: 1, ...more };
  const { summary } = await finetune(given, options);
  return { out, summary };
}

/** Loss of every step of a run, in order. */
export function losses(out: string): number[] {
  return metricsOf(out).map((m) => m.loss);
}

export function metricsOf(out: string): StepMetrics[] {
  return readMetrics(join(out, 'metrics.jsonl'));
}
