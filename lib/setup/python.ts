// What set-up asks Python for: an installed torch (found, never imported) and `pip download` of named wheels.
// Not here: unpacking what pip brought (fetch-pip.ts).
import { SetupError } from './errors.js';
import { run, tail } from './process.js';
import type { Report } from './report.js';
import type { Tool } from './toolchain.js';

/** The folder of the torch that this Python would import, or null. Importing it would take seconds and can fail. */
export async function installedTorch(python: Tool): Promise<string | null> {
  const program =
    'import importlib.util as u; s = u.find_spec("torch"); print(list(s.submodule_search_locations)[0] if s and s.submodule_search_locations else "")';
  const said = await run(python.path, ['-c', program], { timeoutMs: 30_000 });
  return said.code === 0 ? said.stdout.trim() || null : null;
}

/** What keeps this Python from `pip download`, or null when nothing does. */
export async function whyNoPip(python: Tool | null): Promise<string | null> {
  if (!python) return 'there is no python3 on PATH';
  const said = await run(python.path, ['-m', 'pip', '--version'], { timeoutMs: 60_000 });
  return said.code === 0 ? null : `${python.path} has no pip (Debian: apt-get install python3-pip)`;
}

/**
 * Downloads wheels into a folder: `requirements` as pip spells them, `deps` with what they require. The wheels are for
 * this platform and a Python that torch supports, whatever Python runs pip: only their libraries are wanted.
 */
export async function pipDownload(
  python: Tool,
  requirements: readonly string[],
  into: string,
  options: { deps: boolean; report: Report },
): Promise<void> {
  const args = ['-m', 'pip', 'download', '--only-binary=:all:', '--no-cache-dir', '--disable-pip-version-check'];
  args.push('--progress-bar', 'off', '--implementation', 'cp', '--python-version', '3.12', ...platformTags());
  if (!options.deps) args.push('--no-deps');
  args.push('--dest', into, ...requirements);
  const ended = await run(python.path, args, { onLine: (line) => options.report.tick(line.trim()) });
  if (ended.code !== 0) {
    throw new SetupError('LIBTORCH_MISSING', `pip download ${requirements.join(' ')} failed:\n${tail(ended)}`);
  }
}

/** The tags of wheels that run here. glibc 2.17 to 2.28 on Linux; macOS leaves it to pip. */
export function platformTags(os: string = process.platform, arch: string = process.arch): string[] {
  if (os !== 'linux') return [];
  const machine = arch === 'arm64' ? 'aarch64' : 'x86_64';
  const tags: string[] = [];
  for (let minor = 28; minor >= 17; minor--) tags.push('--platform', `manylinux_2_${minor}_${machine}`);
  return [...tags, '--platform', `manylinux2014_${machine}`];
}

/** The `nvidia-*` and `cuda-toolkit` requirements of a torch wheel's METADATA that hold on Linux, without markers. */
export function cudaRequirements(metadata: string): string[] {
  return metadata
    .split('\n')
    .map((line) => /^Requires-Dist: ((?:nvidia-|cuda-toolkit)[^;]*)(;.*)?$/.exec(line.trim()))
    .filter((match) => match !== null)
    .filter((match) => !/extra ==|"win32"|"Windows"/.test(match[2] ?? ''))
    .map((match) => (match[1] ?? '').trim());
}

/** Of the requirements of a torch wheel, the two that libtorch_cpu itself needs: CUDA's runtime and CUPTI. */
export function runtimeRequirements(metadata: string): string[] {
  return cudaRequirements(metadata)
    .map((requirement) => requirement.replace(/^cuda-toolkit\[[^\]]*\]/, 'cuda-toolkit[cudart,cupti]'))
    .filter((requirement) => /^(cuda-toolkit|nvidia-cuda-(runtime|cupti))/.test(requirement));
}

/** CUDA's version of a torch wheel, such as `13.0`, from its requirements; null for a wheel without CUDA. */
export function cudaVersionOf(metadata: string): string | null {
  const line = cudaRequirements(metadata).find((requirement) =>
    /^(cuda-toolkit|nvidia-cuda-runtime)/.test(requirement),
  );
  return /==(\d+\.\d+)/.exec(line ?? '')?.[1] ?? null;
}
