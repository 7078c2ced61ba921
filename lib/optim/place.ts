// Where the states of an optimizer live: by default in memory like any tensor, or in files that are mapped into memory, so
// that the system can move them to the disk while they are not used.
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { makeFolder } from '../core/folders.js';
import { describe, dtypeBytes, ops, ShardloopError, type Tensor } from '../core/index.js';

/**
 * Decides where a state lives. Gets its name, such as 'h.0.attn.weight.exp_avg', and its first values, and returns a tensor of
 * the same shape, dtype and values, which the optimizer updates in place and frees.
 */
export type Place = (name: string, values: Tensor) => Tensor;

const PIECE = Buffer.alloc(4 << 20);
let made = 0;

/**
 * States in memory-mapped files in `folder`, which is made if need be. The files have no names any more once they are mapped, so
 * that they go with the process however it ends. Their room is taken at once: a disk that fills up later does no harm.
 * The states must be on the CPU. Throws OUT_OF_MEMORY when the disk has no room, BAD_ARGUMENT for a folder that cannot be used.
 */
export function mappedFiles(folder: string): Place {
  if (typeof folder !== 'string' || folder === '') {
    throw new ShardloopError('BAD_ARGUMENT', `mappedFiles: expected a folder, received ${describe(folder)}`);
  }
  return (name, values) => {
    if (values.device !== 'cpu') {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `mappedFiles: expected "${name}" on the CPU, received it on ${values.device}; zero() with offload brings it there`,
      );
    }
    const bytes = values.numel * dtypeBytes(values.dtype);
    if (bytes === 0) return values;
    const path = join(folder, `state-${process.pid}-${made++}`);
    try {
      makeFolder(folder);
      try {
        reserve(path, bytes);
        const mapped = ops.from_file(path, { shared: true, size: values.numel, dtype: values.dtype });
        return ops.copy_(ops.view(mapped, values.shape), values);
      } finally {
        rmSync(path, { force: true });
      }
    } catch (cause) {
      throw refusal(folder, name, bytes, cause as NodeJS.ErrnoException);
    }
  };
}

function refusal(folder: string, name: string, bytes: number, cause: NodeJS.ErrnoException): ShardloopError {
  const full = cause.code === 'ENOSPC' || cause.code === 'EDQUOT';
  const [code, expected, advice] = full
    ? (['OUT_OF_MEMORY', `room for ${bytes} bytes of "${name}"`, 'choose a folder on a larger local disk'] as const)
    : (['BAD_ARGUMENT', 'a folder to write to', 'choose another one'] as const);
  return new ShardloopError(
    code,
    `mappedFiles: expected ${expected} in ${folder}, received ${cause.message}; ${advice}`,
    {
      cause,
    },
  );
}

/** A file of zeros: a sparse one would end the process when the disk is full. */
function reserve(path: string, bytes: number): void {
  const file = openSync(path, 'wx');
  try {
    for (let at = 0; at < bytes; ) at += writeSync(file, PIECE, 0, Math.min(PIECE.length, bytes - at));
  } finally {
    closeSync(file);
  }
}
