// The whole runs, each loaded when it is called first: with the schemas of options, tables and event files that they stand on
// the package would take half as long again to import, which a service or a loop of one's own has no use for.
import type { Consolidated, ConsolidateOptions } from './consolidate.js';
import type { FinetuneOptions } from './finetune.js';
import type { GeneratedText, GenerateTextOptions } from './generate-text.js';
import type { MergeOptions } from './merge-adapter.js';
import type { PretrainOptions } from './pretrain.js';
import type { RunOptions, RunResult } from './run.js';

/**
 * Tune a model on records. Every rank of the group calls it; rank 0 writes `out/adapter` (lora) or `out/model` (full),
 * metrics.jsonl, events for TensorBoard, loss.svg and run.json.
 * Throws BAD_CONFIG, BAD_RECORD (before training begins), BAD_MODEL, BAD_CHECKPOINT, NON_FINITE, INTERRUPTED.
 */
export async function finetune(config: FinetuneOptions, options: RunOptions = {}): Promise<RunResult> {
  return (await import('./finetune.js')).finetune(config, options);
}

/**
 * Train a GPT from random weights on text. Every rank of the group calls it; rank 0 writes `out/model`, metrics.jsonl,
 * events for TensorBoard, loss.svg and run.json.
 * Throws BAD_CONFIG, BAD_RECORD (before training begins), BAD_CHECKPOINT, NON_FINITE, INTERRUPTED.
 */
export async function pretrain(config: PretrainOptions, options: RunOptions = {}): Promise<RunResult> {
  return (await import('./pretrain.js')).pretrain(config, options);
}

/** A prompt's continuation: load, encode, generate, decode. Throws BAD_CONFIG, BAD_MODEL, BAD_ARGUMENT, NO_CUDA. */
export async function generateText(options: GenerateTextOptions): Promise<GeneratedText> {
  return (await import('./generate-text.js')).generateText(options);
}

/**
 * Writes a model with an adapter added to its weights; the adapter's chat template goes with it. Returns where it stands and how many
 * layers were changed. Throws BAD_ARGUMENT, BAD_CONFIG, BAD_MODEL.
 */
export async function mergeAdapter(options: MergeOptions): Promise<{ out: string; merged: number }> {
  return (await import('./merge-adapter.js')).mergeAdapter(options);
}

/**
 * Writes a checkpoint's weights as a Hugging Face folder, or as PEFT's adapter folder, with configuration and tokenizer.
 * Throws BAD_ARGUMENT, BAD_CONFIG for folders that do not fit, BAD_CHECKPOINT for a damaged checkpoint or one that tells too little.
 */
export async function consolidate(options: ConsolidateOptions): Promise<Consolidated> {
  return (await import('./consolidate.js')).consolidate(options);
}
