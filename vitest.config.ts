import { defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

/** Those that kill and wait are the longest: first, so that none of them is left over when the others are done. */
class KillsFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const kills = ({ moduleId }: TestSpecification) => Number(moduleId.includes('/test/crash/'));
    // oxlint-disable-next-line unicorn/no-array-sort -- the sequencer's own
    const sorted = await super.sort(files);
    return sorted.toSorted((a, b) => kills(b) - kills(a));
  }
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    pool: 'forks',
    isolate: false,
    sequence: { sequencer: KillsFirst },
    globalSetup: ['test/support/stack.ts'],
    // One more than the cores of the smallest machine it is meant for: tests that kill and wait leave theirs idle.
    maxWorkers: 3,
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
