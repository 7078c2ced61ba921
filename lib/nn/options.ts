// Checks of the numbers that layers are made with. Not a schema: each layer names its own options in its type.
import { type DType, describe, ShardloopError } from '../core/index.js';

/** Where and how a layer's parameters are made. */
export interface TensorOptions {
  /** dtype of the parameters; default float32. */
  dtype?: DType;
  /** device of the parameters, such as 'cpu', 'cuda:0' or 'meta' (shapes without memory); default 'cpu'. */
  device?: string;
}

/** `value` when it is an integer of at least 1; else BAD_ARGUMENT. */
export function size(where: string, value: unknown): number {
  if (Number.isSafeInteger(value) && (value as number) >= 1) return value as number;
  throw new ShardloopError('BAD_ARGUMENT', `${where}: expected an integer of at least 1, received ${describe(value)}`);
}

/** `value` when it is a probability in [0, 1); else BAD_ARGUMENT. */
export function probability(where: string, value: unknown): number {
  if (typeof value === 'number' && value >= 0 && value < 1) return value;
  throw new ShardloopError('BAD_ARGUMENT', `${where}: expected a number in [0, 1), received ${describe(value)}`);
}

/** `value` when it is a finite number greater than zero; else BAD_ARGUMENT. */
export function positive(where: string, value: unknown): number {
  if (typeof value === 'number' && value > 0 && Number.isFinite(value)) return value;
  throw new ShardloopError('BAD_ARGUMENT', `${where}: expected a positive number, received ${describe(value)}`);
}
