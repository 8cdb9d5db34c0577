import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';

const unit = [
  'test/protocol',
  'test/server',
  'test/plugins',
  'test/filters',
  'test/metrics',
  'test/units',
  'test/cli',
  'test/native',
  'test/api',
  'test/examples',
  'test/bench',
];

export default defineConfig({
  test: {
    projects: [
      {
        // Examples import the package by its name; in tests that is the source, not what was built from it.
        resolve: { alias: { 'nbd-serve': resolve('src/index.ts') } },
        test: {
          name: 'unit',
          include: [
            'test/tidy.test.ts',
            'test/spec-coverage.test.ts',
            ...unit.map((folder) => `${folder}/**/*.test.ts`),
          ],
          setupFiles: ['test/support/suppressed-error.ts', 'test/support/leftovers.ts'],
          testTimeout: 30_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        test: {
          // Foreign clients and real processes: they start servers, mounts and loop devices, one file at a time.
          name: 'system',
          include: ['test/interop/**/*.test.ts', 'test/system/**/*.test.ts'],
          setupFiles: ['test/support/suppressed-error.ts', 'test/support/leftovers.ts'],
          testTimeout: 180_000,
          hookTimeout: 120_000,
          fileParallelism: false,
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      },
    ],
  },
});
