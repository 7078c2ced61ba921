// Running other programs from set-up: asynchronously, with their output collected and their lines shown.
// Not here: which programs (toolchain.ts, python.ts).
import { spawn } from 'node:child_process';
import { accessSync, constants, createWriteStream, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/** What a program that ended left behind. `code` is null when it was killed or could not start (`error` says why). */
export interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly error: Error | null;
}

/** Options of {@link run}. */
export interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  /** Called with each line of stdout and stderr as it comes. */
  readonly onLine?: (line: string) => void;
  /** A file that receives all output as well. */
  readonly log?: string;
  readonly timeoutMs?: number;
}

/** Runs a program without a shell and without standard input; never throws. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: options.timeoutMs,
    });
    const log = options.log ? createWriteStream(options.log, { flags: 'a' }) : null;
    log?.write(`$ ${[command, ...args].join(' ')}\n`);
    const collect = (stream: NodeJS.ReadableStream): (() => string) => {
      let all = '';
      let rest = '';
      stream.setEncoding('utf8');
      stream.on('data', (chunk: string) => {
        all += chunk;
        log?.write(chunk);
        const lines = (rest + chunk).split(/\r?\n|\r/);
        rest = lines.pop() ?? '';
        for (const line of lines) if (line.trim()) options.onLine?.(line);
      });
      return () => all;
    };
    const stdout = collect(child.stdout);
    const stderr = collect(child.stderr);
    const end = (code: number | null, signal: NodeJS.Signals | null, error: Error | null) => {
      const result = { code, signal, stdout: stdout(), stderr: stderr(), error };
      if (log) log.end(() => resolve(result));
      else resolve(result);
    };
    child.on('error', (error) => end(null, null, error));
    child.on('close', (code, signal) => end(code, signal, null));
  });
}

/** The last lines of a program's output, for an error message. */
export function tail(ended: Ended, lines = 12): string {
  if (ended.error) return ended.error.message;
  const text = `${ended.stdout}\n${ended.stderr}`.trim().split('\n').slice(-lines).join('\n');
  const how = ended.signal ? `was ended by ${ended.signal}` : `ended with exit code ${ended.code}`;
  return text ? `${text}\n(${how})` : how;
}

/** The full path of a program on PATH, or null. A name with a slash is taken as it is. */
export function which(name: string, env: NodeJS.ProcessEnv = process.env): string | null {
  const candidates = name.includes('/')
    ? [name]
    : (env.PATH ?? '')
        .split(delimiter)
        .filter(Boolean)
        .map((folder) => join(folder, name));
  for (const candidate of candidates) {
    try {
      accessSync(candidate, constants.X_OK);
      if (statSync(candidate).isFile()) return candidate;
    } catch {
      // Not there or not executable: the next one.
    }
  }
  return null;
}
