// What a command reads: the files and folders that its options name. Not here: where it writes (out-folder.ts).
import { statSync } from 'node:fs';
import { ShardloopError } from '../core/errors.js';
import { named } from '../core/option-names.js';

/** BAD_CONFIG unless `path` is a file. */
export function requireFile(flag: string, path: string): string {
  if (statSync(path, { throwIfNoEntry: false })?.isFile()) return path;
  throw new ShardloopError('BAD_CONFIG', `${named(flag)}: expected a file, found none at ${path}`);
}

/** BAD_CONFIG unless `path` is a folder. */
export function requireFolder(flag: string, path: string): string {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return path;
  throw new ShardloopError('BAD_CONFIG', `${named(flag)}: expected a folder, found none at ${path}`);
}
