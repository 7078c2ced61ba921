// What a signal's line promises, by where the run is.
import { afterEach, expect, it, vi } from 'vitest';
import { listenForStop } from '../../lib/cli/stop.js';
import type { RunPhase } from '../../lib/train/run.js';

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

it.each<[RunPhase[], string]>([
  [[], 'SIGINT: stopping before the first step; nothing more is trained; once more stops at once'],
  [
    ['before the first step', 'in a step'],
    'SIGINT: stopping after this step with a checkpoint; once more stops at once',
  ],
  [
    ['in a step', 'in the last step'],
    'SIGINT: this is the last step: the run ends with its result; once more stops at once',
  ],
])('after %j: %s', (phases, line) => {
  const { lines, stop } = said(phases, 'SIGINT');
  expect(lines).toEqual([`\n${line}\n`]);
  expect(stop.signal.aborted).toBe(true);
  expect(stop.received()).toBe('SIGINT');
});

function said(phases: RunPhase[], signal: 'SIGINT' | 'SIGTERM') {
  const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const stop = listenForStop();
  for (const phase of phases) stop.enter(phase);
  process.emit(signal, signal);
  stop.close();
  const lines = write.mock.calls.map(([text]) => text);
  write.mockRestore();
  return { lines, stop };
}

it('promises no checkpoint when another rank has ended, and is careful where nobody can tell', () => {
  vi.stubEnv('WORLD_SIZE', '2');
  vi.stubEnv('RANK', '0');
  const says = (phase: RunPhase) => said([phase], 'SIGTERM').lines;
  const careful = 'stopping after this step with a checkpoint, unless another rank has ended; once more stops at once';
  expect(says('in a step')).toEqual([`\nSIGTERM: ${careful}\n`]); // as under torchrun
  vi.stubEnv('SHARDLOOP_FAILURE_FILE', `${import.meta.filename}.none`);
  expect(says('in a step')).toEqual([
    '\nSIGTERM: stopping after this step with a checkpoint; once more stops at once\n',
  ]);
  vi.stubEnv('SHARDLOOP_FAILURE_FILE', import.meta.filename);
  for (const phase of ['before the first step', 'in a step', 'in the last step'] as const) {
    expect(says(phase)).toEqual([
      '\nSIGTERM: another rank has ended, so no checkpoint can be written; stopping; once more stops at once\n',
    ]);
  }
});
