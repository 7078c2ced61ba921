// The checkpoints of a run: when one is written and by whom, and how a run goes on from one. Every rank writes its part,
// rank 0 commits; every rank reads what it needs. What a part is stands in checkpoint-content.ts, the folder's format in
// lib/io. There is no random state in it: each step's is a function of seed, step and rank.
//
// States of a save: none -> under way (save(): the folder is begun, every rank writes) -> none (settle(): all have
// written and rank 0 has committed, or one has failed, every rank throws and nothing is left of it).
import { realpath } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { ShardloopError } from '../core/index.js';
import { ranksOf, words } from '../core/option-names.js';
import type { BatchSource, DataPosition } from '../data/index.js';
import {
  type BackgroundWrite,
  beginCheckpoint,
  type Checkpoint,
  commitCheckpoint,
  exists,
  type Json,
  listCheckpoints,
  openCheckpoint,
  type PartReceipt,
  type PendingFolder,
  planPart,
  removeOldest,
  writePart,
  writePartInBackground,
} from '../io/index.js';
import type { LossScaler, OptimizerState, Schedule } from '../optim/index.js';
import { contentOf, joinValues, loadParameters, optimizerState, type Subject } from './checkpoint-content.js';
import { findCheckpoints, launchId, pointTo, setAside } from './checkpoint-folder.js';
import { nothingScored } from './option-check.js';
import { compareOrigins, type Origin, originOf } from './origin.js';
import { type Run, tell } from './run.js';

/** What a checkpoint captures. */
interface Captured extends Subject {
  readonly schedule: Schedule;
  readonly batches: BatchSource;
  readonly scaler: LossScaler | null;
  /** Whether the run scores held-out records between its steps. */
  readonly evaluates: boolean;
  /** Writes what the run's result consists of, but for the weights, into a folder. */
  describe(folder: string): Promise<void>;
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

/** The checkpoint of the lowest held-out loss. */
interface Best {
  readonly step: number;
  readonly loss: number;
}

interface State extends Partial<Progress> {
  readonly step: number;
  readonly origin?: Origin;
  readonly globalBatch: number;
  readonly position: DataPosition;
  readonly schedule: { step: number };
  readonly optimizer: OptimizerState['values'];
  readonly best?: Best;
  /** Of a float16 run. */
  readonly lossScale?: ReturnType<LossScaler['stateDict']>;
  /** The launch that wrote it, over all its restarts. */
  readonly launch?: string;
}

/** How a rank's part went. */
interface Outcome {
  readonly receipt?: PartReceipt;
  readonly values?: OptimizerState['values'];
  readonly error?: string;
}

/** A save that is under way. */
interface Save {
  readonly step: number;
  readonly best?: Best;
  /** On rank 0. */
  readonly folder: PendingFolder | null;
  readonly state: Omit<State, 'optimizer'>;
  readonly part: Promise<Outcome>;
  readonly background: BackgroundWrite | null;
  isWritten: boolean;
}

export class Checkpoints {
  /** The newest checkpoint of this run, if any. */
  newest: string | null = null;
  readonly #run: Run;
  readonly #subject: Captured;
  #origin: Origin | null = null;
  #best: Best | null = null;
  #save: Save | null = null;

  /** Throws BAD_CONFIG when the best is to be kept, and nothing was held out to score. */
  constructor(run: Run, subject: Captured) {
    if (run.config.saveBest && !subject.evaluates) throw new ShardloopError('BAD_CONFIG', nothingScored());
    this.#run = run;
    this.#subject = subject;
  }

  /** Whether `loss` on the held-out records is the lowest so far and its checkpoint is to be kept. */
  isBest(loss: number | undefined): boolean {
    return this.#run.config.saveBest && loss !== undefined && (this.#best === null || loss < this.#best.loss);
  }

  /** Whether this rank has written its part of a save that is under way. */
  get isWritten(): boolean {
    return this.#save?.isWritten ?? false;
  }

  /**
   * Write `out/checkpoint-<step>`, behind one that is still under way. Collective: returns on every rank when it is
   * complete, with --save-background when it has begun. `evalLoss` is held against the best so far. Throws SAVE_FAILED
   * on every rank when one failed.
   */
  async save(step: number, progress: Progress, evalLoss?: number): Promise<void> {
    await this.settle();
    await this.#begin(step, progress, this.isBest(evalLoss) ? { step, loss: evalLoss! } : (this.#best ?? undefined));
    if (!this.#run.config.saveBackground) await this.settle();
  }

  async #begin(step: number, progress: Progress, best?: Best): Promise<void> {
    const { config, group, leads } = this.#run;
    const { seconds, tokens, firstLoss, evalLossBefore } = progress;
    const { schedule, batches, strategy, scaler } = this.#subject;
    let folder: PendingFolder | null = null;
    const begun = leads
      ? await beginCheckpoint(config.out, step).then(
          (pending) => {
            folder = pending;
            return { name: basename(pending.path) };
          },
          (error: Error) => ({ error: error.message }),
        )
      : null;
    const answer = (await group.broadcastObject(begun))!;
    if ('error' in answer) throw failed(step, `rank 0: ${answer.error}`);
    const state = {
      ...{ step, seconds, tokens, firstLoss, evalLossBefore, origin: this.#origin ?? undefined, best },
      ...{ globalBatch: batches.globalBatch, position: batches.position() },
      ...{ schedule: schedule.stateDict(), launch: launchId(), lossScale: scaler?.stateDict() },
    };
    const { part, background } = strategy.writesParts
      ? await this.#write(join(config.out, answer.name))
      : { part: Promise.resolve({}), background: null };
    const save: Save = { step, best, folder, state, part, background, isWritten: false };
    void part.then(() => {
      save.isWritten = true;
    });
    this.#save = save;
  }

  /** Writes this rank's part, or begins to. Never rejects: how it went is the outcome. */
  async #write(folder: string): Promise<Pick<Save, 'part' | 'background'>> {
    const { config, group, leads } = this.#run;
    try {
      if (!(await exists(folder))) {
        throw new Error(words`${folder}, which rank 0 made, is not there: --out must be a folder that all hosts share`);
      }
      const { groups, values } = contentOf(this.#subject, leads);
      const plan = planPart(group.rank, groups);
      const background = config.saveBackground
        ? writePartInBackground(folder, plan, { throttleMb: config.saveThrottleMb })
        : null;
      const part = (background ? background.written : writePart(folder, plan)).then(
        (receipt): Outcome => ({ receipt, values }),
        (error: Error): Outcome => ({ error: error.message }),
      );
      return { part, background };
    } catch (error) {
      return { part: Promise.resolve({ error: (error as Error).message }), background: null };
    }
  }

  /** Waits for a save that is under way, and commits it. Collective. Throws SAVE_FAILED on every rank when one failed. */
  async settle(): Promise<void> {
    if (this.#save === null) return;
    const { step, best, folder, state, part } = this.#save;
    const { config, group, leads } = this.#run;
    const outcomes = await group.allGatherObject(await part);
    this.#save = null; // commit or abort end the folder
    const broken = outcomes.findIndex(({ error }) => error !== undefined);
    let problem = broken < 0 ? null : `rank ${broken}: ${outcomes[broken]!.error}`;
    if (leads && problem !== null) await folder!.abort();
    else if (leads) problem = await this.#commit(folder!, state, outcomes).catch((error: Error) => error.message);
    problem = await group.broadcastObject(problem);
    if (problem !== null) throw failed(step, problem);
    this.newest = join(config.out, `checkpoint-${step}`);
    this.#best = best ?? null;
  }

  async #commit(folder: PendingFolder, state: Omit<State, 'optimizer'>, outcomes: Outcome[]): Promise<null> {
    const { out, saveTotalLimit } = this.#run.config;
    const { step, best } = state;
    const optimizer = joinValues(outcomes.flatMap(({ values }) => (values ? [values] : [])));
    await commitCheckpoint(folder, {
      step,
      receipts: outcomes.flatMap(({ receipt }) => receipt ?? []),
      state: { ...state, optimizer } as unknown as Json,
      describe: (result) => this.#subject.describe(result),
    });
    const keep = best && `checkpoint-${best.step}`;
    await pointTo(out, { latest: `checkpoint-${step}`, best: keep });
    await removeOldest(out, { saveTotalLimit, keep });
    return null;
  }

  /** Gives up a save that is under way. Not collective. */
  async abandon(): Promise<void> {
    const save = this.#save;
    this.#save = null;
    await save?.background?.stop();
    await save?.folder?.abort();
  }

  /**
   * Go on from the checkpoint that `resume` names, or begin anew. Collective.
   * Throws BAD_CHECKPOINT when it is damaged (with `auto`: when all are), or of another model, method, precision, batch
   * size, seed or data.
   */
  async resume(): Promise<StartingPoint> {
    const { config, group, leads } = this.#run;
    const { paths, origin } = await this.#find();
    this.#origin = origin;
    if (paths.length === 0) return { step: 0, seconds: 0, tokens: 0 };
    const checkpoint = await this.#openFirst(paths);
    const { path } = checkpoint;
    try {
      const state = checkpoint.state as unknown as State;
      this.#check(path, state);
      loadParameters(this.#subject, checkpoint);
      this.#loadOptimizer(path, optimizerState(this.#subject, checkpoint, state.optimizer));
      this.#subject.strategy.updated();
      this.#subject.schedule.loadStateDict(state.schedule);
      if (state.lossScale) this.#subject.scaler?.loadStateDict(state.lossScale);
      this.#subject.batches.seek(state.position);
      this.newest = path;
      const { step, seconds = 0, tokens = 0, firstLoss, evalLossBefore, best = null } = state;
      const kept = leads && best !== null && (await exists(join(config.out, `checkpoint-${best.step}`, 'COMMITTED')));
      this.#best = (await group.broadcastObject(kept)) ? best : null;
      return { step, seconds, tokens, firstLoss, evalLossBefore };
    } finally {
      checkpoint.close();
    }
  }

  /** What rank 0 found to go on from, and what this run is. Collective: when rank 0 fails, every rank does. */
  async #find(): Promise<{ paths: string[]; origin: Origin }> {
    const { config, group, leads } = this.#run;
    const find = async () => ({ paths: await findCheckpoints(this.#run), origin: await originOf(config) });
    const found = leads ? await find().catch((error: Error) => error) : null;
    const answer = (await group.broadcastObject(found instanceof Error ? { error: found.message } : found))!;
    if (!('error' in answer)) return answer;
    throw found ?? new ShardloopError('BAD_CHECKPOINT', `rank 0: ${answer.error}`);
  }

  /** Opens the first that is sound; damaged ones before it are named and set aside. Collective. */
  async #openFirst(paths: readonly string[]): Promise<Checkpoint> {
    const problems: string[] = [];
    for (const [i, path] of paths.entries()) {
      const opened = await this.#open(path);
      if (typeof opened !== 'string') {
        if (i > 0) await this.#leaveOut(paths.slice(0, i), problems, path);
        return opened;
      }
      problems.push(opened);
    }
    const { out, resume } = this.#run.config;
    const real = (path: string) => realpath(path).catch(() => path); // `latest` is one of them by another name
    const tried = await Promise.all(paths.map(real));
    let older: string | undefined;
    for (const path of await listCheckpoints(out)) if (!tried.includes(await real(path))) older = path;
    const isLast = resume === 'auto' || problems.length > 1;
    let advice = isLast ? words`. No other is left to go on from: begin anew in another --out` : '';
    if (older !== undefined) advice = words`. To go on from another one: --resume ${older}`;
    throw new ShardloopError('BAD_CHECKPOINT', `${problems.join('; ')}${advice}`);
  }

  /** Says that damaged checkpoints are not gone on from, and moves them out of the way of what the run will write. */
  async #leaveOut(damaged: readonly string[], problems: readonly string[], instead: string): Promise<void> {
    const { options, group, leads } = this.#run;
    for (const problem of problems) tell(this.#run, `WARNING: damaged, cannot be resumed from: ${problem}`);
    tell(this.#run, `WARNING: going on from the older ${instead} instead; the steps behind it are trained again`);
    const moved = leads && !options.dryRun ? setAside(this.#run, damaged) : Promise.resolve();
    const problem = await moved.then(
      () => null,
      (error: Error) => error.message,
    );
    const answer = await group.broadcastObject(problem);
    if (answer !== null) throw new ShardloopError('BAD_CHECKPOINT', `a damaged checkpoint cannot be moved: ${answer}`);
  }

  /** Opens it on every rank; each compares the sums of some files. A string says how it is damaged. Collective. */
  async #open(path: string): Promise<Checkpoint | string> {
    const { group } = this.#run;
    const opened = await openCheckpoint(path, { share: [group.rank, group.size] }).catch((error: Error) => error);
    const problems = await group.allGatherObject(opened instanceof Error ? opened.message : null);
    const first = problems.findIndex((problem) => problem !== null);
    if (first < 0) return opened as Checkpoint;
    if (!(opened instanceof Error)) opened.close();
    const problem = problems[first]!;
    const isAbsent = /missing|cannot be read|no such folder/.test(problem) && problems.includes(null);
    if (!isAbsent && !/use a newer shardloop/.test(problem)) return problem;
    const hint = `; rank ${first} says so and others see it: the folder must be one that all hosts share`;
    throw new ShardloopError('BAD_CHECKPOINT', `${problem}${isAbsent ? hint : ''}`);
  }

  #check(path: string, { globalBatch, origin }: State): void {
    const { config, group } = this.#run;
    const changed = compareOrigins(path, origin, this.#origin!, 'model' in config ? config.model : undefined);
    if (changed !== null) tell(this.#run, changed);
    const own = this.#subject.batches.globalBatch;
    if (globalBatch === own) return;
    const { microBatch, gradAccum } = config;
    throw new ShardloopError(
      'BAD_CHECKPOINT',
      words`${path}: expected --micro-batch x --grad-accum x ranks = ${globalBatch} records a step, with which it was made; received ${microBatch} x ${gradAccum} x ${group.size} = ${own}. ${adviseBatch(globalBatch, group.size)}`,
    );
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
        words`${path}: ${(cause as Error).message}; resume with the same --optimizer`,
        { cause },
      );
    }
    for (const [i, group] of optimizer.groups.entries()) Object.assign(group, settings[i]);
    for (const t of state.tensors.values()) t.dispose();
  }
}

function failed(step: number, what: string): ShardloopError {
  return new ShardloopError(
    'SAVE_FAILED',
    `checkpoint-${step} could not be written: ${what}. Older checkpoints are whole`,
  );
}

/** What to set so that a step sees as many records as before. */
function adviseBatch(globalBatch: number, ranks: number): string {
  if (globalBatch % ranks === 0)
    return words`With ${ranksOf(ranks)} take --micro-batch x --grad-accum = ${globalBatch / ranks}`;
  const fitting = Array.from({ length: globalBatch }, (_, i) => i + 1).filter((n) => globalBatch % n === 0);
  const some =
    fitting.length === 1 ? ranksOf(1) : `${fitting.slice(0, 8).join(', ')}${fitting.length > 8 ? ', ...' : ''} ranks`;
  return `${ranksOf(ranks)} do not divide ${globalBatch}: take ${some}`;
}
