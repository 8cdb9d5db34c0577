/** What is left in made-up cgroups, and that the real ones are readable. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { availableMemory } from '../../../src/plugins/memory/available-memory.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

const MiB = 2 ** 20;

async function available(
  membership: string,
  files: Record<string, string | number>,
  machineBytes = 1000 * MiB,
): Promise<number> {
  await using folder = await temporaryDirectory();
  for (const [name, text] of Object.entries({ membership, ...files })) {
    const path = join(folder.path, name);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${text}\n`);
  }
  return availableMemory({
    membership: folder.file('membership'),
    mount: folder.file('sys'),
    machineBytes,
  });
}

test('without a cgroup it is what the machine has', async () => {
  expect(await available('0::/', {})).toBe(1000 * MiB);
});

test('version 2: the limit less what is used, of the innermost group', async () => {
  const files = {
    'sys/a/b/memory.max': 300 * MiB,
    'sys/a/b/memory.current': 120 * MiB,
    'sys/a/memory.max': 'max',
    'sys/a/memory.current': 500 * MiB,
  };
  expect(await available('0::/a/b', files)).toBe(180 * MiB);
});

test('version 2: a group further out may have less, and memory.high counts', async () => {
  const files = {
    'sys/a/b/memory.max': 300 * MiB,
    'sys/a/b/memory.current': 0,
    'sys/a/memory.max': 'max',
    'sys/a/memory.high': 400 * MiB,
    'sys/a/memory.current': 350 * MiB,
  };
  expect(await available('0::/a/b', files)).toBe(50 * MiB);
});

test('page cache that the kernel would drop is available', async () => {
  const files = {
    'sys/memory.max': 300 * MiB,
    'sys/memory.current': 290 * MiB,
    'sys/memory.stat': `anon 5\ninactive_file ${100 * MiB}\nactive_file 7`,
  };
  expect(await available('0::/', files)).toBe(110 * MiB);
});

test('version 1, beside other controllers, and its "unlimited"', async () => {
  const files = {
    'sys/memory/c/memory.limit_in_bytes': 200 * MiB,
    'sys/memory/c/memory.usage_in_bytes': 50 * MiB,
    'sys/memory/c/memory.stat': `total_inactive_file ${10 * MiB}`,
    'sys/memory/memory.limit_in_bytes': '9223372036854771712',
    'sys/memory/memory.usage_in_bytes': 70 * MiB,
  };
  expect(await available('9:name=systemd:/\n4:memory,hugetlb:/c\n1:cpu:/', files)).toBe(160 * MiB);
});

test('a group that is over its limit has nothing left', async () => {
  const files = { 'sys/memory.max': 100 * MiB, 'sys/memory.current': 150 * MiB };
  expect(await available('0::/', files)).toBe(0);
});

test('here and now there is some, and no more than the machine has', () => {
  const bytes = availableMemory();
  expect(bytes).toBeGreaterThan(0);
  expect(bytes).toBeLessThan(freemem() + 1024 * MiB);
});
