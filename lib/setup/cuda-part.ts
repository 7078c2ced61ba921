// Decides whether the CUDA part (libshardloop_cuda) is built, and with which nvcc for which GPUs.
// Not here: its sources (native/cuda, native/kernels) or rules (CMakeLists.txt).
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { BuildInputs } from './build-key.js';
import type { Libtorch } from './libtorch.js';
import { run, which } from './process.js';
import { cudaDriver, findNvcc } from './toolchain.js';

/** What the CUDA part is compiled for when no GPU tells: Hopper. */
export const DEFAULT_ARCHITECTURES = '90';

/**
 * The CUDA part of a build, or why there is none, as a sentence. `wanted`: true builds it without a driver too, false
 * never, undefined where a CUDA driver is.
 */
export async function cudaPart(
  root: string,
  libtorch: Libtorch,
  wanted: boolean | undefined,
  env: NodeJS.ProcessEnv,
): Promise<NonNullable<BuildInputs['cuda']> | string> {
  if (wanted === false) return 'it was refused by --no-cuda';
  if (wanted === undefined && cudaDriver(env) === null) return 'this host has no CUDA driver';
  if (!hasSources(root)) return 'this version of shardloop has no CUDA sources';
  if (!libtorch.cuda) return `the libtorch in ${libtorch.dir} is a CPU build`;
  const nvcc = await findNvcc(libtorch.dir, env);
  if (!nvcc) return 'there is no nvcc: pip install nvidia-cuda-nvcc beside torch, or name one by CUDACXX';
  if (nvcc.version.split('.')[0] !== libtorch.cuda.split('.')[0] && libtorch.cuda !== 'unknown') {
    return `nvcc ${nvcc.version} (${nvcc.path}) does not fit CUDA ${libtorch.cuda} of libtorch; name another by CUDACXX`;
  }
  const architectures = env.SHARDLOOP_CUDA_ARCHITECTURES ?? (await architecturesHere()) ?? DEFAULT_ARCHITECTURES;
  return { nvcc: nvcc.path, version: nvcc.version, architectures };
}

function hasSources(root: string): boolean {
  const folder = join(root, 'native', 'cuda');
  return existsSync(folder) && readdirSync(folder).some((name) => /\.(cc|cu)$/.test(name));
}

/** The architectures of the GPUs of this host, such as `90` or `80;90`; null when nvidia-smi does not say. */
async function architecturesHere(): Promise<string | null> {
  const smi = which('nvidia-smi');
  if (!smi) return null;
  const said = await run(smi, ['--query-gpu=compute_cap', '--format=csv,noheader'], { timeoutMs: 30_000 });
  const found = new Set(said.stdout.split('\n').map((line) => /^(\d+)\.(\d+)$/.exec(line.trim())?.slice(1).join('')));
  found.delete(undefined);
  return found.size > 0 ? [...found].sort().join(';') : null;
}
