// Finds the built addon at its first use, and writes the help page when it is missing or cannot be loaded. Costs a few
// file look-ups: no process is started and no libtorch searched. Not here: building it (addon.ts), loading it (lib/core).
import { existsSync, readFileSync } from 'node:fs';
import { SetupError } from './errors.js';
import { addonInPackage, packageRoot, pointerFile, recordBeside } from './paths.js';
import { platform } from './platform.js';

/** What is known of a built addon; written beside it. */
export interface AddonRecord {
  /** The hash of all that the build depends on. */
  readonly key: string;
  readonly libtorch: {
    readonly dir: string;
    readonly version: string;
    readonly source: string;
    readonly cuda: string | null;
  };
  readonly compiler: string;
  readonly builtAt: string;
  /** Whether the CUDA part stands beside the addon, or why it does not. */
  readonly cuda: boolean | string;
}

/** One thing that was tried, and what came of it. */
export interface Attempt {
  readonly what: string;
  readonly result: string;
}

/**
 * The path of the addon: SHARDLOOP_ADDON > build/Release of the package > the one that the cache names for this package.
 * Throws ADDON_MISSING with the help page, or UNSUPPORTED with a sentence.
 */
export function locateAddon(root: string = packageRoot()): string {
  platform();
  const attempts: Attempt[] = [];
  const override = process.env.SHARDLOOP_ADDON;
  if (override) {
    if (existsSync(override)) return override;
    attempts.push({ what: `SHARDLOOP_ADDON=${override}`, result: 'there is no such file' });
  }
  const inPackage = addonInPackage(root);
  if (existsSync(inPackage)) return inPackage;
  attempts.push({ what: inPackage, result: 'there is no such file' });
  const pointer = pointerFile(root);
  const pointed = readPointer(pointer);
  if (pointed && existsSync(pointed)) return pointed;
  attempts.push({ what: pointer, result: pointed ? `it names ${pointed}, which is gone` : 'there is no such file' });
  throw new SetupError(
    'ADDON_MISSING',
    helpPage({ problem: 'The native addon is not built yet.', attempts, remedies: setupRemedies() }),
  );
}

/** The record beside an addon, or null when there is none that can be read. */
export function readRecord(addon: string): AddonRecord | null {
  try {
    return JSON.parse(readFileSync(recordBeside(addon), 'utf8')) as AddonRecord;
  } catch {
    return null;
  }
}

/** The error for an addon that is there but that the system refused to load; `cause` is what dlopen threw. */
export function explainLoadFailure(addon: string, cause: unknown): SetupError {
  const said = cause instanceof Error ? cause.message : String(cause);
  const record = readRecord(addon);
  const attempts: Attempt[] = [{ what: `loading ${addon}`, result: said }];
  const gone = record !== null && !existsSync(record.libtorch.dir);
  if (record) {
    const result = gone ? 'this folder is gone' : 'this folder is there';
    attempts.push({ what: `its libtorch ${record.libtorch.version}, ${record.libtorch.dir}`, result });
  }
  const libtorch = gone || /lib(torch|c10|gomp|cudart|cupti|omp)/.test(said);
  const problem = libtorch
    ? 'The libtorch that the native addon was built for cannot be loaded.'
    : 'The native addon cannot be loaded.';
  return new SetupError(
    libtorch ? 'LIBTORCH_MISSING' : 'ADDON_MISSING',
    helpPage({ problem, attempts, remedies: setupRemedies() }),
    { cause },
  );
}

/** A page of help: what is wrong, what was tried with what result, what to do. Plain text, no trailing newline. */
export function helpPage(page: {
  readonly problem: string;
  readonly attempts: readonly Attempt[];
  readonly remedies: readonly string[];
}): string {
  const lines = [page.problem];
  if (page.attempts.length > 0) {
    lines.push('', 'What was tried:');
    for (const { what, result } of page.attempts) {
      lines.push(`  - ${what}`, ...result.split('\n').map((line) => `      ${line}`));
    }
  }
  lines.push('', 'What to do:', ...page.remedies.map((remedy) => `  - ${remedy}`));
  return lines.join('\n');
}

/** The remedies that hold for every missing or broken addon. */
export function setupRemedies(): string[] {
  return [
    'run `npx shardloop setup` (in a clone: `npm run setup`): it finds or fetches libtorch and builds the addon',
    'or name a libtorch that you have: `npx shardloop setup --libtorch DIR`, or SHARDLOOP_LIBTORCH=DIR',
    'run `npx shardloop doctor` to see what this machine has and lacks',
  ];
}

function readPointer(file: string): string | null {
  try {
    const { addon } = JSON.parse(readFileSync(file, 'utf8')) as { addon?: unknown };
    return typeof addon === 'string' ? addon : null;
  } catch {
    return null;
  }
}
