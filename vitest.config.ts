import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    isolate: false,
    globalSetup: ['test/support/stack.ts'],
    // One more than the cores of the smallest machine it is meant for: tests that kill and wait leave theirs idle.
    maxWorkers: 3,
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
