// How a rank tells its launcher why it failed: torchrun's error file (TORCHELASTIC_ERROR_FILE), written by the rank and
// read by `torchrun` or lib/dist/launch.ts. The first error of a process is the one that stays. And how our launcher tells
// the other ranks that their SIGTERM is about a failure: a file that is there (SHARDLOOP_FAILURE_FILE).
import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';

/** What a rank left in its error file. */
export interface FailureReport {
  /** `Type: text`. */
  readonly message: string;
  /** The code of a ShardloopError, or null. */
  readonly code: string | null;
  /** When it was written, in milliseconds since 1970: the earliest of several ranks is the root cause. */
  readonly time: number;
}

/**
 * Writes `error` to the file that TORCHELASTIC_ERROR_FILE names, unless an earlier error stands there. Does nothing
 * without the variable, and never throws: it is called while something else is failing.
 */
export function recordFailure(error: unknown): void {
  const path = process.env.TORCHELASTIC_ERROR_FILE;
  if (!path || existsSync(path)) return;
  const name = error instanceof Error ? error.name : 'Error';
  const text = error instanceof Error ? error.message : String(error);
  const code = (error as { code?: unknown } | null | undefined)?.code;
  const extraInfo = {
    py_callstack: error instanceof Error ? (error.stack ?? '') : '',
    timestamp: String(Math.floor(Date.now() / 1000)), // torchrun reads whole seconds
    ...(typeof code === 'string' ? { code } : {}),
  };
  try {
    const temporary = `${path}.${process.pid}`;
    writeFileSync(temporary, JSON.stringify({ message: { message: `${name}: ${text}`, extraInfo } }));
    renameSync(temporary, path);
  } catch {
    // The folder is gone or full; the error itself still ends the process.
  }
}

/** Says to the ranks of an attempt, before they get SIGTERM, that one of them has failed. */
export function announceFailure(path: string): void {
  try {
    writeFileSync(path, '');
  } catch {
    // The folder is gone or full; the ranks are stopped all the same.
  }
}

/** Whether another rank of this launch has failed or was stopped before this one; null when the launcher is not one that tells. */
export function hasPeerEnded(): boolean | null {
  const path = process.env.SHARDLOOP_FAILURE_FILE;
  return path ? existsSync(path) : null;
}

let recording = false;

/** From now on an uncaught error of this process is recorded before the process ends. Safe to call often. */
export function recordUncaughtFailures(): void {
  if (recording || !process.env.TORCHELASTIC_ERROR_FILE) return;
  recording = true;
  process.on('uncaughtExceptionMonitor', recordFailure);
}

/** Reads an error file of ours or of a Python rank; null when there is none or it cannot be read. */
export function readFailure(path: string): FailureReport | null {
  try {
    // Whole seconds order nothing on one host: the file's own time does.
    const time = statSync(path).mtimeMs;
    const { message } = JSON.parse(readFileSync(path, 'utf8')) as { message: unknown };
    if (typeof message === 'string') return { message, code: null, time };
    const { message: text, extraInfo } = message as { message: unknown; extraInfo?: { code?: unknown } };
    return { message: String(text), code: typeof extraInfo?.code === 'string' ? extraInfo.code : null, time };
  } catch {
    return null;
  }
}
