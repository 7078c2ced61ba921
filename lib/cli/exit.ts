// How a command ends: exit code and what is printed. 0 done, 1 failed, 2 usage, 3 bad data, 130 SIGINT, 143 SIGTERM.
// Sets process.exitCode and lets the process end by itself: process.exit() would cut off piped output.
import { CommanderError } from 'commander';
import { type ErrorCode, ShardloopError } from '../core/errors.js';
import { recordFailure } from '../dist/failure-report.js';

export const EXIT = { done: 0, failed: 1, usage: 2, badData: 3, sigint: 130, sigterm: 143 } as const;

/** Codes that end otherwise than with 1. */
const BY_CODE: Partial<Record<ErrorCode, number>> = {
  BAD_ARGUMENT: EXIT.usage,
  BAD_CONFIG: EXIT.usage,
  BAD_LAUNCH: EXIT.usage,
  BAD_RECORD: EXIT.badData,
  INTERRUPTED: EXIT.sigint,
};

/** Codes that every rank meets in the same way; one of them is enough to say it. */
const SAME_ON_EVERY_RANK: ErrorCode[] = [
  'BAD_ARGUMENT',
  'BAD_CONFIG',
  'BAD_RECORD',
  'BAD_MODEL',
  'INTERRUPTED',
  'NON_FINITE',
];

/** Print why a command failed (stderr; with `json` one object on stdout as well) and set the exit code. */
export function fail(error: unknown, options: { json?: boolean; signal?: NodeJS.Signals } = {}): void {
  if (error instanceof CommanderError) {
    // commander has printed its own message, or the help or version that was asked for
    process.exitCode = error.exitCode === 0 ? EXIT.done : EXIT.usage;
    const message = error.message.replace(/^error: /, '');
    if (options.json && error.exitCode !== 0) printJson({ error: { code: 'BAD_CONFIG', message } });
    return;
  }
  const code = error instanceof ShardloopError ? error.code : undefined;
  const terminated = code === 'INTERRUPTED' && options.signal === 'SIGTERM';
  process.exitCode = terminated ? EXIT.sigterm : ((code && BY_CODE[code]) ?? EXIT.failed);
  recordFailure(error);
  const rank = Number(process.env.RANK ?? 0);
  if (rank > 0 && code && SAME_ON_EVERY_RANK.includes(code)) return;
  const prefix = rank > 0 ? `[rank ${rank}/${process.env.WORLD_SIZE}] ` : '';
  process.stderr.write(`${prefix}shardloop: ${describeFailure(error, code)}\n`);
  if (options.json && rank === 0) printJson({ error: { code: code ?? 'UNEXPECTED', message: messageOf(error) } });
}

/** One JSON object on stdout. Numbers that JSON lacks are written as the strings "NaN" and "Infinity". */
export function printJson(value: object): void {
  const text = JSON.stringify(value, (_, v: unknown) => (typeof v === 'number' && !Number.isFinite(v) ? String(v) : v));
  process.stdout.write(`${text}\n`);
}

const messageOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

/** A failure of the user's or the machine's making is a sentence; one of ours comes with its stack. */
function describeFailure(error: unknown, code: ErrorCode | undefined): string {
  if (code) return `${messageOf(error)} [${code}]`;
  const system = (error as NodeJS.ErrnoException | undefined)?.syscall !== undefined;
  return system ? messageOf(error) : ((error as Error | undefined)?.stack ?? messageOf(error));
}
