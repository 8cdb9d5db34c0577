/** Real threads on one disk: each finds what it wrote, nothing of other pages, and all memory comes back. */
import { once } from 'node:events';
import { expect, test } from 'vitest';
import { attachDisk, createDisk } from '../../../src/plugins/memory/disk.ts';
import { typescriptWorker } from '../../support/typescript-worker.ts';
import type { StressSetup } from './stress-worker.ts';

const SIZE = 2 ** 53 - 1;
const THREAD_COUNT = 4;

test('four threads on the same few pages', { timeout: 120_000 }, async () => {
  const data = createDisk(SIZE, 64 * 1024 * 1024);
  const workers = Array.from({ length: THREAD_COUNT }, (_, thread) => {
    const setup: StressSetup = { data, threadCount: THREAD_COUNT, thread, operationCount: 8000 };
    return typescriptWorker(new URL('./stress-worker.ts', import.meta.url), setup);
  });
  const answers = await Promise.all(
    workers.map(async (worker) => {
      const [answer] = (await once(worker, 'message')) as [string];
      await worker.terminate();
      return answer;
    }),
  );
  expect(answers).toEqual(workers.map(() => 'right'));
  const array = attachDisk(data);
  expect(array.zero(0, SIZE, true, Number.POSITIVE_INFINITY)).toBe(SIZE);
  expect(Atomics.load(new Int32Array(data.budget.used), 0)).toBe(0);
  const records = new Int32Array(data.directory.pageRecords);
  expect(records.some((word, index) => index % 2 === 0 && word !== 0)).toBe(false);
});
