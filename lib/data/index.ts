// What lib/data offers to the floors above, by name.
export { type BatchOptions, BatchSource, collate, type DataPosition, type MicroBatch, type Step } from './batches.js';
export { ChatTemplate, DEFAULT_CHAT_TEMPLATE, type Segment } from './chat-template.js';
export {
  countLabels,
  type EncodedRecords,
  type EncodeRecordOptions,
  type Example,
  encodeRecord,
  encodeRecords,
} from './encode.js';
export { DataRandom } from './random.js';
export type { ChatRecord, DataRecord, Message, RecordShape, RecordSource, TextRecord } from './record-shape.js';
export { type DataFormat, formatOf, loadRecords, type ReadOptions, readRecords } from './records.js';
export { exampleSequences, packedSequences, type Sequence, type SequenceSet } from './sequences.js';
export { type Split, splitRecords, splitTail } from './split.js';
export { type TextBlockOptions, textBlocks } from './text-blocks.js';
export {
  byteTokenizer,
  type DecodeOptions,
  type DecodeStream,
  type EncodeOptions,
  loadTokenizer,
  Tokenizer,
} from './tokenizer.js';
