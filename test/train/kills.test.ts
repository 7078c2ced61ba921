// Promise: kill -9 at any moment leaves the last complete checkpoint usable. The long form is `npm run soak`.
import { expect, it } from 'vitest';
import { killRuns } from './kills.js';

it('eight kills while two ranks train and save, in the background too, cost steps and nothing else', async () => {
  const { faults, midSave } = await killRuns(8, 1);
  expect(faults).toEqual([]);
  expect(midSave).toBeGreaterThan(0); // or the moments prove nothing
}, 300_000);
