// Set-up as a whole, readable as its own table of contents: platform, tools, libtorch, CUDA part, build or cache, check.
// Run again it does only what is missing. Not here: npm ci and tsc of a clone (scripts/setup.mjs).
import { existsSync } from 'node:fs';
import { buildAddon, cachedAddon, publish, withdraw } from './addon.js';
import { type BuildInputs, buildKey } from './build-key.js';
import { cudaPart } from './cuda-part.js';
import { messageOf, SetupError } from './errors.js';
import { type FindOptions, findLibtorch } from './find.js';
import type { Libtorch } from './libtorch.js';
import { explainLoadFailure, helpPage, locateAddon, readRecord } from './locate.js';
import { addonInPackage, cacheRoot, packageRoot, pointerFile } from './paths.js';
import { platform } from './platform.js';
import { probe } from './probe.js';
import { type Report, since, stderrReport } from './report.js';
import { findCMake, findCompiler } from './toolchain.js';

/** Options of {@link setup}; all have a sensible default. */
export interface SetupOptions extends FindOptions {
  /** Build even when the cache has the addon (object files that are up to date are kept). */
  readonly force?: boolean;
  readonly root?: string;
  readonly cache?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly report?: Report;
}

/** What set-up did. */
export interface SetupResult {
  readonly addon: string;
  readonly libtorch: Libtorch;
  /** `kept`: all was in place; `cached`: built before, elsewhere; `built`: compiled now. */
  readonly did: 'kept' | 'cached' | 'built';
  /** Whether the CUDA part was built, or why not. */
  readonly cuda: boolean | string;
  readonly ops: number;
}

/** Finds or fetches libtorch, builds the addon or takes it from the cache, and loads it once. Throws SetupError. */
export async function setup(options: SetupOptions = {}): Promise<SetupResult> {
  const root = options.root ?? packageRoot();
  const env = options.env ?? process.env;
  const cache = options.cache ?? cacheRoot(env);
  const report = options.report ?? stderrReport();
  const start = Date.now();

  const here = platform();
  if (here.note) report.line(here.note);
  const compiler = await findCompiler(env);
  if (!compiler)
    throw toolMissing('a C++20 compiler (c++, g++ or clang++)', 'apt-get install g++', 'or name one by CXX');

  const libtorch = await findLibtorch(options, { cache, report, env });
  report.line(`libtorch ${libtorch.version} from ${libtorch.source}: ${libtorch.dir}`);

  const cuda = await cudaPart(root, libtorch, options.cuda, env);
  if (typeof cuda === 'string') {
    if (options.cuda === true) throw new SetupError('BUILD_FAILED', `the CUDA part cannot be built: ${cuda}`);
    report.line(`without the CUDA part: ${cuda}`);
  }
  const base = { root, libtorch, compiler: `${compiler.path} ${compiler.version}` };
  const inputs = { ...base, cuda: typeof cuda === 'string' ? null : cuda };
  let plan = await build(inputs, cuda, options, cache, report);
  let loaded = await probe(plan.addon);
  if (typeof loaded === 'string' && plan.did !== 'built') {
    report.line(`${plan.addon} does not load (${loaded}): building it anew`);
    plan = await build(inputs, cuda, { ...options, force: true }, cache, report);
    loaded = await probe(plan.addon);
  }
  if (typeof loaded === 'string') {
    const failure = explainLoadFailure(plan.addon, new Error(loaded));
    await withdraw(plan.addon); // Or the next run would find it in the cache, and stop here for ever.
    throw failure;
  }
  // Only now: an addon that does not load must not take the place of one that does.
  const addon = plan.did === 'kept' ? plan.addon : await publish(plan.addon, root, cache);
  report.line(`${addon}: loads, ${loaded.ops} ops (${plan.did}; ${since(start)} in all)`);
  return { addon, libtorch, did: plan.did, cuda: plan.cuda, ops: loaded.ops };
}

type Plan = Pick<SetupResult, 'addon' | 'did' | 'cuda'>;

/**
 * The addon by the shortest way: where it is, in the cache, or built into the cache. A CUDA part that cannot be built is
 * said and left out.
 */
async function build(
  inputs: BuildInputs,
  cuda: BuildInputs['cuda'] | string,
  options: SetupOptions,
  cache: string,
  report: Report,
): Promise<Plan> {
  const { root } = inputs;
  const key = buildKey(inputs);
  const cudaSays = typeof cuda === 'string' ? cuda : true;
  if (!options.force) {
    const placed = inPlace(root, cache);
    if (placed && readRecord(placed)?.key === key) return { addon: placed, did: 'kept', cuda: cudaSays };
    const cached = cachedAddon(cache, key);
    if (existsSync(cached)) return { addon: cached, did: 'cached', cuda: cudaSays };
  }
  const cmake = await findCMake(options.env ?? process.env);
  if (!cmake) throw toolMissing('cmake of at least 3.18', 'apt-get install cmake', 'or pip install cmake');
  try {
    return { addon: await buildAddon(inputs, cmake.path, cache, report), did: 'built', cuda: cudaSays };
  } catch (error) {
    if (!inputs.cuda || options.cuda === true) throw error;
    report.line(`the CUDA part could not be built; building without it.\n${messageOf(error)}`);
    return build({ ...inputs, cuda: null }, 'its build failed', options, cache, report);
  }
}

/** The addon that this package has already, wherever it lies; null when there is none. */
function inPlace(root: string, cache: string): string | null {
  if (existsSync(addonInPackage(root))) return addonInPackage(root);
  if (!existsSync(pointerFile(root, cache))) return null;
  try {
    return locateAddon(root);
  } catch {
    return null;
  }
}

function toolMissing(what: string, ...remedies: string[]): SetupError {
  return new SetupError(
    'BUILD_FAILED',
    helpPage({ problem: `The build needs ${what}, and there is none on PATH.`, attempts: [], remedies }),
  );
}
