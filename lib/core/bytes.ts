// The bytes of tensors in memory that is fit to be written to a disk: aligned, and in large pages where the system has them.
// Not here: files (lib/io).
import { native } from './binding.js';
import { handleOf, type Tensor } from './tensor-class.js';

/** New memory, of any content, that begins at a multiple of `alignment`, a power of two. Its buffer is a little longer. */
export function alignedBytes(length: number, alignment: number): Uint8Array {
  const room = Buffer.allocUnsafeSlow(length + alignment);
  const start = native().arrayPages(room, alignment);
  return room.subarray(start, start + length);
}

/**
 * Copies the bytes of a tensor of any device, in row-major order, to the beginning of `into`. Waits here. Throws
 * BAD_ARGUMENT when there is no room for them, and for a tensor without memory.
 */
export function readBytes(t: Tensor, into: Uint8Array): void {
  native().readInto(handleOf(t), into);
}
