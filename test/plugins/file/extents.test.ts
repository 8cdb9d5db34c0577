/** Data and holes of files, against what a Python program says about the same files. */
import { ftruncateSync, writeFileSync } from 'node:fs';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { ExtentFinder } from '../../../src/plugins/file/extents.ts';
import type { Extent } from '../../../src/plugins/plugin.ts';
import { createImage, fileExtents, type Range } from '../../support/image.ts';
import { Files, GiB, KiB, MiB } from './files.ts';

interface Run {
  readonly offset: number;
  readonly length: number;
  readonly hole: boolean;
}

afterEach(() => {
  vi.restoreAllMocks();
});

/** Extents with their places, neighbours of the same kind merged, cut at `end`. */
function runs(extents: readonly Extent[], offset: number, end: number): Run[] {
  const merged: { offset: number; length: number; hole: boolean }[] = [];
  let position = offset;
  for (const { length, isHole, isZero } of extents) {
    expect(length).toBeGreaterThan(0);
    expect(isZero).toBe(isHole);
    const last = merged.at(-1);
    if (last?.hole === isHole) last.length += length;
    else merged.push({ offset: position, length, hole: isHole });
    position += length;
  }
  const last = merged.at(-1);
  if (last !== undefined) last.length = Math.min(last.length, end - last.offset);
  return merged;
}

const IMAGES: readonly [string, number, Range[]][] = [
  ['all hole', 10 * MiB, []],
  ['all data', 300 * KiB, [{ offset: 0, length: 300 * KiB }]],
  ['holes at both ends', 8 * MiB, [{ offset: 2 * MiB, length: 64 * KiB }]],
  [
    'data at both ends',
    8 * MiB,
    [
      { offset: 0, length: 4096 },
      { offset: 8 * MiB - 4096, length: 4096 },
    ],
  ],
  ['an odd size with data at its end', MiB + 513, [{ offset: MiB, length: 513 }]],
  ['an odd size with a hole at its end', MiB + 513, [{ offset: 0, length: 4096 }]],
  ['a single byte', 1, [{ offset: 0, length: 1 }]],
  [
    'runs beyond 2^32 and 2^40',
    2 ** 40 + 7 * GiB + 1,
    [
      { offset: 2 ** 31 - 4096, length: 8192 },
      { offset: 2 ** 32 - 4096, length: 8192 },
      { offset: 5 * GiB, length: 4096 },
      { offset: 2 ** 40 + GiB, length: 4096 },
    ],
  ],
  [
    'many runs',
    16 * MiB,
    Array.from({ length: 64 }, (_, index) => ({ offset: index * 256 * KiB, length: 4096 })),
  ],
];

describe('a file with', () => {
  test.each(IMAGES)('%s is described as Python sees it', async (_, size, data) => {
    await using files = await Files.create();
    await createImage(files.path(), size, data);
    const finder = new ExtentFinder(files.open('r'), size, true);
    const found = runs(await finder.find(0, size, false), 0, size);
    expect(found).toEqual(await fileExtents(files.path()));
  });

  test('runs, asked for from any place on, answers from that place', async () => {
    const size = 4 * MiB;
    await using files = await Files.create();
    await createImage(files.path(), size, [{ offset: MiB, length: MiB }]);
    const finder = new ExtentFinder(files.open('r'), size, true);
    const oracle = await fileExtents(files.path());
    for (const offset of [0, 1, MiB - 1, MiB, MiB + 1, 2 * MiB - 1, 2 * MiB, size - 1]) {
      const [first] = await finder.find(offset, size - offset, true);
      const expected = oracle.find((run) => offset < run.offset + run.length);
      expect(expected).toBeDefined();
      if (expected === undefined) continue;
      expect(first).toEqual({
        length: expected.offset + expected.length - offset,
        isHole: expected.hole,
        isZero: expected.hole,
      });
    }
  });

  test('many runs answers REQ_ONE with the first and stops', async () => {
    const size = MiB;
    await using files = await Files.create();
    await createImage(files.path(), size, [
      { offset: 0, length: 4096 },
      { offset: 512 * KiB, length: 4096 },
    ]);
    const finder = new ExtentFinder(files.open('r'), size, true);
    expect(await finder.find(0, size, true)).toHaveLength(1);
  });
});

test('an empty file has at least a safe answer', async () => {
  await using files = await Files.create();
  writeFileSync(files.path(), '');
  const finder = new ExtentFinder(files.open('r'), 0, true);
  expect(await finder.find(0, 0, false)).toEqual([{ length: 0, isHole: false, isZero: false }]);
});

test('what cannot be searched, such as a block device, is one run of data up to its end', async () => {
  await using files = await Files.create();
  await createImage(files.path(), MiB);
  const finder = new ExtentFinder(files.open('r'), MiB, false);
  expect(await finder.find(4096, 4096, false)).toEqual([
    { length: MiB - 4096, isHole: false, isZero: false },
  ]);
});

test('nothing beyond the size of the export is reported when the file has grown', async () => {
  await using files = await Files.create();
  await createImage(files.path(), MiB);
  const fd = files.open('r+');
  const finder = new ExtentFinder(fd, MiB, true);
  ftruncateSync(fd, 4 * MiB);
  expect(await finder.find(0, MiB, false)).toEqual([{ length: MiB, isHole: true, isZero: true }]);
});

test('a descriptor that is gone is an error of the device, with its range', async () => {
  const finder = new ExtentFinder(99_999, MiB, true);
  await expect(finder.find(4096, 512, false)).rejects.toMatchObject({
    name: 'BackendError',
    operation: 'lseek',
    errno: 9,
    offset: 4096,
  });
});
