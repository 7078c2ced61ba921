// The error of set-up: one class, whose message is a page of help when something is missing.
// Not here: ShardloopError, which lies a floor higher (lib/core) and wraps this one at the first use of the addon.

/** What went wrong in set-up; the same words as the codes of ShardloopError. */
export type SetupErrorCode = 'ADDON_MISSING' | 'LIBTORCH_MISSING' | 'UNSUPPORTED' | 'BAD_ARGUMENT' | 'BUILD_FAILED';

/** A failure of set-up; `message` is written for the person who runs it. */
export class SetupError extends Error {
  readonly code: SetupErrorCode;

  constructor(code: SetupErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'SetupError';
    this.code = code;
  }
}

/** The text of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
