// SIGINT and SIGTERM as an AbortSignal: the first asks the run to stop after its step and to write a checkpoint, the
// second ends the process at once.
import { constants } from 'node:os';

export interface StopListener {
  /** Aborted at the first signal. */
  readonly signal: AbortSignal;
  /** The signal that came first, if any. */
  received(): NodeJS.Signals | undefined;
  close(): void;
}

/** Listen until `close`. */
export function listenForStop(): StopListener {
  const controller = new AbortController();
  let first: NodeJS.Signals | undefined;
  const onSignal = (signal: NodeJS.Signals) => {
    if (first) process.exit(128 + constants.signals[signal]);
    first = signal;
    if (Number(process.env.RANK ?? 0) === 0) {
      process.stderr.write(`\n${signal}: stopping after this step with a checkpoint; once more stops at once\n`);
    }
    controller.abort(signal);
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  return {
    signal: controller.signal,
    received: () => first,
    close: () => void process.off('SIGINT', onSignal).off('SIGTERM', onSignal),
  };
}
