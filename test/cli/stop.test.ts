// What a signal's line promises, by where the run is.
import { afterEach, expect, it, vi } from 'vitest';
import { listenForStop } from '../../lib/cli/stop.js';
import type { RunPhase } from '../../lib/train/run.js';

afterEach(() => vi.restoreAllMocks());

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
  const write = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const stop = listenForStop();
  for (const phase of phases) stop.enter(phase);
  process.emit('SIGINT', 'SIGINT');
  stop.close();
  expect(write.mock.calls).toEqual([[`\n${line}\n`]]);
  expect(stop.signal.aborted).toBe(true);
  expect(stop.received()).toBe('SIGINT');
});
