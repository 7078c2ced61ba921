// One rank as a child process: started in a process group of its own (the launcher forwards signals, the terminal does
// not), its output tagged line by line, its last words remembered for the report. What happens when it ends is
// launch.ts's to decide.
import { type ChildProcess, spawn } from 'node:child_process';
import { createWriteStream, type WriteStream } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { type FailureReport, readFailure } from './failure-report.js';

/** How the output of the ranks is shown. */
export type OutputMode =
  /** Every line of every rank, behind `[rank] `. */
  | 'tagged'
  /** Rank 0 writes to this process's own stdout and stderr, so that bars and JSON stay as they are; others are tagged on stderr. */
  | 'rank0';

/** What is needed to start a rank. */
export interface RankOptions {
  readonly rank: number;
  readonly localRank: number;
  readonly command: readonly string[];
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly errorFile: string;
  readonly output: OutputMode;
  readonly logDir: string | undefined;
  /** Go on with the logs of an earlier attempt. */
  readonly appendLogs: boolean;
}

/** How a rank ended. */
export interface RankEnd {
  readonly rank: number;
  readonly localRank: number;
  readonly pid: number | undefined;
  /** Its exit code; 128 + the signal's number when a signal ended it, 127 when it could not be started. */
  readonly exitCode: number;
  readonly signal: NodeJS.Signals | null;
  /** When, in milliseconds since 1970. */
  readonly time: number;
  readonly report: FailureReport | null;
  /** The last lines of its stderr, untagged. */
  readonly lastWords: readonly string[];
}

const LAST_WORDS = 15;

const paused = new WeakMap<Writable, Set<Interface>>();

/** Reads on once `target` takes more. It gets one listener, however many ranks wait for it. */
function pauseFor(target: Writable, lines: Interface): void {
  const waiting = paused.get(target) ?? new Set();
  if (waiting.size === 0) {
    paused.set(target, waiting);
    target.once('drain', () => {
      paused.delete(target);
      for (const reader of waiting) reader.resume();
    });
  }
  waiting.add(lines);
  lines.pause();
}

/** A running rank. */
export class RankProcess {
  readonly child: ChildProcess;
  /** Resolves when the process has ended and its output is read. Never rejects. */
  readonly ended: Promise<RankEnd>;
  readonly #options: RankOptions;
  readonly #lastWords: string[] = [];
  readonly #logs: WriteStream[] = [];

  constructor(options: RankOptions) {
    this.#options = options;
    const [program, ...args] = options.command;
    const direct = options.output === 'rank0' && options.rank === 0 && options.logDir === undefined;
    this.child = spawn(program!, args, {
      env: { ...options.environment, TORCHELASTIC_ERROR_FILE: options.errorFile },
      stdio: direct ? ['ignore', 'inherit', 'inherit'] : ['ignore', 'pipe', 'pipe'],
      detached: true,
    });
    if (!direct) {
      const bare = options.output === 'rank0' && options.rank === 0;
      const tag = bare ? '' : `[${options.rank}] `;
      const out = options.output === 'rank0' && !bare ? process.stderr : process.stdout;
      this.#show(this.child.stdout!, out, tag, 'out');
      this.#show(this.child.stderr!, process.stderr, tag, 'err');
    }
    this.ended = this.#end();
  }

  /** Signals the rank itself, or with `group` everything that it started too. Quiet when it is gone. */
  signal(signal: NodeJS.Signals, group = false): void {
    const pid = this.child.pid;
    if (pid === undefined || this.child.exitCode !== null || this.child.signalCode !== null) return;
    try {
      process.kill(group ? -pid : pid, signal);
    } catch {
      // it ended meanwhile
    }
  }

  #show(stream: Readable, target: Writable, tag: string, kind: 'out' | 'err'): void {
    const { logDir, rank, appendLogs } = this.#options;
    const flags = appendLogs ? 'a' : 'w';
    const log = logDir === undefined ? undefined : createWriteStream(join(logDir, `rank-${rank}.${kind}`), { flags });
    if (log) this.#logs.push(log);
    const lines = createInterface({ input: stream, crlfDelay: Number.POSITIVE_INFINITY });
    lines.on('line', (line) => {
      if (kind === 'err') {
        this.#lastWords.push(line);
        if (this.#lastWords.length > LAST_WORDS) this.#lastWords.shift();
      }
      log?.write(`${line}\n`);
      if (!target.write(`${tag}${line}\n`)) pauseFor(target, lines);
    });
  }

  async #end(): Promise<RankEnd> {
    const { child } = this;
    let failedToStart: Error | null = null;
    let time = Date.now();
    child.once('exit', () => {
      time = Date.now();
      // What the rank left behind in its group would hold the pipes, and the devices, open.
      if (child.pid !== undefined) {
        try {
          process.kill(-child.pid, 'SIGKILL');
        } catch {
          // nothing was left
        }
      }
    });
    const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve) => {
      child.once('error', (error) => {
        if (child.pid !== undefined) return;
        failedToStart = error;
        resolve([127, null]);
      });
      child.once('close', (exitCode, signalCode) => resolve([exitCode, signalCode]));
    });
    await Promise.all(this.#logs.map((log) => new Promise<void>((resolve) => log.end(resolve))));
    const { rank, localRank, errorFile } = this.#options;
    const exitCode = code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
    const lastWords = failedToStart === null ? this.#lastWords : [String((failedToStart as Error).message)];
    return { rank, localRank, pid: child.pid, exitCode, signal, time, report: readFailure(errorFile), lastWords };
  }
}
