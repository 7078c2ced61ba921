// The timeline of some steps of a run (`--trace FILE`): recorded on every rank, merged and written by rank 0, with the
// communication log beside it.
import { dirname } from 'node:path';
import { makeFolder } from '../core/folders.js';
import { chromeTrace, communicationLog, formatCommunication, startTimeline, type Timeline } from '../dist/index.js';
import { writeFileAtomic } from '../io/atomic.js';
import type { Run } from './run.js';

/** The timeline of a run's steps, or nothing when none was asked for. */
export class StepTrace {
  readonly #run: Run;
  /** The first step that is recorded: the second of this process, because the first also warms up. */
  readonly #first: number;
  readonly #last: number;
  #timeline: Timeline | null = null;

  constructor(run: Run, resumedStep: number, total: number) {
    this.#run = run;
    this.#first = Math.min(resumedStep + 2, total);
    this.#last = Math.min(this.#first + run.config.traceSteps - 1, total);
  }

  /** Before a step. */
  before(step: number): void {
    if (this.#run.config.trace !== undefined && step === this.#first) this.#timeline = startTimeline();
  }

  /** After a step; the last one that is recorded writes the files. Collective then. */
  async after(step: number): Promise<void> {
    if (this.#timeline === null || step < this.#last) return;
    const { config, group, options } = this.#run;
    const ranks = await this.#timeline.take(group);
    this.#timeline = null;
    if (ranks === null || options.dryRun) return;
    const path = config.trace!;
    makeFolder(dirname(path));
    await writeFileAtomic(path, chromeTrace(ranks));
    await writeFileAtomic(
      `${path.replace(/\.json$/, '')}.communication.txt`,
      formatCommunication(communicationLog(ranks)),
    );
  }

  /** Drops what was recorded, when the run ends before the last recorded step. */
  cancel(): void {
    this.#timeline?.cancel();
    this.#timeline = null;
  }
}
