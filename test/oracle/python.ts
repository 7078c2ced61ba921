// Runs the functions `main(args, tensors)` of test/oracle/*.py in the oracle's Python environment, in one worker
// process that lives as long as the test file (importing torch takes seconds). Tensors travel as safetensors files that
// this file reads and writes by itself, so that a fault in lib/io cannot hide in its own oracle.
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';

/** A tensor as plain bytes: row-major, little-endian, dtype by Python torch's name. */
export interface HostTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data: Uint8Array;
}

export interface PythonResult<T> {
  /** What `main` returned, or its first element when it returned `(value, tensors)`. */
  readonly value: T;
  readonly tensors: Map<string, HostTensor>;
}

/** What a shardloop Tensor shows of itself here; structural, so that this file imports nothing of lib/. */
interface TensorLike {
  readonly shape: readonly number[];
  readonly dtype: string;
  dataSync(options?: { bits?: boolean }): ArrayBufferView;
}

const here = dirname(fileURLToPath(import.meta.url));

const DTYPE_CODES: Readonly<Record<string, string>> = {
  bool: 'BOOL',
  uint8: 'U8',
  int8: 'I8',
  int16: 'I16',
  int32: 'I32',
  int64: 'I64',
  float16: 'F16',
  bfloat16: 'BF16',
  float32: 'F32',
  float64: 'F64',
  complex64: 'C64',
  complex128: 'C128', // not in the published format: only our two ends of the pipe know it
};
const DTYPE_NAMES = new Map(Object.entries(DTYPE_CODES).map(([name, code]) => [code, name]));

/** The interpreter of the oracle's environment: SHARDLOOP_ORACLE_PYTHON, else `<cache>/python/bin/python`. */
export function pythonPath(): string {
  const cache =
    process.env.SHARDLOOP_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'shardloop');
  return process.env.SHARDLOOP_ORACLE_PYTHON ?? join(cache, 'python', 'bin', 'python');
}

/** Copies a shardloop tensor (or anything with shape, dtype and dataSync) into a HostTensor. */
export function toHost(t: TensorLike): HostTensor {
  const array = t.dataSync({ bits: true });
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength).slice();
  return { dtype: t.dtype, shape: [...t.shape], data: bytes };
}

/** The elements of a HostTensor as numbers (bf16 and fp16 widened; int64 must fit in 2^53); complex gives pairs. */
export function numbers(t: HostTensor): Float64Array {
  const copy = t.data.slice().buffer;
  switch (t.dtype) {
    case 'float64':
    case 'complex128':
      return new Float64Array(copy);
    case 'float32':
    case 'complex64':
      return Float64Array.from(new Float32Array(copy));
    case 'bfloat16':
      return Float64Array.from(new Float32Array(Uint32Array.from(new Uint16Array(copy), (b) => b << 16).buffer));
    case 'float16':
      return Float64Array.from(new Uint16Array(copy), halfToNumber);
    case 'int64':
      return Float64Array.from(new BigInt64Array(copy), Number);
    case 'int32':
      return Float64Array.from(new Int32Array(copy));
    case 'int16':
      return Float64Array.from(new Int16Array(copy));
    case 'int8':
      return Float64Array.from(new Int8Array(copy));
    case 'uint8':
    case 'bool':
      return Float64Array.from(new Uint8Array(copy));
    default:
      throw new Error(`numbers: no reading for dtype ${t.dtype}`);
  }
}

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** The typed array that `tensor(data, { dtype, shape })` takes for these bytes (bf16 and fp16 as bits). */
export function typedArray(
  t: HostTensor,
): Float32Array | Float64Array | BigInt64Array | Int32Array | Int16Array | Int8Array | Uint8Array | Uint16Array {
  const copy = t.data.slice().buffer;
  switch (t.dtype) {
    case 'float64':
    case 'complex128':
      return new Float64Array(copy);
    case 'float32':
    case 'complex64':
      return new Float32Array(copy);
    case 'int64':
      return new BigInt64Array(copy);
    case 'int32':
      return new Int32Array(copy);
    case 'int16':
      return new Int16Array(copy);
    case 'int8':
      return new Int8Array(copy);
    case 'float16':
    case 'bfloat16':
      return new Uint16Array(copy);
    default:
      return new Uint8Array(copy);
  }
}

/** The largest |a - b| over the elements, divided by the largest |b| (1e-30 at least). Shapes must agree. */
export function relativeError(a: HostTensor, b: HostTensor): number {
  if (a.shape.join() !== b.shape.join()) throw new Error(`shapes differ: [${a.shape}] here, [${b.shape}] in Python`);
  const x = numbers(a);
  const y = numbers(b);
  let worst = 0;
  let largest = 1e-30;
  for (let i = 0; i < y.length; i++) {
    largest = Math.max(largest, Math.abs(y[i]!));
    const difference = Math.abs(x[i]! - y[i]!);
    if (Number.isNaN(difference)) return Number.NaN;
    worst = Math.max(worst, difference);
  }
  return worst / largest;
}

/** Writes a safetensors file; tensors in the map's order. */
export function writeTensorFile(path: string, tensors: ReadonlyMap<string, HostTensor>): void {
  const header: Record<string, { dtype: string; shape: readonly number[]; data_offsets: [number, number] }> = {};
  let offset = 0;
  for (const [name, t] of tensors) {
    const code = DTYPE_CODES[t.dtype];
    if (!code) throw new Error(`writeTensorFile: dtype ${t.dtype} of ${name} has no code`);
    header[name] = { dtype: code, shape: t.shape, data_offsets: [offset, offset + t.data.byteLength] };
    offset += t.data.byteLength;
  }
  let json = Buffer.from(JSON.stringify(header));
  json = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  writeFileSync(path, Buffer.concat([length, json, ...[...tensors.values()].map((t) => t.data)]));
}

/** Reads a safetensors file whole. */
export function readTensorFile(path: string): Map<string, HostTensor> {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, start)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const result = new Map<string, HostTensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const dtype = DTYPE_NAMES.get(entry.dtype);
    if (!dtype) throw new Error(`readTensorFile: unknown dtype code ${entry.dtype} of ${name}`);
    const [from, to] = entry.data_offsets;
    result.set(name, { dtype, shape: entry.shape, data: new Uint8Array(file.subarray(start + from, start + to)) });
  }
  return result;
}

interface Reply {
  id: number;
  value?: unknown;
  error?: string;
}

/** One Python process; requests go in as JSON lines on stdin, replies come back as JSON lines on descriptor 3. */
class Worker {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  #next = 1;
  #stderr = '';
  dead = false;

  constructor() {
    const program = pythonPath();
    if (!existsSync(program)) {
      throw new Error(`the oracle's Python is not at ${program}: run \`npm run test:oracle\`, which makes it`);
    }
    this.#child = spawn(program, ['-u', join(here, 'worker.py')], {
      stdio: ['pipe', 'ignore', 'pipe', 'pipe'],
      env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1', TOKENIZERS_PARALLELISM: 'false', HF_HUB_OFFLINE: '1' },
    });
    this.#child.stderr!.on('data', (chunk: Buffer) => {
      this.#stderr = (this.#stderr + chunk.toString()).slice(-8000);
    });
    createInterface({ input: this.#child.stdio[3] as Readable }).on('line', (line) => this.#receive(line));
    this.#child.once('exit', (code, signal) => {
      this.dead = true;
      for (const { reject } of this.#waiting.values()) {
        reject(new Error(`the oracle's Python ended (${signal ?? code}):\n${this.#stderr}`));
      }
      this.#waiting.clear();
    });
    process.once('exit', () => this.#child.kill());
    this.#hold(false);
  }

  request(script: string, args: object, folder: string): Promise<unknown> {
    const id = this.#next++;
    this.#hold(true);
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.stdin!.write(`${JSON.stringify({ id, script, args, folder })}\n`);
    });
  }

  #receive(line: string): void {
    const reply = JSON.parse(line) as Reply;
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if (this.#waiting.size === 0) this.#hold(false);
    if (reply.error !== undefined) waiting?.reject(new Error(`in Python:\n${reply.error}`));
    else waiting?.resolve(reply.value);
  }

  /** An idle worker must not keep the test process alive; a working one must. */
  #hold(on: boolean): void {
    const parts = [this.#child, ...this.#child.stdio] as { ref?(): void; unref?(): void }[];
    for (const part of parts) on ? part?.ref?.() : part?.unref?.();
  }
}

let worker: Worker | undefined;

/**
 * Calls `main(args, tensors)` of test/oracle/`script`.py. `main` returns a JSON value, or a pair of a JSON value and a
 * dict of tensors. Calls are served one after another by one process with one torch thread; a Python exception rejects
 * with its traceback. NaN and infinities travel in tensors, not in JSON.
 */
export async function python<T = unknown>(
  script: string,
  args: object = {},
  tensors: ReadonlyMap<string, HostTensor> = new Map(),
): Promise<PythonResult<T>> {
  if (!worker || worker.dead) worker = new Worker();
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-oracle-'));
  try {
    if (tensors.size > 0) writeTensorFile(join(folder, 'in.safetensors'), tensors);
    const value = (await worker.request(script, args, folder)) as T;
    const output = join(folder, 'out.safetensors');
    return { value, tensors: existsSync(output) ? readTensorFile(output) : new Map() };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
