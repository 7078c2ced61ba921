// The sizes of a sweep: how they are written (8, 64K, 1M) and which ones lie between the smallest and the largest.
import { describe, ShardloopError } from '../core/errors.js';

const UNITS = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 } as const;

/** Bytes from text such as `8`, `64K` or `1.5M`; K, M and G are powers of 1024. Throws BAD_ARGUMENT. */
export function parseSize(text: string, option = 'the size'): number {
  const match = /^(\d+(?:\.\d+)?)([KMG])?$/i.exec(text.trim());
  const unit = match?.[2]?.toUpperCase() as keyof typeof UNITS | undefined;
  const bytes = match === null ? Number.NaN : Number(match[1]) * (unit === undefined ? 1 : UNITS[unit]);
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes;
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `bench: expected ${option} as whole bytes above 0, received ${describe(text)}; write it like 8, 64K, 1M or 1G`,
  );
}

/** How a sweep goes from its smallest to its largest size. */
export interface SweepOptions {
  readonly minBytes: number;
  readonly maxBytes: number;
  /** From one size to the next; not read where `stepBytes` is given. */
  readonly stepFactor: number;
  readonly stepBytes?: number;
}

/** The sizes of a sweep in bytes, ascending, the largest included when the steps meet it. Throws BAD_ARGUMENT. */
export function sweep({ minBytes, maxBytes, stepFactor, stepBytes }: SweepOptions): number[] {
  if (maxBytes < minBytes) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `bench: expected --maxbytes of at least --minbytes, received ${maxBytes} below ${minBytes}; raise -e or lower -b`,
    );
  }
  if (stepBytes === undefined && !(stepFactor > 1)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `bench: expected --stepfactor above 1, received ${stepFactor}; use 2, or --stepbytes for equal steps`,
    );
  }
  const sizes: number[] = [];
  let bytes = minBytes;
  while (bytes <= maxBytes) {
    sizes.push(bytes);
    if (sizes.length > 10_000) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `bench: expected at most 10000 sizes, received more from ${minBytes} to ${maxBytes}; take larger steps`,
      );
    }
    bytes = stepBytes === undefined ? Math.max(bytes + 1, Math.floor(bytes * stepFactor)) : bytes + stepBytes;
  }
  return sizes;
}
