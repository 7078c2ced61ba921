// Writes the event file that TensorBoard reads: TFRecord framing around `tensorflow.Event` messages.
// Only scalars, one text and the session marker are written; field numbers are those of tensorflow's event.proto,
// summary.proto and tensor.proto.
import { closeSync, mkdirSync, openSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import type { MetricsSink, StepMetrics } from './metrics.js';

/** The tag under which each metric appears. */
const TAGS: [string, (metrics: StepMetrics) => number | undefined][] = [
  ['train/loss', (m) => m.loss],
  ['train/lr', (m) => m.lr],
  ['train/grad_norm', (m) => m.gradNorm],
  ['train/loss_scale', (m) => m.lossScale],
  ['train/skipped_steps', (m) => m.skippedSteps],
  ['train/epoch', (m) => m.epoch],
  ['speed/tokens_per_second', (m) => m.tokensPerSecond],
  ['speed/utilization', (m) => m.utilization],
  ['memory/peak_bytes', (m) => m.memoryPeak],
  ['eval/loss', (m) => m.evalLoss],
  ['eval/perplexity', (m) => m.evalPerplexity],
];

let files = 0; // of this process: names of one second must differ

/**
 * An event file in `folder`, beginning with the run's configuration as text. A run that continues after `resumedStep`
 * tells TensorBoard to forget later points of the files before it.
 */
export function tensorBoardSink(folder: string, options: { text?: string; resumedStep?: number } = {}): MetricsSink {
  mkdirSync(folder, { recursive: true });
  const seconds = Math.floor(Date.now() / 1000);
  const file = openSync(join(folder, `events.out.tfevents.${seconds}.${hostname()}.${process.pid}.${files++}`), 'wx');
  const write = (event: Uint8Array) => writeSync(file, tfRecord(event));
  write(encodeEvent(0, (event) => event.tag(3, WireType.LengthDelimited).string('brain.Event:2')));
  if (options.resumedStep) write(encodeEvent(options.resumedStep + 1, sessionStart));
  if (options.text) write(encodeEvent(0, (event) => summary(event, textValue('config', options.text!))));
  return {
    write: (metrics) => {
      const values = TAGS.flatMap(([tag, read]) => {
        const value = read(metrics);
        return value === undefined ? [] : [scalarValue(tag, value)];
      });
      write(encodeEvent(metrics.step, (event) => summary(event, ...values)));
    },
    close: () => closeSync(file),
  };
}

type Fill = (message: BinaryWriter) => unknown;

function encodeEvent(step: number, fill: Fill): Uint8Array {
  const event = new BinaryWriter();
  event.tag(1, WireType.Bit64).double(Date.now() / 1000); // wall_time
  event.tag(2, WireType.Varint).int64(step);
  fill(event);
  return event.finish();
}

/** A sub-message in field `field`. */
function message(into: BinaryWriter, field: number, fill: Fill): void {
  into.tag(field, WireType.LengthDelimited).fork();
  fill(into);
  into.join();
}

const summary = (event: BinaryWriter, ...values: Fill[]) =>
  message(event, 5, (all) => {
    for (const value of values) message(all, 1, value);
  });

const scalarValue = (tag: string, value: number): Fill => {
  return (into) => into.tag(1, WireType.LengthDelimited).string(tag).tag(2, WireType.Bit32).float(clampToFloat(value));
};

function textValue(tag: string, text: string): Fill {
  return (into) => {
    into.tag(1, WireType.LengthDelimited).string(`${tag}/text_summary`);
    message(into, 9, (metadata) =>
      message(metadata, 1, (plugin) => plugin.tag(1, WireType.LengthDelimited).string('text')),
    );
    message(into, 8, (tensor) => {
      tensor.tag(1, WireType.Varint).int32(7); // DT_STRING
      message(tensor, 2, (shape) => message(shape, 2, (dim) => dim.tag(1, WireType.Varint).int64(1)));
      tensor.tag(8, WireType.LengthDelimited).string(text);
    });
  };
}

const sessionStart: Fill = (event) => message(event, 7, (log) => log.tag(1, WireType.Varint).int32(1)); // START

/** protobuf's `float` refuses finite numbers beyond float32; the gradient norm of a diverged run can be one. */
function clampToFloat(value: number): number {
  const largest = 3.4028234663852886e38;
  return Number.isFinite(value) ? Math.max(-largest, Math.min(largest, value)) : value;
}

/** One record: length (u64), masked CRC of the length, data, masked CRC of the data; little endian. */
export function tfRecord(data: Uint8Array): Buffer {
  const record = Buffer.alloc(data.length + 16);
  record.writeBigUInt64LE(BigInt(data.length), 0);
  record.writeUInt32LE(maskedCrc32c(record.subarray(0, 8)), 8);
  record.set(data, 12);
  record.writeUInt32LE(maskedCrc32c(data), 12 + data.length);
  return record;
}

/** TFRecord stores checksums rotated and offset, so that a checksum of checksums stays useful. */
export function maskedCrc32c(data: Uint8Array): number {
  const crc = crc32c(data);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});

/** CRC-32C (Castagnoli), as in RFC 3720. */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = CRC_TABLE[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
