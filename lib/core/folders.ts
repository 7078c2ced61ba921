// Making folders.
import { mkdirSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

/**
 * Makes a folder and those above it that are not there; true when it was not there. Node's own recursive mkdir never ends
 * where a file system denies that a folder's parent exists, as /proc does. Throws the system's error.
 */
export function makeFolder(path: string): boolean {
  const missing: string[] = [];
  for (let at = resolve(path); !exists(at); at = dirname(at)) missing.push(at);
  if (missing.length === 0 && !statSync(path).isDirectory()) mkdirSync(path); // says what is in the way
  for (const folder of missing.reverse()) {
    try {
      mkdirSync(folder);
    } catch (error) {
      const other = statSync(folder, { throwIfNoEntry: false }); // another process may have made it
      if (!other?.isDirectory()) throw error;
    }
  }
  return missing.length > 0;
}

/** Whether something is there; a file on the way to it counts as its absence, and mkdir then says so. */
function exists(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined;
  } catch {
    return false;
  }
}
