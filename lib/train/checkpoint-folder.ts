// What lies in a run's folder before it begins: which checkpoints to go on from, what is set aside, and the links `latest` and
// `best`. Called on rank 0 alone. Not here: what is in a checkpoint (checkpoints.ts).
import { lstat, mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { readEnvironment } from '../dist/index.js';
import { exists, latestCheckpoint, linkAtomic, listCheckpoints } from '../io/index.js';
import type { FinetuneConfig } from './config.js';
import { resultOf } from './out-folder.js';
import { type Run, tell } from './run.js';

export const launchId = () => process.env.SHARDLOOP_LAUNCH_ID || undefined;

const LINKS = ['latest', 'best'] as const;

/**
 * The checkpoints to go on from, the preferred one first: one that turns out to be damaged gives way to the next. None:
 * the run begins anew. Others that this run might mistake for its own are set aside.
 */
export async function findCheckpoints(run: Run): Promise<string[]> {
  const { config, options } = run;
  const { out, resume } = config;
  const own = await ofThisLaunch(out);
  const named = resume === undefined || resume === 'auto' ? [] : [resume];
  if (named.length > 0 && own.length === 0) return named;
  if (!options.dryRun) await latestCheckpoint(out); // cleans up what killed processes left
  const complete = await listCheckpoints(out);
  const broken = (await checkpointFolders(out)).filter((path) => !complete.includes(path));
  const names = broken.map((path) => basename(path)).join(', ');
  if (broken.length > 0) tell(run, `${out}: ${names}: incomplete (no COMMITTED file), cannot be resumed from`);
  const others = resume === 'auto' ? complete.reverse().filter((path) => !own.includes(path)) : named;
  const found = [...own, ...others];
  const anew = found.length === 0;
  if (!options.dryRun)
    await setAside(run, anew ? [...complete, ...broken] : broken, anew ? await resultsOfOthers(run) : []);
  return found;
}

/**
 * After a restart by the launcher: what this launch wrote, newest first, whatever `resume` says. Others in the folder may
 * be of another run, which the first start would have set aside, or of a branch that `resume` left.
 */
async function ofThisLaunch(out: string): Promise<string[]> {
  const launch = launchId();
  if (launch === undefined || readEnvironment().restartCount === 0) return [];
  const found: string[] = [];
  for (const path of (await listCheckpoints(out)).reverse()) {
    const state = await readState(path).catch(() => null);
    if (state === null || state.launch === launch) found.push(path); // whoever opens it learns why it cannot be read
  }
  return found;
}

async function readState(path: string): Promise<{ launch?: string }> {
  return JSON.parse(await readFile(join(path, 'state.json'), 'utf8')) as { launch?: string };
}

/** Everything in `out` that is called like a checkpoint, complete or not. */
async function checkpointFolders(out: string): Promise<string[]> {
  if (!(await exists(out))) return [];
  return (await readdir(out)).filter((name) => /^checkpoint-\d+$/.test(name)).map((name) => join(out, name));
}

const REPORTS = /^(metrics\.jsonl|metrics\.csv|run\.json|loss\.svg|events\.out\.tfevents\..*)$/;

/** What an earlier run left in `out` that this one would write over. Not what this launch began before a restart. */
async function resultsOfOthers({ command, config }: Run): Promise<string[]> {
  const { out } = config;
  if (!(await exists(out))) return [];
  if (launchId() !== undefined && readEnvironment().restartCount > 0) {
    const described = await readFile(join(out, 'run.json'), 'utf8').catch(() => '');
    if (described.includes(`"launch": "${launchId()}"`)) return []; // as describeRun writes it; a foreign file need not be JSON
  }
  // Only the folder that this run writes: `out` may hold the model that it tunes.
  const result = basename(command === 'pretrain' ? 'model' : resultOf(config as FinetuneConfig));
  return (await readdir(out)).filter((name) => name === result || REPORTS.test(name)).map((name) => join(out, name));
}

/**
 * A run must not meet an earlier run's checkpoints later, nor write over them or over its results: they are moved, not
 * deleted, and before the first step, so that no crash on the way can lose them.
 */
export async function setAside(run: Run, checkpoints: readonly string[], results: readonly string[] = []) {
  const found = [...checkpoints, ...results];
  if (found.length === 0) return;
  const { out } = run.config;
  const folder = join(out, `before-${new Date().toISOString().replace(/[:.]/g, '-')}`);
  await mkdir(folder, { recursive: true });
  for (const path of found) await rename(path, join(folder, basename(path)));
  for (const name of LINKS) await dropDangling(join(out, name));
  const names = results.map((path) => basename(path)).join(', ');
  const held = [...(checkpoints.length > 0 ? ['checkpoints'] : []), ...(names ? [`results (${names})`] : [])];
  tell(run, `${out} held ${held.join(' and ')} that this run does not go on from; they are now in ${folder}`);
}

/** Links in `out` to checkpoints there, so that `--resume OUT/best` works. One without a target stays if it leads somewhere. */
export async function pointTo(out: string, targets: Readonly<Record<(typeof LINKS)[number], string | undefined>>) {
  for (const name of LINKS) {
    const target = targets[name];
    try {
      if (target !== undefined) await linkAtomic(join(out, name), target);
      else await dropDangling(join(out, name));
    } catch (error) {
      // A file system without links does without: the folders are what counts.
      if (!['EPERM', 'ENOTSUP', 'ENOSYS', 'EISDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
    }
  }
}

async function dropDangling(link: string): Promise<void> {
  const isLink = await lstat(link).then(
    (stats) => stats.isSymbolicLink(),
    () => false,
  );
  if (isLink && !(await exists(link))) await rm(link);
}
