// Builds the addon by CMake, keeps it in the cache under its key, and puts it where the package looks for it.
// States of a cache entry: <key>.partial (being copied) -> <key> (complete, never changed).
// Not here: what the key is made of (build-key.ts), what is compiled (CMakeLists.txt).
import { existsSync, mkdirSync } from 'node:fs';
import { copyFile, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { availableParallelism, totalmem } from 'node:os';
import { dirname, join, sep } from 'node:path';
import { type BuildInputs, buildKey, nodeHeaders } from './build-key.js';
import { SetupError } from './errors.js';
import type { AddonRecord } from './locate.js';
import { withLock } from './lock.js';
import { addonInPackage, isWritable, pointerFile, recordBeside, shortHash } from './paths.js';
import { run, tail, which } from './process.js';
import { type Report, since } from './report.js';

/** The name of the CUDA part, which stands beside the addon. */
export const CUDA_LIBRARY = 'libshardloop_cuda.so';

/** Where a built addon lies in the cache. */
export function cachedAddon(cache: string, key: string): string {
  return join(cache, 'addons', key, 'shardloop.node');
}

/**
 * Compiles and links with CMake, and stores the result in the cache; returns its path there. Sources that change while
 * they are compiled are compiled again. Throws BUILD_FAILED with the end of the log.
 */
export async function buildAddon(inputs: BuildInputs, cmake: string, cache: string, report: Report): Promise<string> {
  const { root, libtorch } = inputs;
  const inClone = isWritable(root) && !root.includes(`${sep}node_modules${sep}`);
  let key = buildKey(inputs);
  // A clone keeps its object files, so that the next build compiles only what changed.
  const work = inClone ? join(root, 'build', 'native') : join(cache, 'build', shortHash(`${root} ${key}`));
  const log = join(cache, 'logs', `build-${key}.log`);
  mkdirSync(dirname(log), { recursive: true });
  await withLock(
    join(cache, 'locks', `build-${shortHash(work)}.lock`),
    async () => {
      await rm(log, { force: true });
      const start = Date.now();
      report.line(`building the addon for libtorch ${libtorch.version} with ${inputs.compiler} (log: ${log})`);
      for (let compiled = ''; compiled !== key; ) {
        compiled = key;
        await cmakeBuild(inputs, cmake, work, log, report);
        key = buildKey(inputs);
      }
      report.line(`built in ${since(start)}`);
      await store(join(work, 'out'), inputs, key, cache);
    },
    report.line,
  );
  if (!inClone) await rm(work, { recursive: true, force: true });
  return cachedAddon(cache, key);
}

async function cmakeBuild(
  inputs: BuildInputs,
  cmake: string,
  work: string,
  log: string,
  report: Report,
): Promise<void> {
  await mkdir(work, { recursive: true });
  const configured = await run(cmake, configureArguments(inputs, work), { log });
  if (configured.code !== 0) {
    // A build folder of another place or generator refuses to be configured: begin it anew, once.
    await rm(work, { recursive: true, force: true });
    await mkdir(work, { recursive: true });
    const again = await run(cmake, configureArguments(inputs, work), { log });
    if (again.code !== 0)
      throw new SetupError(
        'BUILD_FAILED',
        `cmake could not configure the build:\n${tail(again, 25)}\nThe whole log: ${log}`,
      );
  }
  const built = await run(cmake, ['--build', work, '--parallel', String(jobs())], {
    log,
    onLine: (line) => report.tick(line),
  });
  if (built.code !== 0) {
    const wanted = built.stdout.split('\n').filter((line) => /error|FAILED|fatal|undefined reference/i.test(line));
    const text = wanted.length > 0 ? wanted.slice(0, 25).join('\n') : tail(built, 25);
    throw new SetupError('BUILD_FAILED', `the native build failed:\n${text}\nThe whole log: ${log}`);
  }
}

/** CMake's arguments for a build; the CUDA part only when nvcc is given. */
export function configureArguments(inputs: BuildInputs, work: string): string[] {
  const headers = nodeHeaders(inputs.root);
  const args = ['-S', inputs.root, '-B', work, '-DCMAKE_BUILD_TYPE=Release'];
  if (which('ninja') && !existsSync(join(work, 'Makefile'))) args.push('-G', 'Ninja');
  args.push(
    `-DSHARDLOOP_LIBTORCH=${inputs.libtorch.dir}`,
    `-DSHARDLOOP_NODE_API=${headers.nodeApi}`,
    `-DSHARDLOOP_ADDON_API=${headers.addonApi}`,
    `-DSHARDLOOP_OUT=${join(work, 'out')}`,
    `-DCMAKE_CXX_COMPILER=${inputs.compiler.split(' ')[0]}`,
    `-DSHARDLOOP_NVCC=${inputs.cuda?.nvcc ?? ''}`,
    `-DSHARDLOOP_CUDA_ARCHITECTURES=${inputs.cuda?.architectures ?? ''}`,
  );
  return args;
}

/** Compiler processes at once: one a core, but not more than fit into memory at 1.5 GB each. */
function jobs(): number {
  const said = Number(process.env.CMAKE_BUILD_PARALLEL_LEVEL);
  return said > 0 ? said : Math.max(1, Math.min(availableParallelism(), Math.floor(totalmem() / 1.5e9)));
}

async function store(out: string, inputs: BuildInputs, key: string, cache: string): Promise<void> {
  const folder = dirname(cachedAddon(cache, key));
  const partial = `${folder}.partial-${process.pid}`;
  await mkdir(partial, { recursive: true });
  await copyFile(join(out, 'shardloop.node'), join(partial, 'shardloop.node'));
  if (inputs.cuda) await copyFile(join(out, CUDA_LIBRARY), join(partial, CUDA_LIBRARY));
  const { dir, version, source, cuda } = inputs.libtorch;
  const record: AddonRecord = {
    key,
    libtorch: { dir, version, source, cuda },
    compiler: inputs.compiler,
    builtAt: new Date().toISOString(),
    cuda: inputs.cuda !== null,
  };
  await writeFile(join(partial, 'shardloop.json'), `${JSON.stringify(record, null, 2)}\n`);
  await rm(folder, { recursive: true, force: true });
  await rename(partial, folder);
}

/** Puts a cached addon where the package looks for it; a package that cannot be written gets a pointer in the cache. */
export async function publish(cached: string, root: string, cache: string): Promise<string> {
  const target = addonInPackage(root);
  if (!isWritable(dirname(target))) {
    const pointer = pointerFile(root, cache);
    await mkdir(dirname(pointer), { recursive: true });
    await writeFile(`${pointer}.${process.pid}`, JSON.stringify({ package: root, addon: cached }));
    await rename(`${pointer}.${process.pid}`, pointer);
    return cached;
  }
  await mkdir(dirname(target), { recursive: true });
  const library = join(dirname(cached), CUDA_LIBRARY);
  if (existsSync(library)) await replace(library, join(dirname(target), CUDA_LIBRARY));
  else await rm(join(dirname(target), CUDA_LIBRARY), { force: true });
  await replace(cached, target);
  await replace(recordBeside(cached), recordBeside(target)); // Last: its key says that the rest is in place.
  return target;
}

/** Takes an addon that does not load out of the cache. */
export async function withdraw(cached: string): Promise<void> {
  await rm(dirname(cached), { recursive: true, force: true });
}

/** A process that has the old file mapped keeps it: the new one takes its name, not its place. */
async function replace(from: string, to: string): Promise<void> {
  const partial = `${to}.${process.pid}`;
  await copyFile(from, partial);
  await rename(partial, to);
}
