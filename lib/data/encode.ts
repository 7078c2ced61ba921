// Records to examples: token ids with labels that are -100 wherever there is no loss. Says what happens to what is longer
// than the sequence length. Grouping examples into sequences and batches stands in sequences.ts and batches.ts.
import { forCommand, nameOf } from '../core/option-names.js';
import { ChatTemplate } from './chat-template.js';
import { badRecord, type DataRecord, type RecordSource } from './record-shape.js';
import type { Tokenizer } from './tokenizer-class.js';

/** A record as tokens. Lengths of ids and labels agree; labels[0] is never predicted and always -100. */
export interface Example {
  readonly ids: Int32Array; // (T)
  readonly labels: Int32Array; // (T), -100 or the id at the same place
  readonly source: RecordSource;
}

/** How to encode records. */
export interface EncodeRecordOptions {
  /** The template for conversations. Default: the tokenizer's own, else the default template. */
  template?: ChatTemplate;
  /** The most tokens of an example. Default: no limit. */
  seqLen?: number;
  /**
   * What to do with a conversation of more tokens: `truncate` cuts its end off (refused when none of the answer would be
   * left), `refuse` stops with BAD_RECORD, `skip` leaves it out. Texts are cut into several examples. Default `truncate`.
   */
  overlong?: 'truncate' | 'refuse' | 'skip';
}

/** The examples of a data set, and what the sequence length did to it. */
export interface EncodedRecords {
  readonly examples: Example[];
  /** How many conversations were cut. */
  readonly truncated: number;
  /** How many conversations were left out. */
  readonly skipped: number;
  /** How many tokens the loss falls on. */
  readonly labelledTokens: number;
}

/** Encodes one record, cut to `seqLen` where `overlong` says so. Throws BAD_RECORD with the record's file and line. */
export function encodeRecord(record: DataRecord, tokenizer: Tokenizer, options: EncodeRecordOptions = {}): Example {
  const example = encodeWhole(record, tokenizer, options.template ?? new ChatTemplate(tokenizer));
  const seqLen = options.seqLen ?? Number.POSITIVE_INFINITY;
  if (example.ids.length <= seqLen) return example;
  if (options.overlong !== undefined && options.overlong !== 'truncate') throw tooLong(example, seqLen);
  return truncate(example, seqLen);
}

/** Encodes all records of a data set. Throws BAD_RECORD with file and line at the first that cannot be used. */
export function encodeRecords(
  records: Iterable<DataRecord>,
  tokenizer: Tokenizer,
  options: EncodeRecordOptions = {},
): EncodedRecords {
  const template = options.template ?? new ChatTemplate(tokenizer);
  const seqLen = options.seqLen ?? Number.POSITIVE_INFINITY;
  const examples: Example[] = [];
  let truncated = 0;
  let skipped = 0;
  for (const record of records) {
    const example = encodeWhole(record, tokenizer, template);
    if (example.ids.length <= seqLen) examples.push(example);
    else if (record.kind === 'text') examples.push(...cutText(example, seqLen));
    else if (options.overlong === 'refuse') throw tooLong(example, seqLen);
    else if (options.overlong === 'skip') skipped += 1;
    else {
      examples.push(truncate(example, seqLen));
      truncated += 1;
    }
  }
  let labelledTokens = 0;
  for (const example of examples) labelledTokens += countLabels(example.labels);
  return { examples, truncated, skipped, labelledTokens };
}

/** How many tokens of an example the loss falls on. */
export function countLabels(labels: ArrayLike<number>): number {
  let count = 0;
  for (let i = 0; i < labels.length; i++) if (labels[i] !== -100) count += 1;
  return count;
}

function encodeWhole(record: DataRecord, tokenizer: Tokenizer, template: ChatTemplate): Example {
  const { source } = record;
  let encoded: { ids: number[]; labels: number[] };
  if (record.kind === 'text') {
    const ids = tokenizer.encode(record.text);
    if (tokenizer.eosId !== null && ids.at(-1) !== tokenizer.eosId) ids.push(tokenizer.eosId);
    encoded = { ids, labels: [...ids] };
  } else encoded = template.encode(record.messages, source);
  const ids = Int32Array.from(encoded.ids);
  const labels = Int32Array.from(encoded.labels);
  if (labels.length > 0) labels[0] = -100;
  if (countLabels(labels) === 0)
    throw badRecord(source, 'expected at least one token to learn after the first, got none');
  return { ids, labels, source };
}

function truncate({ ids, labels, source }: Example, seqLen: number): Example {
  const kept = labels.slice(0, seqLen);
  if (countLabels(kept) === 0) {
    const start = labels.findIndex((label) => label !== -100);
    throw badRecord(
      source,
      `expected the answer to begin within ${seqLen} tokens, got a prompt of ${start}. ` +
        `Raise ${nameOf('seqLen')}, shorten the record, or leave such records out (${overlong('skip')})`,
    );
  }
  return { ids: ids.slice(0, seqLen), labels: kept, source };
}

/** Consecutive pieces of a long text; each piece but the first begins with the last token of the one before. */
function cutText({ ids, source }: Example, seqLen: number): Example[] {
  if (seqLen < 2) throw badRecord(source, `expected a sequence length of at least 2 tokens, got ${seqLen}`);
  const pieces: Example[] = [];
  for (let start = 0; start < ids.length - 1; start += seqLen - 1) {
    const piece = ids.slice(start, start + seqLen);
    const labels = piece.slice();
    labels[0] = -100;
    pieces.push({ ids: piece, labels, source });
  }
  return pieces;
}

const overlong = (choice: string) => forCommand(`--overlong ${choice}`, `overlong: '${choice}'`);

function tooLong({ ids, source }: Example, seqLen: number) {
  return badRecord(
    source,
    `expected at most ${seqLen} tokens, got ${ids.length}. Raise ${nameOf('seqLen')} or allow truncation (${overlong('truncate')})`,
  );
}
