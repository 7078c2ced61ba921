// The thread that writes a part of a checkpoint, started by background-write.ts and by nothing else. It computes the sum,
// writes at most so many bytes a second, syncs, renames, says how it went, and ends. It never loads the addon.
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { parentPort, workerData } from 'node:worker_threads';
import { writeAll, writeFileAtomic } from './atomic.js';
import type { WrittenFile } from './safetensors.js';

/** What it is to write: `chunks` one after the other. */
export interface WriteTask {
  readonly folder: string;
  readonly file: string;
  readonly chunks: readonly Uint8Array[];
  readonly bytesPerSecond?: number;
}

/** What it says at its end. */
export type FromWriteThread = WrittenFile | { readonly error: string; readonly code?: string };

/** So much is written at once: with a throttle a tenth of a second's worth, so that no burst disturbs the training. */
function stepOf(bytesPerSecond: number | undefined): number {
  const most = 4 << 20;
  return bytesPerSecond === undefined ? most : Math.max(1, Math.min(most, Math.ceil(bytesPerSecond / 10)));
}

async function write({ folder, file, chunks, bytesPerSecond }: WriteTask): Promise<WrittenFile> {
  const hash = createHash('sha256');
  const step = stepOf(bytesPerSecond);
  const start = performance.now();
  let bytes = 0;
  await writeFileAtomic(join(folder, file), async (handle) => {
    for (const chunk of chunks) {
      for (let at = 0; at < chunk.byteLength; at += step) {
        const piece = chunk.subarray(at, at + step);
        hash.update(piece);
        await writeAll(handle, piece);
        bytes += piece.byteLength;
        if (bytesPerSecond === undefined) continue;
        // Synced as it goes: otherwise the disk would get everything at once at the end.
        if (bytes % (8 * step) < step) await handle.datasync();
        const ahead = (bytes / bytesPerSecond) * 1000 - (performance.now() - start);
        if (ahead > 1) await wait(ahead);
      }
    }
  });
  return { bytes, sha256: hash.digest('hex') };
}

if (parentPort !== null) {
  const port = parentPort;
  try {
    port.postMessage(await write(workerData as WriteTask));
  } catch (error) {
    const { message, code } = error as NodeJS.ErrnoException;
    port.postMessage({ error: message, code } satisfies FromWriteThread);
  }
}
