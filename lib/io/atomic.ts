// Files and folders that appear whole or not at all: written under a temporary name, synced, renamed.
// Not here: what is written. A temporary name says host and process, so that leftovers of a killed process are known.
import { randomUUID } from 'node:crypto';
import { type FileHandle, open, readdir, rename, rm, stat, symlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { describe, ShardloopError } from '../core/errors.js';
import { makeFolder } from '../core/folders.js';

const HOST = hostname().replace(/[^A-Za-z0-9-]/g, '-') || 'host';
const LEFTOVER = /^\.(.+)\.(tmp|old)-([A-Za-z0-9-]+)-(\d+)-([0-9a-f]{8})$/;
const mine = new Set<string>(); // The temporary names that this process is using now.

function temporaryName(target: string, kind: 'tmp' | 'old'): string {
  const unique = randomUUID().slice(0, 8);
  return join(dirname(target), `.${basename(target)}.${kind}-${HOST}-${process.pid}-${unique}`);
}

/**
 * Writes a file so that `path` holds either what it held before or all of the new content, also when the process is
 * killed or the disk is full. Folders on the way are made. `write` may stream into the
 * handle; it also hears where the file lies meanwhile.
 */
export async function writeFileAtomic(
  path: string,
  write: string | Uint8Array | ((file: FileHandle, temporary: string) => Promise<void>),
): Promise<void> {
  const target = resolve(path);
  const temporary = temporaryName(target, 'tmp');
  makeFolder(dirname(target));
  mine.add(temporary);
  try {
    const file = await open(temporary, 'wx');
    try {
      if (typeof write === 'function') await write(file, temporary);
      else await file.writeFile(write);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, target);
    await syncFolder(dirname(target));
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  } finally {
    mine.delete(temporary);
  }
}

/**
 * A folder that is filled under a temporary name, `path`, possibly by several processes, until one of them commits it.
 * States: open -> committed (it stands under its name) or aborted (nothing is left of it).
 */
export class PendingFolder {
  readonly path: string;
  readonly #target: string;
  readonly #aside: string;

  private constructor(target: string) {
    this.#target = resolve(target);
    this.path = temporaryName(this.#target, 'tmp');
    this.#aside = temporaryName(this.#target, 'old');
  }

  /** Makes the folder that will be `target`. */
  static async begin(target: string): Promise<PendingFolder> {
    const folder = new PendingFolder(target);
    mine.add(folder.path).add(folder.#aside);
    makeFolder(folder.path);
    return folder;
  }

  /**
   * Syncs it and gives it its name, so that the name never stands for a half-written folder. An existing folder is set
   * aside first and removed after; a process killed between the two renames leaves it beside, from where
   * {@link cleanLeftovers} puts it back.
   */
  async commit(): Promise<void> {
    try {
      await syncTree(this.path);
      const replaced = await exists(this.#target);
      if (replaced) await rename(this.#target, this.#aside);
      await rename(this.path, this.#target);
      await syncFolder(dirname(this.#target));
      if (replaced) await rm(this.#aside, { recursive: true, force: true });
      this.#forget();
    } catch (error) {
      await this.abort();
      throw error;
    }
  }

  /** Removes it. What stood under the name before stands there again. */
  async abort(): Promise<void> {
    // A process that still writes into it may add a file while it is being removed.
    await rm(this.path, { recursive: true, force: true, maxRetries: 3 });
    if ((await exists(this.#aside)) && !(await exists(this.#target))) await rename(this.#aside, this.#target);
    this.#forget();
  }

  #forget(): void {
    mine.delete(this.path);
    mine.delete(this.#aside);
  }
}

/** Fills a folder under a temporary name by `fill` and commits it: `path` never names a half-written folder. */
export async function writeFolderAtomic(path: string, fill: (temporary: string) => Promise<void>): Promise<void> {
  const folder = await PendingFolder.begin(path);
  try {
    await fill(folder.path);
  } catch (error) {
    await folder.abort();
    throw error;
  }
  await folder.commit();
}

/** Makes `path` a symbolic link to `target` (as seen from the link's folder), in place of the link that it was. */
export async function linkAtomic(path: string, target: string): Promise<void> {
  const temporary = temporaryName(resolve(path), 'tmp');
  mine.add(temporary);
  try {
    await symlink(target, temporary);
    await rename(temporary, resolve(path));
    await syncFolder(dirname(resolve(path)));
  } finally {
    await rm(temporary, { force: true });
    mine.delete(temporary);
  }
}

/** Removes a folder so that `path` never names a half-removed one. Nothing happens when it is not there. */
export async function removeFolderAtomic(path: string): Promise<void> {
  const target = resolve(path);
  if (!(await exists(target))) return;
  const aside = temporaryName(target, 'tmp');
  await rename(target, aside);
  await rm(aside, { recursive: true, force: true });
}

/**
 * Removes what killed processes left under temporary names in `folder`, and puts a folder back that was set aside and
 * whose successor never came. What a process that still lives may be writing stays: a name of another host is touched
 * only when it is older than a day. Returns the names of what was removed or put back.
 */
export async function cleanLeftovers(folder: string): Promise<string[]> {
  if (!(await exists(folder))) return [];
  const cleaned: string[] = [];
  for (const name of await readdir(folder)) {
    const match = LEFTOVER.exec(name);
    const path = resolve(folder, name);
    if (match === null || mine.has(path) || (await inUse(path, match[3]!, Number(match[4])))) continue;
    const target = resolve(folder, match[1]!);
    if (match[2] === 'old' && !(await exists(target))) await rename(path, target);
    else await rm(path, { recursive: true, force: true });
    cleaned.push(name);
  }
  return cleaned;
}

async function inUse(path: string, host: string, pid: number): Promise<boolean> {
  if (host !== HOST) {
    const age = Date.now() - ((await stat(path).catch(() => null))?.mtimeMs ?? 0);
    return age < 24 * 3600 * 1000;
  }
  if (pid === process.pid) return false; // Not in `mine`: of an earlier process with the same number.
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** BAD_ARGUMENT unless `dir` can name a folder. */
export function requireFolderName(where: string, dir: unknown): void {
  if (typeof dir === 'string' && dir !== '') return;
  throw new ShardloopError('BAD_ARGUMENT', `${where}: expected the path of a folder, received ${describe(dir)}`);
}

/** Whether a file or folder is there. */
export async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return false;
      throw error;
    },
  );
}

async function syncTree(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else if (entry.isFile()) await syncPath(path);
  }
  await syncFolder(folder);
}

async function syncPath(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

async function syncFolder(folder: string): Promise<void> {
  // Some file systems refuse to sync a folder; the rename itself is then as durable as they make it.
  await syncPath(folder).catch((error: NodeJS.ErrnoException) => {
    if (!['EINVAL', 'ENOTSUP', 'EISDIR', 'EPERM', 'EACCES'].includes(error.code ?? '')) throw error;
  });
}
