// One run at a time writes into an `out`: a file there names the process that does. Held by rank 0, removed at the end.
// States: absent -> held (made whole, names its owner) -> absent (removed by the owner), or stale (the owner is dead, as
// after kill -9, or on another host and silent) -> replaced by the next run. Not here: what must not be overwritten.
import { readFileSync, renameSync, rmdirSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { ShardloopError } from '../core/errors.js';
import { makeFolder } from '../core/folders.js';
import { words } from '../core/option-names.js';
import { refuseFile } from './out-folder.js';

/** A run's claim on its folder. */
export interface RunLock {
  release(): void;
}

interface Owner {
  readonly pid: number;
  readonly host: string;
  /** When the process started, in the system's ticks, so that a pid that is used again is told apart; null if unknown. */
  readonly started: string | null;
}

const NAME = '.run.lock';
const BEAT_MS = 30_000;
/** How long an owner on another host, which cannot be asked, may be silent: longer than any step. */
const SILENT_MS = 15 * 60_000;
const held = new Set<string>();

/** Claims `out`, which is made if need be. Throws BAD_CONFIG that names the process when another run writes there. */
export function lockOut(out: string): RunLock {
  const file = join(out, NAME);
  let made = false;
  try {
    refuseFile('--out', out);
    made = makeFolder(out);
    for (let attempt = 0; !take(file); attempt++) {
      const owner = readOwner(file);
      if (attempt > 3 || !isStale(file, owner)) throw taken(out, file, owner);
      removeStale(file, owner);
    }
  } catch (cause) {
    if (cause instanceof ShardloopError) throw cause;
    throw new ShardloopError('BAD_CONFIG', words`--out: cannot write to ${out}: ${(cause as Error).message}`, {
      cause,
    });
  }
  held.add(file);
  const beat = setInterval(() => touch(file), BEAT_MS).unref();
  return {
    release() {
      clearInterval(beat);
      held.delete(file);
      rmSync(file, { force: true });
      try {
        if (made) rmdirSync(out); // only when nothing was written
      } catch {
        // It holds something.
      }
    },
  };
}

function taken(out: string, file: string, owner: Owner | null): ShardloopError {
  const who = owner ? `process ${owner.pid} on ${owner.host}` : 'another process';
  const start = words`--out: ${who} is writing to ${out}; wait for it, stop it, or name another folder`;
  if (owner === null || owner.host === hostname()) {
    return new ShardloopError('BAD_CONFIG', `${start} (${file} is its lock)`);
  }
  // It may have died with its host, which nobody here can see.
  const [silent, left] = [silence(file), SILENT_MS - silence(file)].map((ms) => Math.max(0, Math.ceil(ms / 1000)));
  const minutes = Math.ceil(left! / 60);
  return new ShardloopError(
    'BAD_CONFIG',
    `${start}. It was last heard of ${silent} s ago; a run that lives is heard of every ${BEAT_MS / 1000} s. If it is dead, ` +
      `remove its lock, ${file}, or wait: in ${minutes} ${minutes === 1 ? 'minute' : 'minutes'} the folder is free by itself`,
  );
}

function take(file: string): boolean {
  const owner: Owner = { pid: process.pid, host: hostname(), started: startOf(process.pid) };
  try {
    writeFileSync(file, JSON.stringify(owner), { flag: 'wx' });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function readOwner(file: string): Owner | null {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Owner;
  } catch {
    return null; // Gone in the meantime, being written, or left half-written.
  }
}

function isStale(file: string, owner: Owner | null): boolean {
  const silent = silence(file);
  if (owner === null) return silent > 5_000;
  if (owner.host !== hostname()) return silent > SILENT_MS;
  if (!isRunning(owner.pid)) return true;
  if (owner.started !== null) return owner.started !== startOf(owner.pid);
  return owner.pid === process.pid && !held.has(file);
}

/** For how many milliseconds the owner of a lock has not been heard of. */
function silence(file: string): number {
  return Date.now() - (statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0);
}

/** Of two runs that find the same stale lock, one may already hold the next: what was moved is looked at again. */
function removeStale(file: string, stale: Owner | null): void {
  const aside = `${file}.${process.pid}`;
  try {
    renameSync(file, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return; // The other one was faster.
    throw error;
  }
  if (JSON.stringify(readOwner(aside)) === JSON.stringify(stale)) rmSync(aside, { force: true });
  else renameSync(aside, file);
}

function touch(file: string): void {
  try {
    utimesSync(file, new Date(), new Date());
  } catch {
    // Removed by hand: the run goes on, unguarded.
  }
}

function isRunning(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid < 1) return false;
  if (statOf(pid)?.[0] === 'Z') return false; // It has ended, and nobody has asked how.
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

const startOf = (pid: number): string | null => statOf(pid)?.[19] ?? null;

/** The fields of /proc/<pid>/stat from the state on; null without them, as on macOS. */
function statOf(pid: number): string[] | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  } catch {
    return null;
  }
}
