// Finds a libtorch, in the order of docs/decisions/libtorch.md: named by the caller > the cache > an installed Python
// torch > pip's wheels > the official archive. Not here: what a libtorch is (libtorch.ts), how it is fetched (fetch-*.ts).
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, SetupError } from './errors.js';
import { chooseArchive, fetchArchive } from './fetch-archive.js';
import { fetchFromPip } from './fetch-pip.js';
import { inspect, type Libtorch, whyNotLoadable } from './libtorch.js';
import { type Attempt, helpPage } from './locate.js';
import { installedTorch, whyNoPip } from './python.js';
import type { Report } from './report.js';
import { cudaDriver, findPython } from './toolchain.js';
import { PINNED, parseVersion, whyUnsupported } from './versions.js';

/** What may be said about the libtorch to use; each has an environment variable that it overrides. */
export interface FindOptions {
  /** A folder that holds a libtorch (SHARDLOOP_LIBTORCH). */
  readonly libtorch?: string;
  /** URL or path of an archive (SHARDLOOP_ARCHIVE), and its SHA-256 (SHARDLOOP_ARCHIVE_SHA256). */
  readonly archive?: string;
  readonly archiveSha256?: string;
  /** The version to fetch when none is found; the pinned one unless told otherwise. */
  readonly version?: string;
  /** Whether the libtorch must have CUDA; by whether there is a CUDA driver unless told otherwise. */
  readonly cuda?: boolean;
  /** False looks only at what is on this machine. */
  readonly fetch?: boolean;
}

/** What the search needs to know of its surroundings. */
export interface FindContext {
  readonly cache: string;
  readonly report: Report;
  readonly env: NodeJS.ProcessEnv;
}

/** A source: returns a libtorch, or why it has none. */
type Source = () => Promise<Libtorch | string>;

/**
 * The libtorch to build against; fetched when there is none. Throws LIBTORCH_MISSING with the page of what was tried,
 * BAD_ARGUMENT for a version that is not supported.
 */
export async function findLibtorch(options: FindOptions, context: FindContext): Promise<Libtorch> {
  const version = options.version ?? PINNED;
  const unsupported = parseVersion(version) ? whyUnsupported(version) : 'it is not a version such as 2.14.1';
  if (unsupported) throw new SetupError('BAD_ARGUMENT', `libtorch ${version} cannot be set up: ${unsupported}`);
  const wantCuda = options.cuda ?? cudaDriver(context.env) !== null;
  const attempts: Attempt[] = [];

  const named = options.libtorch ?? context.env.SHARDLOOP_LIBTORCH;
  if (named) {
    const source = options.libtorch ? 'the option --libtorch' : 'SHARDLOOP_LIBTORCH';
    const found = await usable(inspect(named, source), wantCuda && options.cuda === true);
    if (typeof found !== 'string') return found;
    // A libtorch that was named is meant: another one in its place would hide the mistake.
    throw missing([{ what: `${source} = ${named}`, result: found }]);
  }
  const archive = options.archive ?? context.env.SHARDLOOP_ARCHIVE;
  const sources: [string, Source][] = archive
    ? [[`the archive ${archive}`, () => fromArchive(options, context, version, wantCuda)]]
    : [
        [`the cache ${join(context.cache, 'libtorch')}`, () => fromCache(context, version, wantCuda)],
        ['an installed Python torch', () => fromPython(context, options.version, wantCuda)],
        [`pip download torch==${version}`, () => fromPip(context, version, wantCuda)],
        ['the official libtorch archive', () => fromArchive(options, context, version, wantCuda)],
      ];
  if (options.fetch === false) sources.splice(archive ? 0 : 2);
  for (const [what, source] of sources) {
    let result: Libtorch | string;
    try {
      result = await source();
    } catch (error) {
      result = messageOf(error);
    }
    if (typeof result !== 'string') return result;
    attempts.push({ what, result });
  }
  throw missing(attempts);
}

async function fromCache(context: FindContext, version: string, wantCuda: boolean): Promise<Libtorch | string> {
  const reasons: string[] = [];
  for (const folder of cachedFolders(context.cache)) {
    const found = inspect(folder, 'the cache');
    if (typeof found === 'string') continue;
    if (found.version !== version) continue;
    const result = await usable(found, wantCuda);
    if (typeof result !== 'string') return result;
    reasons.push(`${folder}: ${result}`);
  }
  return reasons.join('\n') || `it holds no libtorch ${version}`;
}

/**
 * Folders of the cache that may hold a libtorch: those that set-up made, then the Python environment of the oracle tests
 * once it is complete (scripts/oracle.mjs writes the stamp last).
 */
function cachedFolders(cache: string): string[] {
  const list = (folder: string) => (existsSync(folder) ? readdirSync(folder).sort() : []);
  const own = list(join(cache, 'libtorch'))
    .filter((name) => !/\.partial$|-compile$/.test(name))
    .map((name) => join(cache, 'libtorch', name));
  const lib = join(cache, 'python', 'lib');
  const complete = existsSync(join(cache, 'python', 'shardloop-stamp'));
  const python = complete ? list(lib).map((name) => join(lib, name, 'site-packages', 'torch')) : [];
  return [...own, ...python];
}

async function fromPython(
  context: FindContext,
  version: string | undefined,
  wantCuda: boolean,
): Promise<Libtorch | string> {
  const python = await findPython(context.env);
  if (!python) return 'there is no python3 on PATH';
  const folder = await installedTorch(python);
  if (!folder) return `${python.path} has no torch`;
  const found = inspect(folder, `Python (${python.path})`);
  if (typeof found !== 'string' && version && found.version !== version) {
    return `${folder} is version ${found.version}; ${version} was asked for`;
  }
  const result = await usable(found, wantCuda);
  return typeof result === 'string' ? `${folder}: ${result}` : result;
}

async function fromPip(context: FindContext, version: string, wantCuda: boolean): Promise<Libtorch | string> {
  const python = await findPython(context.env);
  const lacks = await whyNoPip(python);
  if (!python || lacks) return lacks ?? 'there is no python3 on PATH';
  const kind = wantCuda ? 'full' : 'slim';
  context.report.line(
    wantCuda
      ? 'a CUDA driver is there: fetching libtorch with all of CUDA (--no-cuda fetches the small one)'
      : 'no CUDA driver: fetching only what a CPU host needs',
  );
  const folder = await fetchFromPip(python, version, kind, context.cache, context.report);
  return usable(inspect(folder, `pip (torch ${version}, ${kind})`), wantCuda);
}

async function fromArchive(
  options: FindOptions,
  context: FindContext,
  version: string,
  wantCuda: boolean,
): Promise<Libtorch | string> {
  const archive = chooseArchive(
    {
      url: options.archive ?? context.env.SHARDLOOP_ARCHIVE,
      sha256: options.archiveSha256 ?? context.env.SHARDLOOP_ARCHIVE_SHA256,
    },
    version,
    wantCuda ? '13.0' : null,
  );
  if (typeof archive === 'string') return archive;
  const folder = await fetchArchive(archive, context.cache, context.report);
  return usable(inspect(folder, `the archive ${archive.url}`), wantCuda && options.cuda === true);
}

/** A libtorch that fits and loads, or why it does not. */
async function usable(found: Libtorch | string, needCuda: boolean): Promise<Libtorch | string> {
  if (typeof found === 'string') return found;
  if (needCuda && !found.cuda) return 'it is a CPU build, and CUDA is wanted (--no-cuda takes it all the same)';
  const reason = await whyNotLoadable(found.dir);
  return reason ? `it cannot be loaded: ${reason}` : found;
}

function missing(attempts: Attempt[]): SetupError {
  const page = helpPage({
    problem: 'No usable libtorch was found.',
    attempts,
    remedies: [
      'install python3 with pip (Debian: apt-get install python3-pip) and run this again; it goes on where it stopped',
      `or install torch ${PINNED} into the Python on PATH (SHARDLOOP_PYTHON names another): pip install torch==${PINNED}`,
      'or name a libtorch that you have: --libtorch DIR, or SHARDLOOP_LIBTORCH=DIR',
      'or name an archive and its sum: --archive URL --archive-sha256 HEX',
    ],
  });
  return new SetupError('LIBTORCH_MISSING', page);
}
