// Starts fuzzing processes and tells how they ended: done, died on a call, or stuck in one. It judges nothing.
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Trace } from '../promises/training.js';
import type { Outcome } from './bridge.js';

export interface Run {
  readonly seed: number;
  /** The outcome, when the process came to its end. */
  readonly outcome?: Outcome;
  /** Else the call on which it died or stuck, and how. */
  readonly call?: string;
  readonly how?: string;
}

const CHILD = fileURLToPath(new URL('./child.ts', import.meta.url));
const TSX = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href; // children run in other folders
const STUCK_MS = 30_000; // one call that takes longer is stuck: every argument is small
const MEMORY_KB = 8_000_000; // of data, so that an absurd allocation fails instead of filling the machine

/** Runs one child to its end, or kills it when one call takes too long. */
export function runChild(seed: number, calls: number, only = ''): Promise<Run> {
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-fuzz-'));
  const log = join(folder, 'call');
  const command = `ulimit -c 0; ulimit -d ${MEMORY_KB}; exec "$0" "$@"`;
  const args = ['--expose-gc', '--import', TSX, CHILD, String(seed), String(calls), log, only];
  const child = spawn('/bin/sh', ['-c', command, process.execPath, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
    cwd: folder,
    env: { ...process.env, MALLOC_ARENA_MAX: '2' },
  });
  let stderr = '';
  let stuck = false;
  child.stderr.on('data', (chunk: Buffer) => {
    stderr = (stderr + chunk).slice(-2000);
  });
  const watch = setInterval(() => {
    const since = statSync(log, { throwIfNoEntry: false })?.mtimeMs;
    if (since !== undefined && Date.now() - since > STUCK_MS) {
      stuck = true;
      child.kill('SIGKILL');
    }
  }, 1000);
  return new Promise((resolve) => {
    child.once('close', (code, signal) => {
      clearInterval(watch);
      let call = '';
      let outcome: Outcome | undefined;
      try {
        call = readFileSync(log, 'utf8').trim();
        if (code === 0) outcome = JSON.parse(readFileSync(`${log}.json`, 'utf8')) as Outcome;
      } catch {
        if (call === '') call = 'before the first call';
      }
      rmSync(folder, { recursive: true, force: true });
      if (outcome !== undefined) resolve({ seed, outcome });
      else resolve({ seed, call, how: `${stuck ? 'stuck' : (signal ?? `exit ${code}`)} ${stderr.trim().slice(-600)}` });
    });
  });
}

/** Runs test/promises/training.ts for `steps` steps in a process of its own. */
export function runTraining(steps: number): Promise<Trace> {
  const program = fileURLToPath(new URL('../promises/training.ts', import.meta.url));
  const child = spawn(process.execPath, ['--expose-gc', '--import', TSX, program, String(steps)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, MALLOC_ARENA_MAX: '2', OMP_NUM_THREADS: '1' },
  });
  let stdout = '';
  child.stdout.on('data', (chunk: Buffer) => {
    stdout += chunk;
  });
  return new Promise((resolve, reject) => {
    child.once('close', (code, signal) => {
      if (code === 0) resolve(JSON.parse(stdout) as Trace);
      else reject(new Error(`training ended with ${signal ?? code}`));
    });
  });
}
