// The checkpoints of a run: what goes into one, and how a run goes on from it. Written by rank 0, read by every rank.
// The folder format is lib/io's. There is no random state in it: each step's is a function of seed, step and rank.
import { mkdir, readdir, readFile, rename } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { noGrad, ops, ShardloopError, type Tensor } from '../core/index.js';
import type { BatchSource, DataPosition } from '../data/index.js';
import { readEnvironment } from '../dist/index.js';
import { exists, type Json, latestCheckpoint, listCheckpoints, openCheckpoint, saveCheckpoint } from '../io/index.js';
import type { Optimizer, OptimizerState, Schedule } from '../optim/index.js';
import { compareOrigins, type Origin, originOf } from './origin.js';
import { type Run, tell } from './run.js';

/** What a checkpoint captures. */
interface Subject {
  readonly trainable: readonly (readonly [string, Tensor])[];
  readonly optimizer: Optimizer;
  readonly schedule: Schedule;
  readonly batches: BatchSource;
}

/** What a run came to so far; a resumed run goes on counting. */
export interface Progress {
  readonly seconds: number;
  readonly tokens: number;
  readonly firstLoss?: number;
  readonly evalLossBefore?: number;
}

/** Where a run begins: step 0, or what a checkpoint says. */
export interface StartingPoint extends Progress {
  readonly step: number;
}

interface State extends Partial<Progress> {
  readonly step: number;
  readonly origin?: Origin;
  readonly globalBatch: number;
  readonly position: DataPosition;
  readonly schedule: { step: number };
  readonly optimizer: OptimizerState['values'];
  /** The launch that wrote it, over all its restarts. */
  readonly launch?: string;
}

export class Checkpoints {
  /** The newest checkpoint of this run, if any. */
  newest: string | null = null;
  readonly #run: Run;
  readonly #subject: Subject;
  #origin: Origin | null = null;

  constructor(run: Run, subject: Subject) {
    this.#run = run;
    this.#subject = subject;
  }

  /** Write `out/checkpoint-<step>`. Collective: returns on every rank when it is complete. */
  async save(step: number, { seconds, tokens, firstLoss, evalLossBefore }: Progress): Promise<void> {
    const { config, group, leads } = this.#run;
    const { trainable, optimizer, schedule, batches } = this.#subject;
    if (leads) {
      const { tensors, values } = optimizer.stateDict();
      const state = {
        ...{ step, seconds, tokens, firstLoss, evalLossBefore, origin: this.#origin },
        ...{ globalBatch: batches.globalBatch, position: batches.position() },
        ...{ schedule: schedule.stateDict(), optimizer: values, launch: launchId() },
      };
      const content = { tensors: { model: new Map(trainable), optimizer: tensors }, state: state as unknown as Json };
      await saveCheckpoint(config.out, step, content, { saveTotalLimit: config.saveTotalLimit });
    }
    await group.barrier().done();
    this.newest = join(config.out, `checkpoint-${step}`);
  }

  /**
   * Go on from the checkpoint that `resume` names, or begin anew. Collective.
   * Throws BAD_CHECKPOINT when it is damaged, or of another model, method, precision, batch size, seed or data.
   */
  async resume(): Promise<StartingPoint> {
    const { config, group, leads } = this.#run;
    const found = leads ? { path: await this.#find(), origin: await originOf(config) } : null;
    const { path, origin } = (await group.broadcastObject(found))!;
    this.#origin = origin;
    if (path === null) return { step: 0, seconds: 0, tokens: 0 };
    const checkpoint = await openCheckpoint(path);
    try {
      const state = checkpoint.state as unknown as State;
      this.#check(path, state);
      this.#loadWeights(path, checkpoint.tensors('model'));
      this.#loadOptimizer(path, { tensors: checkpoint.tensors('optimizer'), values: state.optimizer });
      this.#subject.schedule.loadStateDict(state.schedule);
      this.#subject.batches.seek(state.position);
      this.newest = path;
      const { step, seconds = 0, tokens = 0, firstLoss, evalLossBefore } = state;
      return { step, seconds, tokens, firstLoss, evalLossBefore };
    } finally {
      checkpoint.close();
    }
  }

  /** The checkpoint to go on from, or null. Others that this run might mistake for its own are set aside. */
  async #find(): Promise<string | null> {
    const { config, options } = this.#run;
    const { out, resume } = config;
    const own = await newestOfThisLaunch(out);
    if (own === null && resume !== undefined && resume !== 'auto') return resume;
    if (!options.dryRun) await latestCheckpoint(out); // cleans up what killed processes left
    const complete = await listCheckpoints(out);
    const broken = (await checkpointFolders(out)).filter((path) => !complete.includes(path));
    const names = broken.map((path) => basename(path)).join(', ');
    if (broken.length > 0) tell(this.#run, `${out}: ${names}: incomplete (no COMMITTED file), cannot be resumed from`);
    const newest = own ?? (resume === 'auto' ? (complete.at(-1) ?? null) : null);
    if (!options.dryRun) await setAside(this.#run, newest === null ? [...complete, ...broken] : broken);
    return newest;
  }

  #check(path: string, { globalBatch, origin }: State): void {
    const { config } = this.#run;
    const changed = compareOrigins(path, origin, this.#origin!, 'model' in config ? config.model : undefined);
    if (changed !== null) tell(this.#run, changed);
    const own = this.#subject.batches.globalBatch;
    if (globalBatch === own) return;
    throw new ShardloopError(
      'BAD_CHECKPOINT',
      `${path}: expected a run with a global batch of ${own} records (micro-batch x grad-accum x ranks), received one of ${globalBatch}; resume with the same product`,
    );
  }

  #loadWeights(path: string, saved: Map<string, Tensor>): void {
    const { trainable } = this.#subject;
    const shapeOf = (t: Tensor | undefined) => (t === undefined ? 'none' : `[${t.shape.join(', ')}]`);
    const own = new Map(trainable);
    for (const name of new Set([...own.keys(), ...saved.keys()])) {
      const [expected, received] = [shapeOf(own.get(name)), shapeOf(saved.get(name))];
      if (expected === received) continue;
      throw new ShardloopError(
        'BAD_CHECKPOINT',
        `${path}: ${name}: expected the shape ${expected} that trains here, received ${received}. Resume with the same model, method and adapter options`,
      );
    }
    noGrad(() => {
      for (const [name, t] of trainable) ops.copy_(t, saved.get(name)!);
    });
    for (const t of saved.values()) t.dispose();
  }

  /** The state of the checkpoint with the settings of this command. */
  #loadOptimizer(path: string, state: OptimizerState): void {
    const { optimizer } = this.#subject;
    const settings = optimizer.groups.map((group) => ({ ...group }));
    try {
      optimizer.loadStateDict(state);
    } catch (cause) {
      throw new ShardloopError(
        'BAD_CHECKPOINT',
        `${path}: ${(cause as Error).message}; resume with the same --optimizer`,
        {
          cause,
        },
      );
    }
    for (const [i, group] of optimizer.groups.entries()) Object.assign(group, settings[i]);
    for (const t of state.tensors.values()) t.dispose();
  }
}

const launchId = () => process.env.SHARDLOOP_LAUNCH_ID || undefined;

/**
 * After a restart by the launcher: the newest checkpoint that this launch wrote, whatever `resume` says. Others in the
 * folder may be of another run, which the first start would have set aside, or of a branch that `resume` left.
 */
async function newestOfThisLaunch(out: string): Promise<string | null> {
  const launch = launchId();
  if (launch === undefined || readEnvironment().restartCount === 0) return null;
  for (const path of (await listCheckpoints(out)).reverse()) {
    const state = JSON.parse(await readFile(join(path, 'state.json'), 'utf8')) as State;
    if (state.launch === launch) return path;
  }
  return null;
}

/** Everything in `out` that is called like a checkpoint, complete or not. */
async function checkpointFolders(out: string): Promise<string[]> {
  if (!(await exists(out))) return [];
  return (await readdir(out)).filter((name) => /^checkpoint-\d+$/.test(name)).map((name) => join(out, name));
}

/** A run must not meet an earlier run's checkpoints later, nor write over them: they are moved, not deleted. */
async function setAside(run: Run, found: string[]): Promise<void> {
  if (found.length === 0) return;
  const { out } = run.config;
  const folder = join(out, `before-${new Date().toISOString().replace(/[:.]/g, '-')}`);
  await mkdir(folder, { recursive: true });
  for (const path of found) await rename(path, join(folder, basename(path)));
  tell(run, `${out} held checkpoints that this run does not go on from; they are now in ${folder}`);
}
