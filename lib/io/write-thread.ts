// The thread that writes parts of checkpoints, started by background-write.ts and by nothing else. For each task it computes
// the sum, writes at most so many bytes a second, syncs, renames, lets go of the memory and says how it went. It never
// loads the addon. On Linux, where a thread can have a priority of its own, it takes the lowest, and writes by calls that
// this thread makes itself: training has the processor whenever it wants it.
import { fdatasyncSync } from 'node:fs';
import { setPriority } from 'node:os';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { MessageChannel, parentPort } from 'node:worker_threads';
import { crc32 } from 'node:zlib';
import { writeFileAtomic } from './atomic.js';
import { PAGE, PageWriter } from './page-writer.js';
import type { WrittenFile } from './safetensors.js';

/** What it is to write: `chunks` one after the other, which begin at pages of memory, and all but the last end at one. */
export interface WriteTask {
  readonly folder: string;
  readonly file: string;
  readonly chunks: readonly Uint8Array[];
  readonly bytesPerSecond?: number;
}

/** What it says at the end of a task. */
export type FromWriteThread = WrittenFile | { readonly error: string; readonly code?: string };

/** So many bytes are written at once, whole pages: with a throttle a tenth of a second's worth, so that no burst disturbs the training. */
function stepOf(bytesPerSecond: number | undefined): number {
  const most = 4 << 20;
  return bytesPerSecond === undefined ? most : Math.min(most, Math.ceil(bytesPerSecond / 10 / PAGE) * PAGE);
}

async function write({ folder, file, chunks, bytesPerSecond }: WriteTask): Promise<WrittenFile> {
  const step = stepOf(bytesPerSecond);
  const start = performance.now();
  let [bytes, sum] = [0, 0];
  await writeFileAtomic(join(folder, file), async (handle, temporary) => {
    const writer = await PageWriter.open(handle, temporary);
    try {
      for (const chunk of chunks) {
        for (let at = 0; at < chunk.byteLength; at += step) {
          const piece = chunk.subarray(at, at + step);
          sum = crc32(piece, sum);
          writer.writeSync(piece, bytes);
          bytes += piece.byteLength;
          if (bytesPerSecond === undefined) continue;
          // Synced as it goes: otherwise the disk would get everything at once at the end.
          if (!writer.isDirect && bytes % (8 * step) < step) fdatasyncSync(handle.fd);
          const ahead = (bytes / bytesPerSecond) * 1000 - (performance.now() - start);
          if (ahead > 1) await wait(ahead);
        }
      }
    } finally {
      await writer.close();
    }
  });
  return { bytes, crc32: sum };
}

/** Frees the memory now, which the collector of a thread that waits would not: it leaves by a door that is closed. */
function release(chunks: readonly Uint8Array[]): void {
  const { port1, port2 } = new MessageChannel();
  port2.close();
  port1.postMessage(
    null,
    chunks.map(({ buffer }) => buffer as ArrayBuffer),
  );
  port1.close();
}

async function run(task: WriteTask): Promise<FromWriteThread> {
  try {
    return await write(task);
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException;
    return { error: message, code };
  } finally {
    release(task.chunks);
  }
}

if (parentPort !== null) {
  const port = parentPort;
  // 0 is the calling thread on Linux; elsewhere it would be the whole process.
  if (process.platform === 'linux') setPriority(0, 19);
  port.on('message', async (task: WriteTask) => port.postMessage(await run(task)));
}
