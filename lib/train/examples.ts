// From the data files of a run to sequences: read, encode, hold out, pack. Everything wrong with a record is said here,
// before training begins.
import { readFileSync } from 'node:fs';
import { ShardloopError } from '../core/errors.js';
import { words } from '../core/option-names.js';
import {
  ChatTemplate,
  type DataRecord,
  DEFAULT_CHAT_TEMPLATE,
  type Example,
  encodeRecords,
  exampleSequences,
  loadRecords,
  packedSequences,
  type SequenceSet,
  splitRecords,
  type Tokenizer,
} from '../data/index.js';
import type { FinetuneConfig } from './config.js';
import { requireFile } from './in-folder.js';

/** The data of a tuning run. */
export interface Examples {
  readonly train: SequenceSet;
  readonly heldOut: SequenceSet | null;
  readonly padId: number;
  /** The Jinja source that turned conversations into text. */
  readonly template: string;
  /** Conversations that were cut to the sequence length. */
  readonly truncated: number;
  /** Conversations that were left out because they are longer. */
  readonly skipped: number;
  /** What the sequence length did to them, in one line; null when nothing. */
  readonly note: string | null;
}

/** The longest sequence when nothing was asked for. */
const DEFAULT_SEQ_LEN = 512;

/**
 * Read and encode the records of a run. `context` is the most tokens that the model takes.
 * Throws BAD_CONFIG for a sequence length beyond the model, BAD_RECORD for a bad record or a file that cannot be read.
 */
export async function readExamples(config: FinetuneConfig, tokenizer: Tokenizer, context: number): Promise<Examples> {
  const seqLen = config.seqLen ?? Math.min(DEFAULT_SEQ_LEN, context);
  if (seqLen > context) {
    throw new ShardloopError(
      'BAD_CONFIG',
      words`--seq-len: expected at most ${context}, the longest sequence that ${config.model} takes, received ${seqLen}`,
    );
  }
  const template = new ChatTemplate(tokenizer, templateSource(config.template, tokenizer));
  const overlong = config.overlong === 'error' ? 'refuse' : config.overlong;
  const encode = (records: DataRecord[]) => encodeRecords(records, tokenizer, { template, seqLen, overlong });
  const sequences = (examples: Example[]) =>
    config.pack ? packedSequences(examples, seqLen) : exampleSequences(examples);

  const { train, heldOut } = await splitData(config);
  const [encoded, held] = [encode(train), encode(heldOut)];
  const [truncated, skipped] = [encoded.truncated + held.truncated, encoded.skipped + held.skipped];
  if (encoded.examples.length === 0) {
    throw new ShardloopError(
      'BAD_RECORD',
      words`${config.data}: expected records of at most ${seqLen} tokens, all ${train.length} are longer; raise --seq-len or use --overlong truncate`,
    );
  }
  return {
    train: sequences(encoded.examples),
    heldOut: held.examples.length > 0 ? sequences(held.examples) : null,
    padId: tokenizer.padId,
    template: template.source,
    truncated,
    skipped,
    note: noteOf(truncated, skipped, train.length + heldOut.length, seqLen),
  };
}

function noteOf(truncated: number, skipped: number, of: number, seqLen: number): string | null {
  if (truncated + skipped === 0) return null;
  const what = truncated > 0 ? 'their ends were cut off' : 'they were left out';
  return words`${truncated + skipped} of ${of} records are longer than ${seqLen} tokens (--seq-len): ${what} (--overlong)`;
}

/** The records to train on, and those held out: a file of their own, a seeded share, or none. */
async function splitData({ data, evalData, evalSplit, format, seed }: FinetuneConfig) {
  const options = format === 'auto' ? {} : { format };
  const read = (path: string) => loadRecords(path, options);
  const records = await read(data);
  if (evalData !== undefined) return { train: records, heldOut: await read(evalData) };
  if (evalSplit > 0 && records.length < 2) {
    throw new ShardloopError(
      'BAD_RECORD',
      `${data}: expected at least 2 records to hold some out, received ${records.length}`,
    );
  }
  return splitRecords(records, evalSplit, seed);
}

/** The template that `--template` names: a file, `none` for the default one, or the tokenizer's own. */
export function templateSource(template: string | undefined, tokenizer: Tokenizer): string | null {
  if (template === undefined) return tokenizer.chatTemplate;
  if (template === 'none') return DEFAULT_CHAT_TEMPLATE;
  return readFileSync(requireFile('--template', template), 'utf8');
}
