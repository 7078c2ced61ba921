// Runs something that must throw a ShardloopError of one code, and hands the error back for a look at its message.
import { expect } from 'vitest';
import { type ErrorCode, ShardloopError } from '../../lib/index.js';

export function raises(code: ErrorCode, body: () => unknown): ShardloopError {
  let thrown: unknown;
  try {
    body();
  } catch (error) {
    thrown = error;
  }
  expect(thrown, `expected ${code}`).toBeInstanceOf(ShardloopError);
  const error = thrown as ShardloopError;
  expect(error.code, error.message).toBe(code);
  return error;
}
