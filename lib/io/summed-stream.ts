// The bytes of a file on their way to the disk, with their sum. They are gathered in two buffers that take turns: while one
// is written, on another thread, its sum is computed here and the other one is filled. What goes through the system's cache
// is sent to the disk as it goes, so that the sync at the end finds little to do. What is summed is what is written,
// whatever becomes of the memory that it was copied from.
import type { FileHandle } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import { alignedBytes, dtypeBytes, readBytes, type Tensor } from '../core/index.js';
import { PAGE, PageWriter } from './page-writer.js';

/** Large enough that a write is worth its way to another thread, small enough to be summed out of the cache. */
const BUFFER_BYTES = 2 << 20;
/** So much is written into the system's cache before the disk is told to begin. */
const SYNC_BYTES = 16 << 20;

/** The widest element, and more. */
const MIN_BYTES = 64;

/** States: open -> ended (by end(), or with the file still short of something by dispose()). The handle is the caller's. */
export class SummedStream {
  readonly #file: FileHandle;
  readonly #writer: PageWriter;
  /** The one that is being filled, and the one that is written or free. */
  #buffers: [Uint8Array, Uint8Array];
  #filled = 0;
  #written = 0;
  #sum = 0;
  #unsynced = 0;
  #writing: Promise<void> = Promise.resolve();
  #syncing: Promise<void> | null = null;
  #failed: unknown;

  private constructor(file: FileHandle, writer: PageWriter, capacity: number) {
    this.#file = file;
    this.#writer = writer;
    this.#buffers = [alignedBytes(capacity, PAGE), alignedBytes(capacity, PAGE)];
  }

  /** `path`: where the file lies; `bytes`: how many there will be. */
  static async open(file: FileHandle, path: string, bytes: number): Promise<SummedStream> {
    const capacity = Math.min(BUFFER_BYTES, Math.ceil(bytes / PAGE) * PAGE + PAGE);
    return new SummedStream(file, await PageWriter.open(file, path), capacity);
  }

  /** How many bytes {@link put} takes now, at least 64 of them. */
  get room(): number {
    return this.#buffers[0].byteLength - this.#filled;
  }

  /** Adds the elements of a tensor of any device in row-major order, no more than there is room for. */
  async put(piece: Tensor): Promise<void> {
    const start = this.#filled;
    this.#filled += piece.numel * dtypeBytes(piece.dtype);
    readBytes(piece, this.#buffers[0].subarray(start, this.#filled));
    if (this.room < MIN_BYTES) await this.#flush();
  }

  /** As {@link put}, of any length. */
  async putBytes(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength; ) {
      const piece = bytes.subarray(at, at + this.room);
      this.#buffers[0].set(piece, this.#filled);
      this.#filled += piece.byteLength;
      at += piece.byteLength;
      if (this.room < MIN_BYTES) await this.#flush();
    }
  }

  /** Waits until all is written. Resolves with the CRC-32. Throws what a write failed with. */
  async end(): Promise<number> {
    await this.#flush(true);
    await this.#writing;
    await this.#syncing;
    if (this.#failed !== undefined) throw this.#failed;
    return this.#sum;
  }

  /** Lets go of the file, when nothing is on its way any more. */
  async dispose(): Promise<void> {
    await Promise.allSettled([this.#writing, this.#syncing]);
    await this.#writer.close();
  }

  /** Whole pages go; what is left begins the other buffer, unless it is the last. */
  async #flush(isLast = false): Promise<void> {
    const [full, other] = this.#buffers;
    const end = isLast ? this.#filled : this.#filled - (this.#filled % PAGE);
    const bytes = full.subarray(0, end);
    await this.#writing; // of the other buffer, which is filled next
    this.#startSync();
    this.#writing = this.#writer.write(bytes, this.#written);
    this.#writing.catch(() => {}); // the next flush throws it
    this.#sum = crc32(bytes, this.#sum);
    this.#written += end;
    this.#unsynced += end;
    other.set(full.subarray(end, this.#filled));
    this.#buffers = [other, full];
    this.#filled -= end;
  }

  /** The system says once that it could not keep what was written: whoever asks must remember it. */
  #startSync(): void {
    if (this.#failed !== undefined) throw this.#failed;
    if (this.#writer.isDirect || this.#unsynced < SYNC_BYTES || this.#syncing !== null) return;
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
