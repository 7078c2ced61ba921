// Every fault once over each backend: each surviving rank ends with an error that names what happened, within the deadline and a grace that
// allows for a busy machine (`npm run faults` measures).
import { expect, it, vi } from 'vitest';
import { FAULTS, faultsOf, runFault } from './faults.js';

// Three at a time: most of their time is waiting for deadlines.
vi.setConfig({ maxConcurrency: 3 });

const RUNS = FAULTS.flatMap((fault) =>
  (['gloo', 'shm'] as const).map((backend) => [fault.name, backend, fault] as const),
);

it.concurrent.each(RUNS)('%s, over %s', { timeout: 60_000 }, async (_, backend, fault) => {
  const run = await runFault(fault, backend);
  expect(faultsOf(run, 4)).toEqual([]);
  for (const report of run.seen.values()) {
    expect(report!.message).toMatch(/^\[rank \d\/\d\] /);
    expect(['COLLECTIVE_FAILED', 'BAD_LAUNCH']).toContain(report!.code);
  }
});

it('a run that shows nothing, the wrong thing or too late is noticed', () => {
  const [fault] = FAULTS;
  const at = (ms: number, message: string) => ({ ms, message, code: 'COLLECTIVE_FAILED' });
  const good = at(10, 'Rank 1 does not answer (dead or stopped)');
  const wrong = (seen: [number, typeof good | null][]) =>
    faultsOf({ fault: fault!, seen: new Map(seen), codes: [] }, 1);
  expect(wrong([[0, good]])).toEqual([]);
  expect(wrong([[0, null]])[0]).toContain('reported nothing');
  expect(wrong([[0, at(10, 'oops')]])[0]).toContain('says oops');
  expect(wrong([[0, { ...good, ms: 9000 }]])[0]).toContain('needed 9000 ms');
});
