// safetensors files: read by mapping, so that a tensor costs no memory until it is touched, and written as a stream.
// Not here: the header's rules (safetensors-header.ts), files that belong together (safetensors-folder.ts).
import { type FileHandle, open } from 'node:fs/promises';
import { resolve } from 'node:path';
import { describe, dtypeBytes, empty, keep, noGrad, ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import { writeFileAtomic } from './atomic.js';
import {
  encodeHeader,
  headerLength,
  parseHeader,
  type SafetensorsHeader,
  type TensorEntry,
  type TensorSpec,
} from './safetensors-header.js';
import { SummedStream } from './summed-stream.js';

/** Named tensors that can be read one by one: one safetensors file, or several with an index. */
export interface TensorSource {
  /** The names, in the order of the files. */
  readonly names: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  /** Whether a tensor of this name is there. */
  has(name: string): boolean;
  /** Dtype, shape and place of a tensor. Throws BAD_SAFETENSORS for a name that is not there. */
  entry(name: string): TensorEntry;
  /** A new tensor on the CPU. Throws BAD_SAFETENSORS for a name that is not there. */
  tensor(name: string): Tensor;
  /** Lets go of the mapping; tensors that were read stay usable. */
  close(): void;
}

/** One open safetensors file. */
export class SafetensorsFile implements TensorSource {
  readonly path: string;
  readonly names: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  readonly #header: SafetensorsHeader;
  readonly #bytes: number;
  #map: Tensor | null = null;

  constructor(path: string, header: SafetensorsHeader, bytes: number) {
    this.path = path;
    this.names = [...header.tensors.keys()];
    this.metadata = header.metadata;
    this.#header = header;
    this.#bytes = bytes;
  }

  has(name: string): boolean {
    return this.#header.tensors.has(name);
  }

  entry(name: string): TensorEntry {
    const entry = this.#header.tensors.get(name);
    if (entry !== undefined) return entry;
    const some = this.names.slice(0, 3).map(describe).join(', ');
    throw new ShardloopError(
      'BAD_SAFETENSORS',
      `${this.path}: expected a tensor ${describe(name)}; the file holds ${this.names.length} tensors (${some}, ...)`,
    );
  }

  /**
   * The tensor `name`, on the CPU, as a private copy-on-write view of the mapped file: writing to it does not change
   * the file. A file must not be truncated by others while it is mapped (replacing it by rename is safe).
   */
  tensor(name: string): Tensor {
    const { dtype, shape, start, bytes } = this.entry(name);
    if (bytes === 0) return empty([...shape], { dtype });
    return scope(() => {
      this.#map ??= keep(ops.from_file(this.path, { shared: false, size: this.#bytes, dtype: 'uint8' }));
      const slice = ops.slice(this.#map, { dim: 0, start, end: start + bytes });
      const width = bytes / shape.reduce((product, size) => product * size, 1);
      const aligned = start % width === 0 ? slice : ops.clone(slice);
      return ops.view(ops.view(aligned, dtype), [...shape]);
    });
  }

  close(): void {
    this.#map?.dispose();
    this.#map = null;
  }
}

/**
 * Opens a safetensors file and checks its header whole; tensors are mapped when they are asked for.
 * Throws BAD_SAFETENSORS naming the file and what is wrong with it.
 */
export async function readSafetensors(path: string): Promise<SafetensorsFile> {
  const target = resolve(path);
  const file = await open(target).catch((cause: NodeJS.ErrnoException) => {
    throw new ShardloopError('BAD_SAFETENSORS', `${path}: cannot be opened (${cause.code})`, { cause });
  });
  try {
    const stats = await file.stat();
    if (!stats.isFile()) throw new ShardloopError('BAD_SAFETENSORS', `${path}: expected a file`);
    const json = await readExactly(file, 8, headerLength(await readExactly(file, 0, 8), stats.size, path));
    return new SafetensorsFile(target, parseHeader(json, stats.size, path), stats.size);
  } finally {
    await file.close();
  }
}

async function readExactly(file: FileHandle, position: number, length: number): Promise<Uint8Array> {
  const buffer = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.read(buffer, done, length - done, position + done);
    if (bytesRead === 0) break;
    done += bytesRead;
  }
  return buffer.subarray(0, done);
}

/** What was written: the size of the file and the CRC-32 of its bytes (that of zlib and PNG). */
export interface WrittenFile {
  readonly bytes: number;
  readonly crc32: number;
}

/** A tensor that is made piece by piece while it is written, so that it need never be whole in memory. */
export interface LazyTensor extends TensorSpec {
  readonly numel: number;
  /** New: the elements from `start` up to `end`, in row-major order (end - start). */
  read(start: number, end: number): Tensor;
}

/** What can be written. */
export type Writable = Tensor | LazyTensor;

/**
 * Writes tensors (of any device) to one safetensors file: streamed in pieces of 2 MB, under a temporary name, synced
 * and renamed, so that `path` never holds half a file. Tensors are written as they are at the time that their turn
 * comes: do not change them before the promise resolves. Throws BAD_ARGUMENT for a dtype that the format lacks, and for
 * a tensor whose memory was released.
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, Writable>,
  metadata: Readonly<Record<string, string>> = {},
): Promise<WrittenFile> {
  for (const [name, t] of tensors) refuseReleased(name, t);
  const header = encodeHeader(tensors, metadata);
  const bytes = header.bytes.byteLength + header.dataBytes;
  let crc32 = 0;
  await writeFileAtomic(path, async (file, temporary) => {
    const stream = await SummedStream.open(file, temporary, bytes);
    try {
      await stream.putBytes(header.bytes);
      for (const name of header.names) await writeTensor(tensors.get(name)!, stream);
      crc32 = await stream.end();
    } finally {
      await stream.dispose();
    }
  });
  return { bytes, crc32 };
}

/** A sharded parameter has a shape but no memory outside of its segment's turn. */
export function refuseReleased(name: string, t: Writable): void {
  if (t.numel === 0 || 'read' in t || t.isDisposed || t.storageBytes > 0) return;
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `tensor ${JSON.stringify(name)}: expected [${t.shape.join(', ')}] in memory, received one that was released; save sharded parameters inside strategy.whole()`,
  );
}

async function writeTensor(tensor: Writable, stream: SummedStream): Promise<void> {
  const { numel, dtype } = tensor;
  if (numel === 0) return;
  const whole = 'read' in tensor ? null : noGrad(() => scope(() => keep(ops.reshape(ops.detach(tensor), [-1]))));
  try {
    for (let at = 0; at < numel; ) {
      const end = Math.min(numel, at + Math.floor(stream.room / dtypeBytes(dtype)));
      const piece = noGrad(() =>
        scope(() => keep(whole ? ops.slice(whole, { dim: 0, start: at, end }) : (tensor as LazyTensor).read(at, end))),
      );
      try {
        await stream.put(piece);
      } finally {
        piece.dispose();
      }
      at = end;
    }
  } finally {
    whole?.dispose();
  }
}
