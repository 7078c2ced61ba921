// A lock between processes that set up at the same time: a file that exists while one of them works.
// States: absent -> held (made with O_EXCL, names its owner) -> absent (removed by the owner), or stale (the owner is
// dead, or on another host and silent for a minute) -> removed by one waiter, under a second file, -> absent.
import { closeSync, mkdirSync, openSync, readFileSync, statSync, unlinkSync, utimesSync, writeSync } from 'node:fs';
import { hostname } from 'node:os';
import { dirname } from 'node:path';

interface Owner {
  readonly pid: number;
  readonly host: string;
  /** When the owner's process started, in the system's own ticks, so that a reused pid is told apart. */
  readonly started: string | null;
}

const BEAT_MS = 5_000;
const SILENT_MS = 60_000;
const POLL_MS = 250;

/** Runs `work` while holding the lock `file`; waits for another holder, telling `onWait` once who that is. */
export async function withLock<T>(file: string, work: () => Promise<T>, onWait?: (text: string) => void): Promise<T> {
  mkdirSync(dirname(file), { recursive: true });
  let told = false;
  while (!take(file)) {
    const owner = readOwner(file);
    if (isStale(file, owner)) {
      removeStale(file);
      continue;
    }
    if (!told && owner) onWait?.(`waiting for process ${owner.pid} on ${owner.host}, which is doing this already`);
    told = true;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  const beat = setInterval(() => touch(file), BEAT_MS);
  beat.unref();
  try {
    return await work();
  } finally {
    clearInterval(beat);
    remove(file);
  }
}

function take(file: string): boolean {
  let handle: number;
  try {
    handle = openSync(file, 'wx');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
  const owner: Owner = { pid: process.pid, host: hostname(), started: startOf(process.pid) };
  writeSync(handle, JSON.stringify(owner));
  closeSync(handle);
  return true;
}

function readOwner(file: string): Owner | null {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Owner;
  } catch {
    return null; // Gone in the meantime, or being written.
  }
}

function isStale(file: string, owner: Owner | null): boolean {
  const silent = silence(file);
  if (silent === null) return false;
  if (!owner) return silent > BEAT_MS; // A writer that died between making and filling the file.
  if (owner.host !== hostname()) return silent > SILENT_MS;
  if (!isRunning(owner.pid)) return true;
  return owner.started !== null && startOf(owner.pid) !== owner.started;
}

/** Two waiters may both find a lock stale: only the one that makes `.break` looks again and removes it. */
function removeStale(file: string): void {
  const breaking = `${file}.break`;
  const silent = silence(breaking);
  if (silent !== null && silent > BEAT_MS) remove(breaking);
  try {
    closeSync(openSync(breaking, 'wx'));
  } catch {
    return;
  }
  if (isStale(file, readOwner(file))) remove(file);
  remove(breaking);
}

function silence(file: string): number | null {
  try {
    return Date.now() - statSync(file).mtimeMs;
  } catch {
    return null;
  }
}

function touch(file: string): void {
  try {
    utimesSync(file, new Date(), new Date());
  } catch {
    // Removed by hand: the work goes on, unguarded.
  }
}

function remove(file: string): void {
  try {
    unlinkSync(file);
  } catch {
    // Already gone.
  }
}

/** Whether a process of this host runs. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    return null; // No /proc: macOS.
  }
}
