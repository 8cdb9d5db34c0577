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

/**
 * What looks at memory, processor time, the page cache or the moment of a signal runs one file at a time; everything
 * else two at a time, which keeps the whole run under 15 minutes on 2 cores.
 */
const alone = [
  'bench',
  'busy-poll',
  'cache-none',
  'crash',
  'disconnects',
  'durability',
  'hostile',
  'lifecycle',
  'memory',
  'metrics',
  'residency',
  'sanitizers',
  'signals',
  'status-page',
  'strace',
  'threads',
  'tune',
].map((name) => `test/system/${name}.test.ts`);

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
          // Foreign clients and real processes: they start servers, mounts and loop devices.
          name: 'system',
          include: ['test/interop/**/*.test.ts', 'test/system/**/*.test.ts'],
          exclude: alone,
          setupFiles: ['test/support/suppressed-error.ts', 'test/support/leftovers.ts'],
          testTimeout: 180_000,
          hookTimeout: 120_000,
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        test: {
          name: 'alone',
          include: alone,
          setupFiles: ['test/support/suppressed-error.ts', 'test/support/leftovers.ts'],
          testTimeout: 180_000,
          hookTimeout: 120_000,
          fileParallelism: false,
          maxWorkers: 1,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
