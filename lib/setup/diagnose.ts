// What `shardloop doctor` knows of this machine: facts, and problems with the command that mends each. Works with
// nothing installed. Not here: how it is printed (lib/cli/doctor.ts).
import { existsSync, readFileSync, statfsSync } from 'node:fs';
import { availableParallelism, freemem, totalmem } from 'node:os';
import { join } from 'node:path';
import { buildKey } from './build-key.js';
import { cudaPart } from './cuda-part.js';
import { messageOf } from './errors.js';
import { findLibtorch } from './find.js';
import { type Libtorch, whyNotLoadable } from './libtorch.js';
import { type AddonRecord, locateAddon, readRecord } from './locate.js';
import { cacheRoot, packageRoot } from './paths.js';
import { platform } from './platform.js';
import { type Probe, probe } from './probe.js';
import { run, which } from './process.js';
import { whyNoPip } from './python.js';
import { megabytes, silentReport } from './report.js';
import { cudaDriver, findCMake, findCompiler, findNvcc, findPython } from './toolchain.js';

/** Something that is wrong, and the command that mends it. */
export interface Problem {
  readonly what: string;
  readonly command: string;
}

/** A GPU as the driver's own tool names it. */
export interface Gpu {
  readonly name: string;
  readonly memoryBytes: number;
  readonly computeCapability: string;
}

/** All that the doctor knows; null where a thing is absent or cannot be told. Sizes in bytes. */
export interface Diagnosis {
  readonly ok: boolean;
  readonly problems: Problem[];
  readonly platform: { readonly name: string; readonly tested: boolean } | null;
  readonly node: { readonly version: string; readonly napi: string };
  readonly addon: { readonly path: string; readonly key: string | null; readonly ops: number | null } | null;
  readonly libtorch: { readonly version: string; readonly source: string; readonly dir: string } | null;
  /** The instruction set that libtorch uses, and who says so. */
  readonly cpuCapability: { readonly name: string; readonly from: 'libtorch' | 'cpu flags' } | null;
  readonly cuda: { readonly version: string | null; readonly usable: boolean; readonly nvcc: string | null };
  readonly driver: string | null;
  readonly nccl: { readonly version: string; readonly usable: boolean } | null;
  readonly gpus: Gpu[];
  readonly gloo: boolean | null;
  readonly cores: number;
  readonly memory: { readonly totalBytes: number; readonly freeBytes: number };
  readonly sharedMemory: { readonly totalBytes: number; readonly freeBytes: number } | null;
  readonly tools: { readonly compiler: string | null; readonly cmake: string | null; readonly pip: string | null };
}

/** Looks at everything. Starts a few short programs, fetches nothing, changes nothing; takes about two seconds. */
export async function diagnose(env: NodeJS.ProcessEnv = process.env): Promise<Diagnosis> {
  const root = packageRoot();
  const setupCommand = existsSync(join(root, 'scripts', 'setup.mjs')) ? 'npm run setup' : 'npx shardloop setup';
  const problems: Problem[] = [];
  const wrong = (what: string, command: string) => problems.push({ what, command });

  const here = attempt(
    () => platform(),
    (text) => wrong(text, 'run shardloop on one of the supported platforms'),
  );
  const [compiler, cmake, python] = [await findCompiler(env), await findCMake(env), await findPython(env)];
  const noPip = await whyNoPip(python);

  const path = attempt(
    () => locateAddon(root),
    () => undefined,
  );
  const record = path ? readRecord(path) : null;
  const loaded = path ? await probe(path) : null;
  const libtorch = record ? await recorded(record) : await findOnDisk(env);

  if (typeof libtorch === 'string') wrong(`no libtorch that can be used is on this machine: ${libtorch}`, setupCommand);
  if (!path) wrong('the native addon is not built', setupCommand);
  else if (typeof loaded === 'string') wrong(`the native addon cannot be loaded: ${loaded}`, setupCommand);
  else if (record && compiler && typeof libtorch !== 'string') {
    const cuda = await cudaPart(root, libtorch, record.cuda === true, env);
    const inputs = { root, libtorch, compiler: `${compiler.path} ${compiler.version}` };
    const key = attempt(
      () => buildKey({ ...inputs, cuda: typeof cuda === 'string' ? null : cuda }),
      () => undefined,
    );
    if (key && key !== record.key) wrong('the native addon is older than its sources or its tools', setupCommand);
  }
  if (!path || typeof loaded === 'string') {
    if (!compiler) wrong('there is no C++ compiler, which the build needs', 'apt-get install g++');
    if (!cmake) wrong('there is no cmake >= 3.18, which the build needs', 'apt-get install cmake');
    if (noPip && typeof libtorch === 'string')
      wrong(`libtorch cannot be fetched: ${noPip}`, 'apt-get install python3-pip');
  }

  const found = typeof libtorch === 'string' ? null : libtorch;
  const driver = cudaDriver(env);
  const gpus = await listGpus();
  const nvcc = await findNvcc(found?.dir ?? null, env);
  const says = loaded !== null && typeof loaded !== 'string' ? loaded : null;
  if (driver && says && !says.hasCuda) {
    const why = found?.cuda ? (says.cudaProblem ?? 'the CUDA part is not in use') : 'libtorch is a CPU build';
    wrong(
      `there is a CUDA driver, but ${why}: tensors live on the CPU only`,
      setupCommand === 'npm run setup' ? 'npm run setup -- --cuda' : `${setupCommand} --cuda`,
    );
  }
  const shm = sharedMemory();
  if (gpus.length > 1 && shm && shm.totalBytes < 256e6) {
    wrong(
      `/dev/shm has ${megabytes(shm.totalBytes)}; NCCL between GPUs of one host needs more`,
      'docker run --shm-size=1g ...',
    );
  }

  return {
    ok: problems.length === 0,
    problems,
    platform: here && { name: here.name, tested: here.tested },
    node: { version: process.versions.node, napi: process.versions.napi ?? 'unknown' },
    addon: path ? { path, key: record?.key ?? null, ops: says?.ops ?? null } : null,
    libtorch: found && { version: found.version, source: found.source, dir: found.dir },
    cpuCapability: cpuCapability(says),
    cuda: {
      version: found?.cuda ?? null,
      usable: says?.hasCuda ?? false,
      nvcc: nvcc && `${nvcc.version} (${nvcc.path})`,
    },
    driver,
    nccl: ncclOf(found, says),
    gpus,
    gloo: says?.gloo ?? null,
    cores: availableParallelism(),
    memory: { totalBytes: totalmem(), freeBytes: freemem() },
    sharedMemory: shm,
    tools: {
      compiler: compiler && `${compiler.version} (${compiler.path})`,
      cmake: cmake && `${cmake.version} (${cmake.path})`,
      pip: noPip ? null : (python?.path ?? null),
    },
  };
}

/** The libtorch that the addon was built for, as it is now. */
async function recorded(record: AddonRecord): Promise<Libtorch | string> {
  if (!existsSync(record.libtorch.dir)) return `${record.libtorch.dir}, for which the addon was built, is gone`;
  const reason = await whyNotLoadable(record.libtorch.dir);
  return reason ? `${record.libtorch.dir} cannot be loaded: ${reason}` : record.libtorch;
}

async function findOnDisk(env: NodeJS.ProcessEnv): Promise<Libtorch | string> {
  try {
    return await findLibtorch({ fetch: false, cuda: false }, { cache: cacheRoot(env), report: silentReport, env });
  } catch (error) {
    const tried = /What was tried:\n([\s\S]*?)\n\nWhat to do:/.exec(messageOf(error))?.[1] ?? messageOf(error);
    const lines = tried.split('\n').map((line) => line.trim());
    return lines.map((line) => line.replace(/^- /, '')).join(', ');
  }
}

function attempt<T>(work: () => T, failed: (text: string) => void): T | null {
  try {
    return work();
  } catch (error) {
    failed(messageOf(error));
    return null;
  }
}

/** What libtorch says; without an addon, what it will say by its own rule from the flags of the processor. */
function cpuCapability(says: Probe | null): Diagnosis['cpuCapability'] {
  if (says) return { name: says.cpuCapability, from: 'libtorch' };
  try {
    const flags = new Set(/^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.trim().split(' '));
    if (flags.size === 0) return null;
    const avx512 = ['avx512f', 'avx512vl', 'avx512bw', 'avx512dq', 'fma'].every((flag) => flags.has(flag));
    const name = avx512 ? 'AVX512' : flags.has('avx2') && flags.has('fma') ? 'AVX2' : 'DEFAULT';
    return { name, from: 'cpu flags' };
  } catch {
    return null;
  }
}

async function listGpus(): Promise<Gpu[]> {
  const smi = which('nvidia-smi');
  if (!smi) return [];
  const query = '--query-gpu=name,memory.total,compute_cap';
  const said = await run(smi, [query, '--format=csv,noheader,nounits'], { timeoutMs: 30_000 });
  if (said.code !== 0) return [];
  return said.stdout
    .trim()
    .split('\n')
    .map((line) => line.split(',').map((part) => part.trim()))
    .filter((parts) => parts.length === 3)
    .map(([name = '', mebibytes = '', computeCapability = '']) => ({
      name,
      memoryBytes: Number(mebibytes) * 1024 * 1024,
      computeCapability,
    }));
}

/** NCCL's version from the header of its wheel beside torch. */
function ncclOf(libtorch: Libtorch | null, says: Probe | null): Diagnosis['nccl'] {
  const header = libtorch ? join(libtorch.dir, '..', 'nvidia', 'nccl', 'include', 'nccl.h') : '';
  if (!existsSync(header)) return null;
  const text = readFileSync(header, 'utf8');
  const part = (name: string) => new RegExp(`define NCCL_${name}\\s+(\\d+)`).exec(text)?.[1] ?? '?';
  return { version: `${part('MAJOR')}.${part('MINOR')}.${part('PATCH')}`, usable: says?.nccl ?? false };
}

function sharedMemory(): Diagnosis['sharedMemory'] {
  try {
    const { blocks, bsize, bavail } = statfsSync('/dev/shm');
    return { totalBytes: blocks * bsize, freeBytes: bavail * bsize };
  } catch {
    return null; // macOS has none.
  }
}
