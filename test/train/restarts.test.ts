// Promise: with --max-restarts, ranks that are killed cost steps and nothing else. The long form is `npm run soak`.
import { expect, it } from 'vitest';
import { restartedRun } from './restarts.js';

it('200 steps on four ranks with five kills end as an undisturbed run does, bit for bit', async () => {
  const { kills, faults, repeated } = await restartedRun({ steps: 200, every: 35, ranks: 4, seed: 1 });
  expect(faults).toEqual([]);
  expect(kills).toBe(5);
  expect(repeated).toBeGreaterThan(0); // or no kill cost a step, and nothing was resumed from a checkpoint
}, 300_000);
