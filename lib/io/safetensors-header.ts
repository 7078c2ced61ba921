// The header of a safetensors file: parsed with every promise of the format checked, and written.
// Pure functions over bytes; not here: files and tensors (safetensors.ts).
// The format: 8 bytes of little-endian header length N, N bytes of JSON, then the data without holes or overlaps.
import type { DType } from '../core/dtype.js';
import { DTYPES } from '../core/dtype.js';
import { describe, ShardloopError } from '../core/errors.js';

/** The longest JSON header that is accepted, in bytes; the same limit as the format's reference reader. */
export const MAX_HEADER_BYTES = 100_000_000;

const DTYPE_OF_NAME: Readonly<Record<string, DType>> = {
  F64: 'float64',
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  F8_E4M3: 'float8_e4m3fn',
  F8_E5M2: 'float8_e5m2',
  I64: 'int64',
  I32: 'int32',
  I16: 'int16',
  I8: 'int8',
  U64: 'uint64',
  U32: 'uint32',
  U16: 'uint16',
  U8: 'uint8',
  BOOL: 'bool',
  C64: 'complex64',
};
const NAME_OF_DTYPE = new Map(Object.entries(DTYPE_OF_NAME).map(([name, dtype]) => [dtype, name]));

/** One tensor of a file: where its bytes are. */
export interface TensorEntry {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Offset of the first byte from the beginning of the file. */
  readonly start: number;
  /** Bytes of the tensor. */
  readonly bytes: number;
}

/** A checked header. */
export interface SafetensorsHeader {
  /** By name, in the order of the header. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Offset of the data from the beginning of the file. */
  readonly dataStart: number;
}

function damaged(file: string, what: string, cause?: unknown): ShardloopError {
  return new ShardloopError('BAD_SAFETENSORS', `${file}: not a sound safetensors file: ${what}`, { cause });
}

/**
 * The length of the JSON header, from the first eight bytes of a file of `fileBytes` bytes.
 * Throws BAD_SAFETENSORS for a length that the file cannot hold or that is beyond {@link MAX_HEADER_BYTES}.
 */
export function headerLength(prefix: Uint8Array, fileBytes: number, file: string): number {
  if (fileBytes < 8 || prefix.byteLength < 8) {
    throw damaged(file, `expected at least 8 bytes of header length, the file has ${fileBytes}; it is truncated`);
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES)) {
    throw damaged(file, `it announces a header of ${length} bytes, and at most ${MAX_HEADER_BYTES} are accepted`);
  }
  if (length + 8n > BigInt(fileBytes)) {
    throw damaged(file, `it announces a header of ${length} bytes, but only ${fileBytes - 8} follow; it is truncated`);
  }
  return Number(length);
}

/**
 * Parses and checks a header.
 *
 * @param json the JSON bytes (without the eight bytes of length)
 * @param fileBytes the size of the whole file, against which every offset is checked
 * @param file the name for messages
 * @throws BAD_SAFETENSORS with what is wrong: not UTF-8, not JSON, a name twice, an unknown dtype, a bad shape, a size
 *   that contradicts shape and dtype, an overlap, a hole, or data that is missing or left over.
 */
export function parseHeader(json: Uint8Array, fileBytes: number, file: string): SafetensorsHeader {
  const root = parseObject(json, file);
  const dataStart = 8 + json.byteLength;
  const dataBytes = fileBytes - dataStart;
  const tensors = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(root)) {
    if (name === '__metadata__') metadata = parseMetadata(value, file);
    else tensors.set(name, parseEntry(name, value, dataStart, dataBytes, file));
  }
  checkCoverage(tensors, dataStart, dataBytes, file);
  return { tensors, metadata, dataStart };
}

function parseObject(json: Uint8Array, file: string): Record<string, unknown> {
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(json);
  } catch (cause) {
    throw damaged(file, 'its header is not valid UTF-8', cause);
  }
  if (!text.startsWith('{')) throw damaged(file, `its header must begin with "{", it begins with ${first(text)}`);
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch (cause) {
    throw damaged(file, `its header is not valid JSON (${(cause as Error).message})`, cause);
  }
  const twice = duplicateKey(text);
  if (twice !== null) throw damaged(file, `its header names ${describe(twice)} twice`);
  return root as Record<string, unknown>;
}

function first(text: string): string {
  return text === '' ? 'nothing' : JSON.stringify(text.slice(0, 1));
}

/** The first key that an object of this (valid) JSON text holds twice, or null. JSON.parse would keep the last. */
export function duplicateKey(text: string): string | null {
  const open: (Set<string> | null)[] = []; // A set of keys for each open object, null for each open array.
  const tokens = /"(?:[^"\\]|\\.)*"|[{}[\]]/gs;
  for (let match = tokens.exec(text); match !== null; match = tokens.exec(text)) {
    const token = match[0];
    if (token === '{') open.push(new Set());
    else if (token === '[') open.push(null);
    else if (token === '}' || token === ']') open.pop();
    else {
      const keys = open.at(-1);
      if (keys && followedByColon(text, tokens.lastIndex)) {
        const key = JSON.parse(token) as string;
        if (keys.has(key)) return key;
        keys.add(key);
      }
    }
  }
  return null;
}

function followedByColon(text: string, from: number): boolean {
  let at = from;
  while (' \t\n\r'.includes(text[at] ?? 'end')) at++;
  return text[at] === ':';
}

function parseMetadata(value: unknown, file: string): Record<string, string> {
  if (!isObject(value)) throw damaged(file, `__metadata__ must be an object of strings, it is ${describe(value)}`);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') {
      throw damaged(file, `__metadata__[${describe(key)}] must be a string, it is ${describe(text)}`);
    }
  }
  return value as Record<string, string>;
}

function parseEntry(name: string, value: unknown, dataStart: number, dataBytes: number, file: string): TensorEntry {
  const wrong = (what: string) => damaged(file, `tensor ${describe(name)}: ${what}`);
  if (!isObject(value)) throw wrong(`expected an object with dtype, shape and data_offsets, it is ${describe(value)}`);
  const known = typeof value.dtype === 'string' && Object.hasOwn(DTYPE_OF_NAME, value.dtype);
  const dtype = known ? DTYPE_OF_NAME[value.dtype as string] : undefined;
  if (dtype === undefined) {
    throw wrong(`dtype ${describe(value.dtype)} is not one of ${Object.keys(DTYPE_OF_NAME).join(', ')}`);
  }
  const { shape, data_offsets: offsets } = value;
  if (!isSizes(shape)) throw wrong(`shape must be a list of sizes, it is ${show(shape)}`);
  if (!isSizes(offsets) || offsets.length !== 2)
    throw wrong(`data_offsets must be two offsets, it is ${show(offsets)}`);
  const [begin, end] = offsets as [number, number];
  if (begin > end) throw wrong(`data_offsets [${begin}, ${end}] end before they begin`);
  if (end > dataBytes) {
    throw wrong(`data_offsets [${begin}, ${end}] reach beyond the ${dataBytes} bytes of data; the file is truncated`);
  }
  const bytes = shape.reduce((product, size) => product * BigInt(size), BigInt(DTYPES[dtype].bytes));
  if (bytes !== BigInt(end - begin)) {
    throw wrong(`shape [${shape}] of ${value.dtype} takes ${bytes} bytes, its data_offsets hold ${end - begin}`);
  }
  return { dtype, shape, start: dataStart + begin, bytes: end - begin };
}

function checkCoverage(tensors: Map<string, TensorEntry>, dataStart: number, dataBytes: number, file: string): void {
  const order = [...tensors].sort(([, a], [, b]) => a.start - b.start || a.bytes - b.bytes);
  let at = dataStart;
  let before = 'the header';
  for (const [name, entry] of order) {
    if (entry.start < at) throw damaged(file, `tensor ${describe(name)} overlaps ${before}`);
    if (entry.start > at) {
      throw damaged(file, `${entry.start - at} bytes between ${before} and tensor ${describe(name)} belong to none`);
    }
    at = entry.start + entry.bytes;
    before = `tensor ${describe(name)}`;
  }
  const left = dataStart + dataBytes - at;
  if (left !== 0) throw damaged(file, `${left} bytes after ${before} belong to no tensor`);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0 && !Object.is(size, -0));
}

function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 60)}...` : text;
}

/** What is written of a tensor: its dtype and shape. */
export interface TensorSpec {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

/**
 * The first bytes of a file: header length and header, padded with spaces so that the data begins on a multiple of
 * eight bytes. The data must follow in the order of the returned `names` (wide elements first, then by name, so that
 * every tensor is aligned to its element).
 * Throws BAD_ARGUMENT for a dtype that the format cannot hold, or the reserved name `__metadata__`.
 */
export function encodeHeader(
  tensors: ReadonlyMap<string, TensorSpec>,
  metadata: Readonly<Record<string, string>> = {},
): { bytes: Uint8Array; names: string[]; dataBytes: number } {
  const width = (name: string) => DTYPES[tensors.get(name)!.dtype].bytes;
  const names = [...tensors.keys()].sort((a, b) => width(b) - width(a) || (a < b ? -1 : 1));
  const entries: [string, unknown][] = Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : [];
  let at = 0;
  for (const name of names) {
    const { dtype, shape } = tensors.get(name)!;
    const code = NAME_OF_DTYPE.get(dtype);
    if (code === undefined || name === '__metadata__') {
      const reason = code === undefined ? `dtype ${dtype}` : 'this reserved name';
      throw new ShardloopError('BAD_ARGUMENT', `safetensors cannot hold ${reason} (tensor ${describe(name)})`);
    }
    const size = shape.reduce((product, extent) => product * extent, DTYPES[dtype].bytes);
    entries.push([name, { dtype: code, shape, data_offsets: [at, at + size] }]);
    at += size;
  }
  // By hand, not through an object: keys such as "10" would be reordered and "__proto__" lost.
  const json = `{${entries.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(',')}}`;
  const text = new TextEncoder().encode(json);
  const padded = Math.ceil(text.byteLength / 8) * 8;
  const bytes = new Uint8Array(8 + padded).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
  bytes.set(text, 8);
  return { bytes, names, dataBytes: at };
}
