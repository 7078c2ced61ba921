// Where a command writes: what must not be overwritten. All of it is refused before anything is computed.
// Not here: who else writes there (run-lock.ts), what is written.
import { accessSync, constants, readdirSync, realpathSync, statSync } from 'node:fs';
import { dirname, join, sep } from 'node:path';
import { ShardloopError } from '../core/errors.js';
import { makeFolder } from '../core/folders.js';
import { named } from '../core/option-names.js';
import type { FinetuneConfig } from './config.js';

/** Where a tuning run leaves its result. */
export const resultOf = ({ out, method }: Pick<FinetuneConfig, 'out' | 'method'>) =>
  join(out, method === 'lora' ? 'adapter' : 'model');

/** BAD_CONFIG when `path` is a file: results go to folders. */
export function refuseFile(flag: string, path: string): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined || found.isDirectory()) return;
  throw new ShardloopError(
    'BAD_CONFIG',
    `${named(flag)}: expected a folder to write, ${path} is a file; name a folder, it need not exist`,
  );
}

/** BAD_CONFIG unless files can be written to the folder `path`, which is made if need be. */
export function requireWritable(flag: string, path: string): void {
  try {
    refuseFile(flag, path);
    makeFolder(path);
    accessSync(path, constants.W_OK);
  } catch (cause) {
    if (cause instanceof ShardloopError) throw cause;
    throw new ShardloopError(
      'BAD_CONFIG',
      `${named(flag)}: expected a folder to write to, received ${(cause as Error).message}; name another one`,
      { cause },
    );
  }
}

/** BAD_CONFIG when what is written to `path` would overwrite one of `sources`, by whatever name. */
export function refuseOverwriting(flag: string, path: string, sources: Readonly<Record<string, string>>): void {
  refuseFile(flag, path);
  const target = real(path);
  for (const [source, folder] of Object.entries(sources)) {
    if (target === null || target !== real(folder)) continue;
    throw new ShardloopError(
      'BAD_CONFIG',
      `${named(flag)}: ${path} is the folder of ${named(source)} and would be overwritten; name another folder`,
    );
  }
}

/**
 * BAD_CONFIG when `path` holds files: a result is replaced only if `overwrite` asks for it, and nothing else is ever mixed
 * with one. `mark` is the file by which a result of this kind is known.
 */
export function refuseContent(flag: string, path: string, mark: string, overwrite = false): void {
  refuseFile(flag, path);
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return;
  const names = readdirSync(path);
  const isResult = names.includes(mark);
  if (names.length === 0 || (isResult && overwrite)) return;
  const found = isResult ? `a result already (${mark})` : `files but no ${mark}`;
  const advice = isResult ? named('or replace it with --overwrite') : 'or an empty one';
  throw new ShardloopError('BAD_CONFIG', `${named(flag)}: ${path} holds ${found}; name a new folder, ${advice}`);
}

/** BAD_CONFIG when `path` lies within the folder `source`, by whatever name. */
export function refuseWithin(flag: string, path: string, source: string, folder: string): void {
  let at = path;
  while (real(at) === null && dirname(at) !== at) at = dirname(at); // the part of the way that is there
  if (!`${real(at)}${sep}`.startsWith(`${real(folder)}${sep}`)) return;
  throw new ShardloopError('BAD_CONFIG', `${named(flag)}: ${path} lies within ${source}; name a folder outside of it`);
}

function real(path: string): string | null {
  try {
    return realpathSync(path);
  } catch {
    return null; // Not there yet: it overwrites nothing.
  }
}
