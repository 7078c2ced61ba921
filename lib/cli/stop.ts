// SIGINT and SIGTERM as an AbortSignal: the first asks the run to stop after its step and to write a checkpoint, the
// second ends the process at once. What the first will do depends on where the run is, and is said at once.
import { constants } from 'node:os';
import { hasPeerEnded } from '../dist/failure-report.js';
import type { RunPhase } from '../train/run.js';

export interface StopListener {
  /** Aborted at the first signal. */
  readonly signal: AbortSignal;
  /** The signal that came first, if any. */
  received(): NodeJS.Signals | undefined;
  /** Tells where the run is. */
  enter(phase: RunPhase): void;
  close(): void;
}

const OUTCOMES: Record<RunPhase, string> = {
  'before the first step': 'stopping before the first step; nothing more is trained',
  'in a step': 'stopping after this step with a checkpoint',
  'in the last step': 'this is the last step: the run ends with its result',
};

/** A launcher's SIGTERM may mean that another rank is gone: then nothing can be written that takes all of them. */
function outcome(phase: RunPhase): string {
  const ended = hasPeerEnded();
  if (ended) return 'another rank has ended, so no checkpoint can be written; stopping';
  const isUnsure = ended === null && Number(process.env.WORLD_SIZE ?? 1) > 1 && phase === 'in a step';
  return `${OUTCOMES[phase]}${isUnsure ? ', unless another rank has ended' : ''}`;
}

/** Listen until `close`. */
export function listenForStop(): StopListener {
  const controller = new AbortController();
  let first: NodeJS.Signals | undefined;
  let phase: RunPhase = 'before the first step';
  const onSignal = (signal: NodeJS.Signals) => {
    if (first) process.exit(128 + constants.signals[signal]);
    first = signal;
    if (Number(process.env.RANK ?? 0) === 0) {
      process.stderr.write(`\n${signal}: ${outcome(phase)}; once more stops at once\n`);
    }
    controller.abort(signal);
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  return {
    signal: controller.signal,
    received: () => first,
    enter(next) {
      phase = next;
    },
    close: () => void process.off('SIGINT', onSignal).off('SIGTERM', onSignal),
  };
}
