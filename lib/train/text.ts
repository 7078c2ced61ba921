// From text files to blocks of tokens for pretraining: every paragraph or record and an end token, one after another.

import { ShardloopError } from '../core/errors.js';
import {
  type DataRecord,
  loadRecords,
  type SequenceSet,
  splitTail,
  type Tokenizer,
  textBlocks,
} from '../data/index.js';
import type { PretrainConfig } from './config.js';

/** The data of a pretraining run. */
export interface Text {
  readonly train: SequenceSet;
  readonly heldOut: SequenceSet | null;
  readonly padId: number;
}

/** Read, tokenize, hold out, cut. Throws BAD_RECORD for a file that cannot be read or holds something else than text. */
export async function readText(config: PretrainConfig, tokenizer: Tokenizer): Promise<Text> {
  const { data, evalData, evalSplit, seqLen } = config;
  const tokens = await tokenize(data, config, tokenizer);
  const { train, heldOut } = evalData
    ? { train: tokens, heldOut: await tokenize(evalData, config, tokenizer) }
    : splitTail(tokens, evalSplit);
  return {
    train: textBlocks(train, { seqLen }),
    heldOut: heldOut.length > 1 ? textBlocks(heldOut, { seqLen }) : null,
    padId: tokenizer.padId,
  };
}

async function tokenize(path: string, { format }: PretrainConfig, tokenizer: Tokenizer): Promise<Int32Array> {
  const records = await loadRecords(path, format === 'auto' ? {} : { format });
  const parts = records.map((record) => tokenizer.encode(textOf(record)));
  const end = tokenizer.eosId === null ? [] : [tokenizer.eosId];
  const tokens = new Int32Array(parts.reduce((sum, part) => sum + part.length + end.length, 0));
  let at = 0;
  for (const part of parts) {
    tokens.set(part, at);
    tokens.set(end, at + part.length);
    at += part.length + end.length;
  }
  if (tokens.length >= 2) return tokens;
  throw new ShardloopError('BAD_RECORD', `${path}: expected a text of at least two tokens, received ${tokens.length}`);
}

function textOf(record: DataRecord): string {
  if (record.kind === 'text') return record.text;
  const { file, line } = record.source;
  throw new ShardloopError(
    'BAD_RECORD',
    `${file}:${line}: expected a record with "text", received a conversation; use \`shardloop finetune\` for those`,
  );
}
