import { defineConfig } from 'vitest/config';

// Tests import the sources in lib/ (vitest compiles them); the child processes that they start run dist/.
export default defineConfig({
  test: {
    pool: 'forks',
    include: ['test/**/*.test.ts'],
    exclude: ['test/oracle/**', 'test/gpu/**', 'node_modules/**'],
    testTimeout: 60_000,
    hookTimeout: 120_000,
    maxWorkers: 2,
  },
});
