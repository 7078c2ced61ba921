// One libtorch on disk: whether a folder holds one, its version, its CUDA. Not here: where to look (find.ts).
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { libraryName } from './platform.js';
import { run, tail } from './process.js';
import { whyUnsupported } from './versions.js';

/** A libtorch that can be built against: `dir` holds include/ and lib/. */
export interface Libtorch {
  readonly dir: string;
  readonly version: string;
  /** CUDA's version when libtorch_cuda stands beside libtorch_cpu, else null. */
  readonly cuda: string | null;
  /** Where it is from, for a person: `SHARDLOOP_LIBTORCH`, `the cache`, `Python (/usr/bin/python3)`. */
  readonly source: string;
}

/**
 * Looks whether a folder is a usable libtorch: itself, or its torch/ or libtorch/ subfolder. Returns it, or the reason
 * why not, as the end of a sentence.
 */
export function inspect(folder: string, source: string): Libtorch | string {
  const base = resolve(folder);
  if (!existsSync(base)) return 'there is no such folder';
  const dir = [base, join(base, 'torch'), join(base, 'libtorch')].find((at) =>
    existsSync(join(at, 'include', 'ATen', 'ATen.h')),
  );
  if (!dir) return 'it holds no include/ATen/ATen.h';
  for (const stem of ['torch_cpu', 'c10']) {
    if (!existsSync(join(dir, 'lib', libraryName(stem)))) return `it holds no lib/${libraryName(stem)}`;
  }
  const version = versionOf(dir);
  if (!version) return 'its headers name no version';
  const unsupported = whyUnsupported(version);
  if (unsupported) return unsupported;
  return { dir, version, cuda: cudaOf(dir), source };
}

/** The version that the headers of a libtorch name, such as `2.14.1`; null when there is none. */
export function versionOf(dir: string): string | null {
  for (const header of ['torch/headeronly/version.h', 'torch/csrc/api/include/torch/version.h']) {
    const path = join(dir, 'include', header);
    if (!existsSync(path)) continue;
    const text = readFileSync(path, 'utf8');
    const part = (name: string) => new RegExp(`define TORCH_VERSION_${name} (\\d+)`).exec(text)?.[1];
    const [major, minor, patch] = [part('MAJOR'), part('MINOR'), part('PATCH')];
    if (major && minor && patch) return `${major}.${minor}.${patch}`;
  }
  return null;
}

/**
 * Whether the system can load libtorch_cpu, tried in a child process: null, or what the system says. Node's dlopen
 * complains that the library is no addon only after it was loaded with all that it needs.
 */
export async function whyNotLoadable(dir: string): Promise<string | null> {
  const library = join(dir, 'lib', libraryName('torch_cpu'));
  const program = 'try { process.dlopen({ exports: {} }, process.argv[1]) } catch (e) { console.log(e.message) }';
  const said = await run(process.execPath, ['-e', program, library], { timeoutMs: 120_000 });
  if (/did not self-register/.test(said.stdout)) return null;
  return said.stdout.trim() || tail(said);
}

/** CUDA's version of a libtorch that has libtorch_cuda: from version.py of a wheel, else build-version of an archive. */
function cudaOf(dir: string): string | null {
  if (!existsSync(join(dir, 'lib', libraryName('torch_cuda')))) return null;
  const wheel = join(dir, 'version.py');
  const text = existsSync(wheel) ? readFileSync(wheel, 'utf8') : '';
  const named = /^cuda.*= '(\d+\.\d+)/m.exec(text)?.[1];
  if (named) return named;
  const file = join(dir, 'build-version');
  const build = existsSync(file) ? readFileSync(file, 'utf8') : '';
  const tag = /\+cu(\d+)(\d)/.exec(build);
  return tag ? `${tag[1]}.${tag[2]}` : 'unknown';
}
