// Writes a file in whole pages, past the system's page cache where that is known to pay: on the local file systems of Linux.
// What is written here is synced anyway; past the cache the copy into it is saved, which takes a processor about as long as
// the disk. What does not end with a page, and what the disk refuses, is written as ever.
import { constants, writeSync } from 'node:fs';
import { type FileHandle, open, statfs } from 'node:fs/promises';

/** What memory and place begin at a multiple of: no disk that is known asks for more. */
export const PAGE = 4096;

/** ext4 (and its forerunners) and XFS. A network's file system may wait for each write, which its cache would hide. */
const LOCAL = new Set([0xef53, 0x58465342]);

/** Writes to `file`, a handle that is the caller's. States: open -> closed (by close()). */
export class PageWriter {
  readonly #file: FileHandle;
  #direct: FileHandle | null;
  #isRefused = false;

  private constructor(file: FileHandle, direct: FileHandle | null) {
    this.#file = file;
    this.#direct = direct;
  }

  /** `path`: where the file of the handle lies. */
  static async open(file: FileHandle, path: string): Promise<PageWriter> {
    const { O_DIRECT, O_WRONLY } = constants as { O_DIRECT?: number; O_WRONLY: number }; // Linux alone has the first
    if (O_DIRECT === undefined) return new PageWriter(file, null);
    const system = await statfs(path).catch(() => null);
    const direct = LOCAL.has(system?.type ?? 0) ? await open(path, O_WRONLY | O_DIRECT).catch(() => null) : null;
    return new PageWriter(file, direct);
  }

  /** Whether what is written reaches the disk at once. It is durable only when the file is synced. */
  get isDirect(): boolean {
    return this.#direct !== null && !this.#isRefused;
  }

  /**
   * Writes all of `bytes`, which begin at a page of memory, at `position`, a multiple of PAGE. So must be
   * their number, but for the last of the file.
   */
  async write(bytes: Uint8Array, position: number): Promise<void> {
    for (let at = 0; at < bytes.byteLength; ) {
      const { file, end } = this.#next(bytes.byteLength, at);
      try {
        at += (await file.write(bytes, at, end - at, position + at)).bytesWritten;
      } catch (error) {
        this.#goOn(file, error);
      }
    }
  }

  /** As {@link write}, by the calling thread itself. */
  writeSync(bytes: Uint8Array, position: number): void {
    for (let at = 0; at < bytes.byteLength; ) {
      const { file, end } = this.#next(bytes.byteLength, at);
      try {
        at += writeSync(file.fd, bytes, at, end - at, position + at);
      } catch (error) {
        this.#goOn(file, error);
      }
    }
  }

  async close(): Promise<void> {
    await this.#direct?.close();
    this.#direct = null;
  }

  /** Through which handle the bytes from `at` on go, and up to where. */
  #next(length: number, at: number): { file: FileHandle; end: number } {
    const whole = length - (length % PAGE);
    if (this.#isRefused || this.#direct === null || at % PAGE !== 0 || at === whole)
      return { file: this.#file, end: length };
    return { file: this.#direct, end: whole };
  }

  /** A disk whose blocks are larger than a page refuses them. */
  #goOn(file: FileHandle, error: unknown): void {
    if (file !== this.#direct || (error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
    this.#isRefused = true;
  }
}
