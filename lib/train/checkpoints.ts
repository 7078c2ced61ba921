// The checkpoints of a run: what goes into one, and how a run goes on from it. Written by rank 0, read by every rank.
// The folder format is lib/io's. There is no random state in it: each step's is a function of seed, step and rank.
import { mkdir, readFile, rename } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { noGrad, ops, ShardloopError, type Tensor } from '../core/index.js';
import type { BatchSource, DataPosition } from '../data/index.js';
import { readEnvironment } from '../dist/index.js';
import { type Json, latestCheckpoint, listCheckpoints, openCheckpoint, saveCheckpoint } from '../io/index.js';
import type { Optimizer, OptimizerState, Schedule } from '../optim/index.js';
import type { Run } from './run.js';

/** What a checkpoint captures. */
interface Subject {
  readonly trainable: readonly (readonly [string, Tensor])[];
  readonly optimizer: Optimizer;
  readonly schedule: Schedule;
  readonly batches: BatchSource;
}

/** Where a run begins: step 0, or what a checkpoint says. */
export interface StartingPoint {
  readonly step: number;
  /** Seconds of training before it. */
  readonly seconds: number;
}

interface State {
  readonly step: number;
  readonly seconds: number;
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

  constructor(run: Run, subject: Subject) {
    this.#run = run;
    this.#subject = subject;
  }

  /** Write `out/checkpoint-<step>`. Collective: returns on every rank when it is complete. */
  async save(step: number, seconds: number): Promise<void> {
    const { config, group, leads } = this.#run;
    const { trainable, optimizer, schedule, batches } = this.#subject;
    if (leads) {
      const { tensors, values } = optimizer.stateDict();
      const state = {
        ...{ step, seconds, globalBatch: batches.globalBatch, position: batches.position() },
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
   * Throws BAD_CHECKPOINT when it is damaged, or of another model, method, batch size, seed or data.
   */
  async resume(): Promise<StartingPoint> {
    const { config, group, options, leads } = this.#run;
    const path = await group.broadcastObject(leads ? await this.#find() : null);
    if (path === null) {
      if (leads && !options.dryRun) await setAside(config.out);
      return { step: 0, seconds: 0 };
    }
    const checkpoint = await openCheckpoint(path);
    try {
      const state = checkpoint.state as unknown as State;
      this.#check(path, state);
      this.#loadWeights(path, checkpoint.tensors('model'));
      this.#loadOptimizer(path, { tensors: checkpoint.tensors('optimizer'), values: state.optimizer });
      this.#subject.schedule.loadStateDict(state.schedule);
      this.#subject.batches.seek(state.position);
      this.newest = path;
      return { step: state.step, seconds: state.seconds };
    } finally {
      checkpoint.close();
    }
  }

  async #find(): Promise<string | null> {
    const { config, options } = this.#run;
    const own = await newestOfThisLaunch(config.out);
    if (own !== null) return own;
    if (config.resume !== 'auto') return config.resume ?? null;
    if (options.dryRun) return (await listCheckpoints(config.out)).at(-1) ?? null; // cleans nothing up
    return latestCheckpoint(config.out);
  }

  #check(path: string, { globalBatch }: State): void {
    const own = this.#subject.batches.globalBatch;
    if (globalBatch === own) return;
    throw new ShardloopError(
      'BAD_CHECKPOINT',
      `${path}: expected a run with a global batch of ${own} records (micro-batch x grad-accum x ranks), received one of ${globalBatch}; resume with the same product`,
    );
  }

  #loadWeights(path: string, saved: Map<string, Tensor>): void {
    const { trainable } = this.#subject;
    const misfits = trainable.filter(([name, t]) => saved.get(name)?.shape.join() !== t.shape.join());
    if (misfits.length > 0 || saved.size !== trainable.length) {
      const name = misfits[0]?.[0] ?? [...saved.keys()].find((key) => !trainable.some(([own]) => own === key));
      throw new ShardloopError(
        'BAD_CHECKPOINT',
        `${path}: expected the ${trainable.length} tensors that train here, received ${saved.size}; ${name} does not fit. Resume with the same model, method and adapter options`,
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

/** A run that begins anew must not meet an earlier run's checkpoints later: they are moved, not deleted. */
async function setAside(out: string): Promise<void> {
  const found = await listCheckpoints(out);
  if (found.length === 0) return;
  const folder = join(out, `before-${new Date().toISOString().replace(/[:.]/g, '-')}`);
  await mkdir(folder, { recursive: true });
  for (const path of found) await rename(path, join(folder, basename(path)));
  process.stderr.write(`${out} held checkpoints of an earlier run; they are now in ${folder}\n`);
}
