// docs/options.md says what the schemas say.
import { expect, it } from 'vitest';
import { optionsPage, readOptionsPage } from '../../scripts/options-page.js';

it('docs/options.md is what scripts/options-page.ts makes of the schemas', () => {
  expect(readOptionsPage(), 'run `npx tsx scripts/options-page.ts`').toBe(optionsPage());
});
