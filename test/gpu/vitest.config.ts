// The tests that need a CUDA device: apart from `npm test`, and run by scripts/device-check.mjs. Without a device every one
// of them fails with NO_CUDA; none is skipped.
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    root: resolve(dirname(fileURLToPath(import.meta.url)), '../..'),
    pool: 'forks',
    include: ['test/gpu/**/*.test.ts'],
    testTimeout: 300_000,
    maxWorkers: 1,
  },
});
