// What counts as a fault in a fuzzing run or in a training trace: one place for the tests and for the soak.
import type { Trace } from '../promises/training.js';
import type { Run } from './runner.js';

const MB = 2 ** 20;

/** Resident bytes may grow by caches (kernels, allocator, V8) but not with the number of calls. */
const FUZZ_GROWTH = 96 * MB;
const TRAINING_GROWTH = 24 * MB;

export function faultsOfOutcome(run: Run): string[] {
  const { seed, outcome } = run;
  if (outcome === undefined) return [`seed ${seed}: the process ended (${run.how}) in ${run.call}`];
  const faults = outcome.unnamed.map((text) => `seed ${seed}: an error without a code: ${text}`);
  if (outcome.handlesAfter !== outcome.handlesBefore) {
    faults.push(`seed ${seed}: ${outcome.handlesBefore} live tensors before, ${outcome.handlesAfter} after`);
  }
  const half = outcome.resident.slice(outcome.resident.length / 2);
  const growth = Math.max(...half) - half[0]!;
  if (growth > FUZZ_GROWTH) {
    faults.push(`seed ${seed}: resident memory grew by ${Math.round(growth / MB)} MB over the second half`);
  }
  return faults;
}

export function faultsOfTrace(trace: Trace): string[] {
  const faults: string[] = [];
  const after = trace.handles.at(-1)!;
  const during = trace.handles.slice(0, -1);
  if (new Set(during).size !== 1) faults.push(`live tensors changed: ${during.join(' ')}`);
  if (new Set(trace.bytes).size !== 1) faults.push(`live bytes changed: ${trace.bytes.join(' ')}`);
  if (after !== 0) faults.push(`${after} tensors are alive after everything was disposed`);
  const [, second] = trace.resident;
  const growth = Math.max(...trace.resident.slice(1)) - second!;
  if (growth > TRAINING_GROWTH) faults.push(`resident memory grew by ${Math.round(growth / MB)} MB`);
  if (!(trace.losses.at(-1)! < trace.losses[0]!)) faults.push(`the loss did not fall: ${trace.losses.join(' ')}`);
  return faults;
}
