// Where things lie: the package itself, the cache outside of it, and the record beside a built addon.
// Not here: what is in those places (find.ts, addon.ts).
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, rmdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of the shardloop package: the one that holds package.json, native/ and CMakeLists.txt. */
export function packageRoot(): string {
  return resolve(dirname(fileURLToPath(import.meta.url)), '..', '..');
}

/** The cache: SHARDLOOP_CACHE > XDG_CACHE_HOME/shardloop > ~/.cache/shardloop. Not made here. */
export function cacheRoot(env: NodeJS.ProcessEnv = process.env): string {
  if (env.SHARDLOOP_CACHE) return resolve(env.SHARDLOOP_CACHE);
  // The XDG specification ignores a relative path.
  if (env.XDG_CACHE_HOME && isAbsolute(env.XDG_CACHE_HOME)) return join(env.XDG_CACHE_HOME, 'shardloop');
  return join(homedir(), '.cache', 'shardloop');
}

/** Where the addon of a package lies after set-up, when the package's folder can be written. */
export function addonInPackage(root: string = packageRoot()): string {
  return join(root, 'build', 'Release', 'shardloop.node');
}

/** The file in the cache that names the addon of a package whose own folder cannot be written. */
export function pointerFile(root: string = packageRoot(), cache: string = cacheRoot()): string {
  return join(cache, 'packages', `${shortHash(resolve(root))}.json`);
}

/** The record that stands beside a built addon: `shardloop.node` -> `shardloop.json`. */
export function recordBeside(addon: string): string {
  return addon.replace(/\.node$/, '.json');
}

/** Twelve hexadecimal digits of the SHA-256 of a text. */
export function shortHash(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 12);
}

/** Whether files can be made in this folder, or in the nearest one above it that exists: tried, since rights can lie. */
export function isWritable(folder: string): boolean {
  let at = resolve(folder);
  while (!existsSync(at) && dirname(at) !== at) at = dirname(at);
  try {
    rmdirSync(mkdtempSync(join(at, '.shardloop-')));
    return true;
  } catch {
    return false;
  }
}
