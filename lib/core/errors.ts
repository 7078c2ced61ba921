// The errors of shardloop: one class and one table of stable codes. docs/errors.md says what to do about each;
// a test holds the table, the page and the codes that native/ throws together.
// Not here: the wording of a single error, which stands where the error is thrown.

/** Every code that a {@link ShardloopError} can carry, with what it means in one sentence. */
export const ERRORS = {
  ADDON_MISSING: 'The native addon is not built, or the system refuses to load it.',
  BAD_ARGUMENT: 'A value has the wrong type, range or shape for what was asked.',
  BAD_CHECKPOINT: 'A checkpoint folder is incomplete, damaged, or belongs to another run.',
  BAD_CONFIG: 'A configuration file, environment variable or flag does not say something that can be done.',
  BAD_LAUNCH: 'The environment does not describe a usable group of processes.',
  BAD_MODEL: 'A model folder is incomplete or describes a model that shardloop cannot build.',
  BAD_RECORD: 'A record of a data file is not what its format asks for.',
  BAD_SAFETENSORS: 'A safetensors file is damaged or breaks the format.',
  BUILD_FAILED: 'The native addon could not be compiled.',
  CALLBACK_THREAD: 'A backward written in TypeScript was asked for after its thread had ended.',
  COLLECTIVE_FAILED: 'A collective operation failed, timed out, or lost a peer.',
  COLLECTIVE_MISMATCH: 'The ranks of a group called different operations, or with different shapes or dtypes.',
  INTERRUPTED: 'The run was asked to stop and did.',
  LIBTORCH_MISSING: 'No usable libtorch was found.',
  NON_FINITE: 'A loss, a gradient or a parameter became infinite or NaN.',
  NO_CUDA: 'A CUDA device was asked for and there is none.',
  OP_FAILED: 'libtorch refused the operation; the message is its own.',
  OP_REFUSED: 'shardloop refuses this operation by name, because libtorch crashes on it or it has no meaning here.',
  OUT_OF_MEMORY: 'An allocation was asked for that the machine or the device cannot hold.',
  SAVE_FAILED: 'A checkpoint could not be written; older ones are as they were.',
  SCOPE_ASYNC: 'The callback of a scope was asynchronous; scopes cannot span an await.',
  TENSOR_DISPOSED: 'A tensor was used, or disposed again, after it was disposed.',
  TENSOR_FOREIGN: 'A tensor was expected and something else came: another object, or a tensor of another thread.',
  UNKNOWN_OP: 'The operation does not exist in the libtorch that is loaded.',
  UNSUPPORTED: 'The platform or the version is outside what shardloop supports.',
} as const;

/** One of the stable codes of {@link ERRORS}. */
export type ErrorCode = keyof typeof ERRORS;

/**
 * Every error that shardloop throws on purpose. `code` is stable and meant for programs; `message` says what was
 * expected, what came, and what to do.
 */
export class ShardloopError extends Error {
  /** The stable code; see {@link ERRORS}. */
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'ShardloopError';
    this.code = code;
  }
}

/** A short description of any value for an error message: never throws, never longer than about 60 characters. */
export function describe(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return `an array of ${value.length}`;
  switch (typeof value) {
    case 'string':
      return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}...` : value);
    case 'bigint':
      return `${value}n`;
    case 'function':
      return `the function ${value.name || '(anonymous)'}`;
    case 'object':
      return describeObject(value);
    default:
      return String(value);
  }
}

function describeObject(value: object): string {
  try {
    const name = (value.constructor as { name?: unknown } | undefined)?.name;
    if (typeof name === 'string' && name !== 'Object' && name !== '') return `an object of class ${name}`;
    const keys = Object.keys(value).slice(0, 4).join(', ');
    return keys === '' ? 'an empty object' : `an object with ${keys}`;
  } catch {
    return 'an object';
  }
}
