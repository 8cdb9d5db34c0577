import { expect, test } from 'vitest';
import { cpuSeconds, parseStat } from './cpu-time.ts';

test('the name of a process may look like the rest of the line', () => {
  const line = '42 (a) S 9 (b)) S 7 42 42 0 -1 4194304 1 2 3 4 100 20 3 1 20 0 1 0 99 0 0';
  expect(parseStat(line)).toEqual({ pid: 42, parent: 7, ownTicks: 120, childTicks: 4 });
});

test('a process that burns time is seen to', async () => {
  const before = await cpuSeconds(process.pid);
  const end = process.cpuUsage().user + 50_000;
  while (process.cpuUsage().user < end) {
    // Burn.
  }
  expect(await cpuSeconds(process.pid)).toBeGreaterThan(before);
});

test('a process that has ended is an error, not zero', async () => {
  await expect(cpuSeconds(2 ** 30)).rejects.toThrow('has ended');
});
