// A part of a checkpoint written beside training: its bytes are copied, which is all that the caller waits for, and handed
// to a thread of its own (write-thread.ts) that neither the event loop nor a training step holds up. The copy is gone when
// it is written. The thread stays for the next part, because starting one disturbs training as much as writing 30 MB; it
// does not keep the process alive.
import { Worker } from 'node:worker_threads';
import {
  alignedBytes,
  describe,
  dtypeBytes,
  noGrad,
  ops,
  readBytes,
  ShardloopError,
  scope,
  type Tensor,
} from '../core/index.js';
import type { PartPlan, PartReceipt } from './checkpoint.js';
import { PAGE } from './page-writer.js';
import { refuseReleased, type WrittenFile } from './safetensors.js';
import { encodeHeader } from './safetensors-header.js';
import type { FromWriteThread, WriteTask } from './write-thread.js';

/** How the thread writes. */
export interface BackgroundOptions {
  /** The most that is written a second, in MB (10^6 bytes). Default: as fast as the disk takes it. */
  readonly throttleMb?: number;
}

/** A part on its way to the disk. */
export interface BackgroundWrite {
  /** Rejects with what went wrong: a full disk, or that it was stopped. */
  readonly written: Promise<PartReceipt>;
  /** Ends the thread; the file is then not there, or not whole. */
  stop(): Promise<void>;
}

/**
 * Copies the part as it is now and begins to write it into `folder`; when this returns, the tensors may change. Throws
 * BAD_ARGUMENT as writePart() does, and for a throttle that is not positive.
 */
export function writePartInBackground(
  folder: string,
  { tensors, ...about }: PartPlan,
  options: BackgroundOptions = {},
): BackgroundWrite {
  const { throttleMb } = options;
  if (throttleMb !== undefined && !(throttleMb > 0)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `throttleMb: expected a positive number, received ${describe(throttleMb)}`,
    );
  }
  for (const [key, t] of tensors) refuseReleased(key, t);
  const chunks = copyOf(tensors);
  const task: WriteTask = { folder, file: about.file, chunks, bytesPerSecond: throttleMb && throttleMb * 1e6 };
  const worker = takeWorker();
  let isOver = false; // from then on the thread may be another part's
  const written = new Promise<WrittenFile>((resolve, reject) => {
    const ended = (then: () => void) => {
      isOver = true;
      worker.removeAllListeners();
      then();
    };
    worker.once('message', (message: FromWriteThread) => {
      ended(() => giveBack(worker));
      if ('crc32' in message) resolve(message);
      else reject(Object.assign(new Error(message.error), { code: message.code }));
    });
    worker.once('error', (error) => ended(() => reject(error)));
    worker.once('exit', () => ended(() => reject(new Error(`the thread that wrote ${about.file} was stopped`))));
  });
  const memory = chunks.map(({ buffer }) => buffer as ArrayBuffer); // moved, not copied
  worker.postMessage(task, memory);
  written.catch(() => {}); // whoever waits for it hears of it
  return {
    written: written.then((file) => ({ ...about, ...file })),
    stop: async () => {
      if (!isOver) await worker.terminate();
    },
  };
}

/** The copy is cut here, into pieces that any engine can allocate: 8192 pages. */
const CHUNK = 8192 * PAGE;

/** The bytes of a file: of the header and behind it of the tensors. */
function copyOf(tensors: ReadonlyMap<string, Tensor>): Uint8Array[] {
  const header = encodeHeader(tensors);
  const total = header.bytes.byteLength + header.dataBytes;
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < total; at += CHUNK) chunks.push(alignedBytes(Math.min(CHUNK, total - at), PAGE));
  let filled = 0;
  const fill = (length: number, copy: (into: Uint8Array, from: number) => void) => {
    for (let from = 0; from < length; ) {
      const start = filled % CHUNK;
      const into = chunks[Math.floor(filled / CHUNK)]!.subarray(start, start + length - from); // up to its end at most
      copy(into, from);
      from += into.byteLength;
      filled += into.byteLength;
    }
  };
  fill(header.bytes.byteLength, (into, from) => into.set(header.bytes.subarray(from, from + into.byteLength)));
  for (const name of header.names) {
    const t = tensors.get(name)!;
    const length = t.numel * dtypeBytes(t.dtype);
    fill(length, (into, from) => {
      if (into.byteLength === length) readBytes(t, into);
      else readSome(t, from, into);
    });
  }
  return chunks;
}

/** The bytes of a tensor from `start` on, as many as there is room for. */
function readSome(t: Tensor, start: number, into: Uint8Array): void {
  noGrad(() =>
    scope(() => {
      const bytes = ops.view(ops.reshape(ops.contiguous(ops.detach(t)), [-1]), 'uint8');
      readBytes(ops.slice(bytes, { dim: 0, start, end: start + into.byteLength }), into);
    }),
  );
}

/** The thread that waits for a part, if any. */
let idle: Worker | null = null;

function takeWorker(): Worker {
  // From the sources (tests) the built thread is taken: plain Node must be able to run it.
  const built = import.meta.url.endsWith('.ts') ? '../../dist/io/write-thread.js' : './write-thread.js';
  const worker = idle ?? new Worker(new URL(built, import.meta.url), { execArgv: [], env: {} });
  worker.removeAllListeners();
  worker.ref();
  idle = null;
  return worker;
}

/** Keeps one thread; a second, of parts that were written at the same time, ends. */
function giveBack(worker: Worker): void {
  if (idle !== null) {
    void worker.terminate();
    return;
  }
  idle = worker;
  const forget = () => {
    if (idle === worker) idle = null;
  };
  worker.once('error', forget).once('exit', forget);
  worker.unref();
}
