// The bytes of a file on their way to the disk, with their sum. They are gathered in two buffers that take turns: while one
// is written, on another thread, its sum is computed here and the other one is filled. What was written is sent to the disk
// as it goes, so that the sync at the end finds little to do. What is summed is what is written, whatever becomes of the
// memory that it was copied from.
import type { FileHandle } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { dtypeBytes, empty, keep, noGrad, ops, scope, type Tensor } from '../core/index.js';
import { writeAll } from './atomic.js';

/** Large enough that a write is worth its way to another thread, small enough to be summed out of the cache. */
const BUFFER_BYTES = 2 << 20;
/** So much is written before the disk is told to begin. */
const SYNC_BYTES = 16 << 20;

/** The widest element, and more. */
const MIN_BYTES = 64;

interface Buffer {
  readonly tensor: Tensor;
  /** The tensor's memory. */
  readonly bytes: Uint8Array;
}

/** States: open -> ended (by end(), or with the file still short of something by dispose()). The handle is the caller's. */
export class SummedStream {
  readonly #file: FileHandle;
  readonly #capacity: number;
  /** The one that is being filled, and the one that is written or free. */
  #buffers: [Buffer, Buffer];
  #filled = 0;
  #sum = 0;
  #unsynced = 0;
  #writing: Promise<void> = Promise.resolve();
  #syncing: Promise<void> | null = null;
  #failed: unknown;

  /** `bytes`: how many there will be. */
  constructor(file: FileHandle, bytes: number) {
    this.#file = file;
    this.#capacity = Math.max(MIN_BYTES, Math.min(BUFFER_BYTES, bytes));
    this.#buffers = [this.#make(), this.#make()];
  }

  /** How many bytes {@link put} takes now, at least 64 of them. */
  get room(): number {
    return this.#capacity - this.#filled;
  }

  /** Adds the elements of a tensor of any device in row-major order, no more than there is room for. */
  async put(piece: Tensor): Promise<void> {
    const start = this.#filled;
    this.#filled += piece.numel * dtypeBytes(piece.dtype);
    noGrad(() =>
      scope(() => {
        const bytes = ops.view(ops.reshape(ops.contiguous(ops.detach(piece)), [-1]), 'uint8');
        ops.copy_(ops.slice(this.#buffers[0].tensor, { dim: 0, start, end: this.#filled }), bytes);
      }),
    );
    if (this.room < MIN_BYTES) await this.#flush();
  }

  /** As {@link put}, of any length. */
  async putBytes(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength; ) {
      const piece = bytes.subarray(at, at + this.room);
      this.#buffers[0].bytes.set(piece, this.#filled);
      this.#filled += piece.byteLength;
      at += piece.byteLength;
      if (this.room < MIN_BYTES) await this.#flush();
    }
  }

  /** Waits until all is written. Resolves with the CRC-32. Throws what a write failed with. */
  async end(): Promise<number> {
    await this.#flush();
    await this.#writing;
    await this.#syncing;
    if (this.#failed !== undefined) throw this.#failed;
    return this.#sum;
  }

  /** Lets go of the buffers, when nothing is on its way any more. */
  async dispose(): Promise<void> {
    await Promise.allSettled([this.#writing, this.#syncing]);
    for (const { tensor } of this.#buffers) tensor[Symbol.dispose]();
  }

  #make(): Buffer {
    const tensor = scope(() => keep(empty([this.#capacity], { dtype: 'uint8' })));
    return { tensor, bytes: tensor.dataShared() as Uint8Array };
  }

  async #flush(): Promise<void> {
    const [full, other] = this.#buffers;
    const bytes = full.bytes.subarray(0, this.#filled);
    await this.#writing; // of the other buffer, which is filled next
    this.#startSync();
    this.#writing = writeAll(this.#file, bytes);
    this.#writing.catch(() => {}); // the next flush throws it
    this.#sum = crc32(bytes, this.#sum);
    this.#unsynced += bytes.byteLength;
    this.#buffers = [other, full];
    this.#filled = 0;
  }

  /** The system says once that it could not keep what was written: whoever asks must remember it. */
  #startSync(): void {
    if (this.#failed !== undefined) throw this.#failed;
    if (this.#unsynced < SYNC_BYTES || this.#syncing !== null) return;
    this.#unsynced = 0;
    this.#syncing = this.#file.datasync().then(
      () => {
        this.#syncing = null;
      },
      (error: unknown) => {
        this.#failed = error;
      },
    );
  }
}
