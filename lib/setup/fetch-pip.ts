// Makes a libtorch in the cache out of pip's wheels. "slim": headers, libtorch_cpu and what it links, plus CUDA's runtime
// and CUPTI (about 540 MB on disk; no GPU use). "full": all libraries of the wheels, and nvcc. "compile": what compiling
// and linking CUDA code needs, but not running it.
// Not here: when which one is wanted (find.ts).
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { messageOf, SetupError } from './errors.js';
import { withLock } from './lock.js';
import { cudaRequirements, cudaVersionOf, pipDownload, runtimeRequirements } from './python.js';
import { megabytes, type Report, since } from './report.js';
import type { Tool } from './toolchain.js';
import { readEntry, unzip } from './unzip.js';
import { nvccWheels } from './versions.js';

/** Which part of the wheels is unpacked. */
export type Kind = 'slim' | 'full' | 'compile';

/** The folder in the cache where a libtorch made from pip lies: it is complete when it exists. */
export function pipFolder(cache: string, version: string, kind: Kind): string {
  return join(cache, 'libtorch', `${version}-${kind}`);
}

/** Downloads and unpacks; returns the folder that holds torch/ and nvidia/. Picks up finished downloads of a cut-off run. */
export async function fetchFromPip(
  python: Tool,
  version: string,
  kind: Kind,
  cache: string,
  report: Report,
): Promise<string> {
  const folder = pipFolder(cache, version, kind);
  const lock = join(cache, 'locks', `libtorch-${version}.lock`);
  return withLock(
    lock,
    async () => {
      if (existsSync(folder)) return folder;
      const downloads = join(cache, 'downloads', `torch-${version}`);
      const partial = `${folder}.partial`;
      await rm(partial, { recursive: true, force: true });
      await mkdir(downloads, { recursive: true });
      await mkdir(partial, { recursive: true });

      const torch = await download(python, version, downloads, report);
      const metadata = await intact(torch, () => readEntry(torch, /^torch-[^/]*\.dist-info\/METADATA$/));
      if (metadata === null) throw new SetupError('LIBTORCH_MISSING', `${torch} holds no METADATA`);
      await unpackInto(torch, partial, kind === 'slim' ? slimPath : fullPath, report);
      await fetchNeighbours(python, metadata, kind, downloads, partial, report);

      const record = { version, kind, cuda: cudaVersionOf(metadata), from: 'pip', at: new Date().toISOString() };
      writeFileSync(join(partial, 'shardloop.json'), `${JSON.stringify(record, null, 2)}\n`);
      await rename(partial, folder);
      await rm(downloads, { recursive: true, force: true });
      return folder;
    },
    report.line,
  );
}

async function download(python: Tool, version: string, downloads: string, report: Report): Promise<string> {
  const there = () => wheelsIn(downloads).find((name) => name.startsWith('torch-'));
  const start = Date.now();
  if (there()) report.line(`torch ${version}: the download of an earlier run is there`);
  else {
    report.line(`downloading the wheel of torch ${version} by pip (about 550 MB)`);
    // Into a folder of its own first: pip's own temporary files are elsewhere, but a killed copy must not look finished.
    const partial = join(downloads, 'partial');
    await rm(partial, { recursive: true, force: true });
    await pipDownload(python, [`torch==${version}`], partial, { deps: false, report });
    await moveWheels(partial, downloads);
    report.line(`downloaded in ${since(start)}`);
  }
  const name = there();
  if (!name) throw new SetupError('LIBTORCH_MISSING', `pip brought no wheel of torch ${version}`);
  return join(downloads, name);
}

/** CUDA's wheels beside torch/: two small ones for a slim libtorch, all of them and nvcc for a full one. */
async function fetchNeighbours(
  python: Tool,
  metadata: string,
  kind: Kind,
  downloads: string,
  into: string,
  report: Report,
): Promise<void> {
  const wanted = neighbours(metadata, kind);
  if (wanted.length === 0) return; // A wheel without CUDA: macOS, and Linux arm64 in some versions.
  const folder = join(downloads, kind);
  await rm(folder, { recursive: true, force: true });
  const start = Date.now();
  report.line(`downloading ${NEIGHBOURS_SAY[kind]}`);
  await pipDownload(python, wanted, folder, { deps: true, report });
  report.line(`downloaded in ${since(start)}`);
  const keep = kind === 'compile' ? COMPILE : /^nvidia\//;
  for (const wheel of wheelsIn(folder)) {
    await unpackInto(join(folder, wheel), into, (name) => (keep.test(name) ? name : null), report);
  }
}

const NEIGHBOURS_SAY: Record<Kind, string> = {
  slim: 'the two runtime wheels that libtorch_cpu links (13 MB)',
  full: "CUDA's libraries and nvcc by pip (about 2.5 GB)",
  compile: "nvcc and the wheels of CUDA's headers (about 1.5 GB; little of it is kept)",
};

/** Of CUDA's wheels what a compiler and a linker read. */
const COMPILE = /^nvidia\/[^/]+\/(include|bin|nvvm|lib\/lib(cudart|cupti|nccl))/;

/** The requirements of the wheels that stand beside torch/. */
export function neighbours(metadata: string, kind: Kind): string[] {
  if (kind === 'slim') return runtimeRequirements(metadata);
  const cuda = cudaVersionOf(metadata);
  const nvcc = cuda ? nvccWheels(cuda) : [];
  if (kind === 'full') return [...cudaRequirements(metadata), ...nvcc];
  const headers = cudaRequirements(metadata)
    .filter((requirement) => /^(cuda-toolkit|nvidia-nccl)/.test(requirement))
    .map((requirement) =>
      requirement.replace(/\[[^\]]*\]/, '[cublas,cudart,cupti,curand,cusolver,cusparse,nvjitlink,nvtx]'),
    );
  return [...headers, ...nvcc];
}

async function unpackInto(
  wheel: string,
  into: string,
  wanted: (name: string) => string | null,
  report: Report,
): Promise<void> {
  const start = Date.now();
  const name = wheel.split('/').pop() ?? wheel;
  const bytes = await intact(wheel, () =>
    unzip(wheel, into, wanted, (done, all) =>
      report.tick(`unpacking ${name}: ${megabytes(done)} of ${megabytes(all)}`),
    ),
  );
  if (bytes > 1e6) report.line(`unpacked ${megabytes(bytes)} of ${name} in ${since(start)}`);
}

/** Reads a wheel; one that turns out to be damaged is thrown away, so that the next run downloads it again. */
async function intact<T>(wheel: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    await rm(wheel, { force: true });
    throw new SetupError('LIBTORCH_MISSING', messageOf(error), { cause: error });
  }
}

const UNUSED =
  /^torch\/lib\/(libtorch_cuda|libc10_cuda|libcaffe2_nvrtc|libtorch_nvshmem|libtorch_python|libshm|libtorch_global|libtorch\.)/;

/** What a host without a GPU needs of a torch wheel. */
export function slimPath(name: string): string | null {
  return UNUSED.test(name) ? null : fullPath(name);
}

/** What native code can use of a torch wheel: headers and libraries. */
export function fullPath(name: string): string | null {
  if (name === 'torch/version.py') return name;
  if (/^torch\/lib\/(libtorch_python|libshm)/.test(name)) return null;
  return /^(torch\/(include|lib|\.dylibs)|torch\.libs)\//.test(name) ? name : null;
}

function wheelsIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.whl')) : [];
}

async function moveWheels(from: string, to: string): Promise<void> {
  for (const wheel of wheelsIn(from)) await rename(join(from, wheel), join(to, wheel));
  await rm(from, { recursive: true, force: true });
}
