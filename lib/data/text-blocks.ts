// A long text for pretraining, as blocks of seqLen tokens: one after another, or from random places. Each token of the text
// but the first is predicted once in a sequential epoch; the last block may be shorter.
import { describe, ShardloopError } from '../core/errors.js';
import { requireOptions } from '../core/options.js';
import { DataRandom } from './random.js';
import type { SequenceSet } from './sequences.js';

/** How to cut a text into blocks. */
export interface TextBlockOptions {
  /** Tokens of a block. */
  seqLen: number;
  /** `sequential`: the blocks of the text (a BatchSource shuffles them); `random`: blocks from random places. */
  order?: 'sequential' | 'random';
  /** For random places. */
  seed?: number;
}

/** Blocks of a tokenized text. Throws BAD_ARGUMENT when the text has fewer than two tokens. */
export function textBlocks(tokens: Int32Array | Uint16Array, options: TextBlockOptions): SequenceSet {
  requireOptions('textBlocks', options);
  const { seqLen, order = 'sequential', seed = 0 } = options;
  if (!Number.isSafeInteger(seqLen) || seqLen < 1) {
    throw new ShardloopError('BAD_ARGUMENT', `expected seqLen to be a positive integer, got ${describe(seqLen)}`);
  }
  const predicted = tokens.length - 1;
  if (predicted < 1) {
    throw new ShardloopError('BAD_ARGUMENT', `expected a text of at least two tokens, got ${tokens.length}`);
  }
  const random = order === 'random';
  const length = Math.min(seqLen, predicted);
  const count = random ? Math.max(1, Math.floor(predicted / length)) : Math.ceil(predicted / seqLen);
  const range = (index: number, epoch: number): [start: number, end: number] => {
    if (!random) return [index * seqLen, Math.min(index * seqLen + seqLen, predicted)];
    const start = new DataRandom(seed, epoch, index).below(predicted - length + 1);
    return [start, start + length];
  };
  return {
    count,
    packed: false,
    fingerprint: fingerprintOf(tokens, seqLen, random ? seed + 1 : 0),
    labelled(index, epoch) {
      const [start, end] = range(index, epoch);
      return end - start;
    },
    get(index, epoch) {
      const [start, end] = range(index, epoch);
      return {
        ids: Int32Array.from(tokens.subarray(start, end)),
        targets: Int32Array.from(tokens.subarray(start + 1, end + 1)),
      };
    },
  };
}

function fingerprintOf(tokens: Int32Array | Uint16Array, ...more: number[]): number {
  let hash = 0x811c9dc5;
  for (const value of more) hash = Math.imul(hash ^ value, 0x01000193) >>> 0;
  for (let i = 0; i < tokens.length; i++) hash = Math.imul(hash ^ tokens[i]!, 0x01000193) >>> 0;
  return hash;
}
