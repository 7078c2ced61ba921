// What a checkpoint remembers of the run that made it, so that a run goes on only from its own: the options that decide
// what is computed, and a fingerprint of the frozen weights beneath an adapter, which no checkpoint holds.
// Not here: tensors, position and batch, which checkpoints.ts and lib/data compare.
import { createHash } from 'node:crypto';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ShardloopError } from '../core/errors.js';
import { nameOf, words } from '../core/option-names.js';
import type { TrainingConfig } from './config.js';

/** Plain JSON; a checkpoint's state holds it as `origin`. */
export interface Origin {
  readonly options: { readonly [key: string]: string };
  /** Of the base model's weights; null where the checkpoint holds all weights. */
  readonly base: string | null;
}

/** Options with which a run must go on. */
const FIXED =
  'method precision optimizer loraRank loraAlpha loraDropout targetModules layers heads width dropout seqLen';
/** Options that may change, and are said when they do. */
const FREE =
  'lr schedule epochs maxSteps warmupSteps minLrRatio decayRatio weightDecay beta1 beta2 epsilon clip ' +
  'lossScale lossScaleWindow lossScaleHysteresis minLossScale';
const OF_LORA = /^(lora|target)/;

/** The origin of a checkpoint that this run would write. Reads the weights of the base model, or parts of large ones. */
export async function originOf(config: TrainingConfig): Promise<Origin> {
  const values = config as unknown as Record<string, unknown>;
  const lora = values.method === 'lora';
  const keys = `${FIXED} ${FREE}`.split(' ').filter((key) => lora || !OF_LORA.test(key));
  const options = Object.fromEntries(keys.map((key) => [key, JSON.stringify(values[key]) ?? 'not set']));
  return { options, base: lora ? await fingerprint(String(values.model)) : null };
}

/**
 * Compare. Throws BAD_CHECKPOINT for what must be the same; returns a sentence on what may differ and does, or null.
 * What an older checkpoint does not tell is taken as equal.
 */
export function compareOrigins(path: string, saved: Origin | undefined, own: Origin, model?: string): string | null {
  if (saved === undefined) return null;
  const differs = (key: string) => saved.options[key] !== undefined && saved.options[key] !== own.options[key];
  for (const key of FIXED.split(' ').filter((name) => own.options[name] !== undefined && differs(name))) {
    throw new ShardloopError(
      'BAD_CHECKPOINT',
      `${path}: ${nameOf(key)}: expected ${saved.options[key]}, with which it was made, received ${own.options[key]}; resume with the same`,
    );
  }
  if (saved.base !== null && own.base !== null && saved.base !== own.base) {
    throw new ShardloopError(
      'BAD_CHECKPOINT',
      words`${path}: --model: expected the base weights with which it was made (${saved.base.slice(0, 12)}), received others in ${model} (${own.base.slice(0, 12)}); resume with the same base model`,
    );
  }
  const changed = FREE.split(' ').filter(differs);
  if (changed.length === 0) return null;
  const list = changed.map((key) => `${nameOf(key)} ${own.options[key]} (before: ${saved.options[key]})`);
  return `${path} was made with other settings; from here on ${list.join(', ')}`;
}

const WHOLE = 64 * 2 ** 20;
const PARTS = 64;
const PART = 64 * 1024;

/** SHA-256 over the weight files of a folder: sizes and content, of a large file its header and parts all over it. */
export async function fingerprint(folder: string): Promise<string> {
  const hash = createHash('sha256');
  const names = (await readdir(folder)).filter((name) => name.endsWith('.safetensors')).toSorted();
  for (const name of names) {
    const file = await open(join(folder, name));
    try {
      const { size } = await file.stat();
      hash.update(`${size};`);
      const large = size > WHOLE;
      const buffer = Buffer.alloc(large ? PART : 2 ** 20);
      const stride = large ? Math.ceil((size - PART) / (PARTS - 1)) : buffer.length;
      for (let at = 0; at < size; at += stride) {
        const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
        hash.update(buffer.subarray(0, bytesRead));
      }
    } finally {
      await file.close();
    }
  }
  return hash.digest('hex');
}
