// The programs that the build needs: a C++20 compiler, cmake, python3 with pip, nvcc; and the CUDA driver.
// Not here: what is built with them (addon.ts), what they fetch (fetch-pip.ts).
import { accessSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { run, which } from './process.js';

/** A program that was found, with the first line of what it says of itself. */
export interface Tool {
  readonly path: string;
  readonly version: string;
}

/** The C++ compiler: CXX, else c++, g++ or clang++ on PATH; null when there is none. */
export async function findCompiler(env: NodeJS.ProcessEnv = process.env): Promise<Tool | null> {
  return firstOf(env.CXX ? [env.CXX] : ['c++', 'g++', 'clang++'], env);
}

/** cmake of at least 3.18, or null. */
export async function findCMake(env: NodeJS.ProcessEnv = process.env): Promise<Tool | null> {
  const tool = await firstOf(['cmake'], env);
  const match = /(\d+)\.(\d+)/.exec(tool?.version ?? '');
  if (!tool || !match) return null;
  return Number(match[1]) > 3 || Number(match[2]) >= 18 ? tool : null;
}

/** A Python: SHARDLOOP_PYTHON, else python3 or python on PATH; null when there is none. */
export async function findPython(env: NodeJS.ProcessEnv = process.env): Promise<Tool | null> {
  return firstOf(env.SHARDLOOP_PYTHON ? [env.SHARDLOOP_PYTHON] : ['python3', 'python'], env);
}

/** nvcc: CUDACXX, beside libtorch in a wheel's layout, CUDA_HOME, PATH, /usr/local/cuda; null when there is none. */
export async function findNvcc(libtorch: string | null, env: NodeJS.ProcessEnv = process.env): Promise<Tool | null> {
  const candidates = [
    env.CUDACXX ?? '',
    ...(libtorch ? nvidiaFolders(libtorch).map((folder) => join(folder, 'bin', 'nvcc')) : []),
    env.CUDA_HOME ? join(env.CUDA_HOME, 'bin', 'nvcc') : '',
    'nvcc',
    '/usr/local/cuda/bin/nvcc',
  ].filter(Boolean);
  for (const candidate of candidates) {
    const path = which(candidate, env);
    if (!path) continue;
    const said = await run(path, ['--version'], { timeoutMs: 20_000 });
    const version = /release (\d+\.\d+)/.exec(said.stdout)?.[1];
    if (said.code === 0 && version) return { path, version };
  }
  return null;
}

/** The folders of CUDA's wheels beside a libtorch of pip's layout: `nvidia/cu13`, newest first. */
export function nvidiaFolders(libtorch: string): string[] {
  const nvidia = join(libtorch, '..', 'nvidia');
  if (!existsSync(nvidia)) return [];
  const names = readdirSync(nvidia).filter((name) => /^cu\d+$/.test(name));
  return names
    .sort()
    .reverse()
    .map((name) => join(nvidia, name));
}

/** A CUDA driver: its version where the kernel says it, or the path of libcuda; null on a host without one. */
export function cudaDriver(env: NodeJS.ProcessEnv = process.env): string | null {
  try {
    const said = readFileSync('/proc/driver/nvidia/version', 'utf8');
    return /(\d+\.\d+(?:\.\d+)?)/.exec(said.replace(/^.*Kernel Module/m, ''))?.[1] ?? said.split('\n')[0] ?? 'unknown';
  } catch {
    // No such file: containers and WSL have the library alone.
  }
  const folders = [
    ...(env.LD_LIBRARY_PATH ?? '').split(delimiter),
    '/usr/lib/x86_64-linux-gnu',
    '/usr/lib/aarch64-linux-gnu',
    '/usr/lib64',
    '/usr/lib',
    '/usr/lib/wsl/lib',
    '/usr/local/nvidia/lib64',
  ];
  for (const folder of folders.filter(Boolean)) {
    const path = join(folder, 'libcuda.so.1');
    try {
      accessSync(path);
      return path;
    } catch {
      // Not in this folder.
    }
  }
  return null;
}

async function firstOf(names: readonly string[], env: NodeJS.ProcessEnv): Promise<Tool | null> {
  for (const name of names) {
    const path = which(name, env);
    if (!path) continue;
    const said = await run(path, ['--version'], { timeoutMs: 20_000 });
    if (said.code === 0) return { path, version: (said.stdout || said.stderr).split('\n')[0]?.trim() ?? '' };
  }
  return null;
}
