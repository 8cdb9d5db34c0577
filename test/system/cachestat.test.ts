/** `nbd-serve cachestat` against what the kernel tells others: Debian's cachestats, and mincore from Python. */
import { open } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { attempt, run } from '../support/command.ts';
import { createFullImage, createImage, residentPages } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { PYTHON } from '../support/python.ts';
import { PROGRAM } from '../support/server.ts';
import { type FileSystemType, MiB, scratchFileSystem, TiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const PAGE = native.page_size;

/** For tests that expect pages to stay: the kernel takes some when it likes, as DAMON does without any shortage. */
const RETRY = { retry: 4 } as const;

interface CountedRange {
  readonly offset: number;
  readonly length: number;
  readonly residentPages: number;
}

interface FileReport {
  readonly file: string;
  readonly size: { readonly pages: number; readonly bytes: number };
  readonly resident: { readonly pages: number; readonly bytes: number; readonly percent: number };
  readonly map: {
    readonly cellBytes: number;
    readonly cells: readonly CountedRange[];
    readonly ranges: readonly CountedRange[];
  };
}

async function report(...args: readonly string[]): Promise<FileReport[]> {
  return JSON.parse(await run([...PROGRAM, 'cachestat', '--json', ...args])) as FileReport[];
}

/** Evicts a file, then reads single pages of it, without read-ahead. */
async function makeResident(path: string, pages: readonly number[]): Promise<void> {
  const script = `
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.fsync(fd)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
for page in sys.argv[2].split(','):
    if page:
        os.pread(fd, 1, int(page) * ${PAGE})
`;
  await run([PYTHON, '-c', script, path, pages.join(',')]);
}

/** The oracle: for each page of the file whether mincore(2) says that it is resident. */
async function mincore(path: string): Promise<boolean[]> {
  const script = `
import ctypes, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
size = os.fstat(fd).st_size
mapping = mmap.mmap(fd, size)
count = (size + ${PAGE} - 1) // ${PAGE}
answers = (ctypes.c_ubyte * count)()
address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), answers) == 0, ctypes.get_errno()
print(''.join('1' if answer & 1 else '0' for answer in answers))
`;
  return [...(await run([PYTHON, '-c', script, path])).trim()].map((page) => page === '1');
}

const PAGES = 2048 + 1;
const SIZE = (PAGES - 1) * PAGE + 513;

/** Nothing, everything, runs of every length, both ends, and every third page of a stretch. */
const PATTERNS: readonly [string, readonly number[]][] = [
  ['nothing', []],
  ['everything', Array.from({ length: PAGES }, (_, page) => page)],
  ['the first and the last page', [0, PAGES - 1]],
  ['runs', [5, 6, 7, 100, 511, 512, 513, 1000, ...Array.from({ length: 300 }, (_, page) => 1200 + page)]],
  ['every third page of a stretch', Array.from({ length: 100 }, (_, page) => 600 + 3 * page)],
];

test.each(PATTERNS)('--map and the counts agree with mincore and cachestats: %s', RETRY, async (_, pages) => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, SIZE);
  await makeResident(image, pages);
  const expected = await mincore(image);
  expect(expected.flatMap((isResident, page) => (isResident ? [page] : []))).toEqual(pages);

  const [file] = await report('--map', image);
  const { resident } = await residentPages(image);
  expect(file?.resident).toEqual({
    pages: resident,
    bytes: resident * PAGE,
    percent: (100 * resident) / PAGES,
  });
  expect(file?.size).toEqual({ pages: PAGES, bytes: SIZE });

  const found = new Array<boolean>(PAGES).fill(false);
  for (const { offset, length, residentPages: count } of file?.map.ranges ?? []) {
    const first = offset / PAGE;
    expect(count).toBe(Math.ceil(length / PAGE));
    found.fill(true, first, first + count);
  }
  expect(found).toEqual(expected);
  for (const { offset, length, residentPages: count } of file?.map.cells ?? []) {
    const cell = expected.slice(offset / PAGE, Math.ceil((offset + length) / PAGE));
    expect(cell.filter(Boolean)).toHaveLength(count);
  }
});

test('the drawing shows where the resident pages are', RETRY, async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  // 64 cells of 16 pages.
  await createFullImage(image, 64 * 16 * PAGE);
  const half = Array.from({ length: 8 }, (_, page) => 16 * 10 + page);
  const whole = Array.from({ length: 32 }, (_, page) => 16 * 40 + page);
  await makeResident(image, [0, ...half, ...whole]);
  const text = await run([...PROGRAM, 'cachestat', '--map', '--ascii', image]);
  expect(text).toContain(`\n  |-${'.'.repeat(9)}+${'.'.repeat(29)}##${'.'.repeat(22)}|\n`);
  const rows = text
    .trimEnd()
    .split('\n')
    .slice(-3)
    .map((line) => line.trim().split(/\s+/).map(Number));
  expect(rows).toEqual([
    [0, PAGE, 1],
    [160 * PAGE, 8 * PAGE, 8],
    [640 * PAGE, 32 * PAGE, 32],
  ]);
});

test.each<FileSystemType>(['ext4', 'xfs', 'btrfs'])(
  '%s: partly resident files, large folios included, count as for cachestats',
  RETRY,
  async (type) => {
    await using scratch = await scratchFileSystem(type);
    const image = scratch.file('disk.img');
    await createFullImage(image, 16 * MiB);
    await makeResident(image, []);
    await run(['dd', `if=${image}`, 'of=/dev/null', 'bs=64K', 'skip=30', 'count=40', 'status=none']);
    const [file] = await report('--map', image);
    const { resident, pages } = await residentPages(image);
    expect(resident).toBeGreaterThan(0);
    expect(resident).toBeLessThan(pages);
    expect(file?.resident.pages).toBe(resident);
    const counted = file?.map.ranges.reduce((total, range) => total + range.residentPages, 0);
    expect(counted).toBe(resident);
  },
);

test('a sparse file of 1 TiB with one resident stretch is mapped page by page', RETRY, async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('huge.img');
  const stretch = { offset: TiB / 2 + 3 * PAGE, length: MiB };
  await createImage(image, TiB, [stretch]);
  const [file] = await report('--map', image);
  expect(file?.map.cells).toHaveLength(64);
  expect(file?.map.ranges).toEqual([{ ...stretch, residentPages: MiB / PAGE }]);
});

test('columns can be read by position and by name, and a missing file is named', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, MiB);
  const missing = directory.file('missing.img');
  const { code, stdout, stderr } = await attempt([...PROGRAM, 'cachestat', image, missing, image]);
  expect(code).toBe(1);
  expect(stderr.trimEnd().split('\n')).toEqual([expect.stringContaining(missing)]);
  const [head, ...rows] = stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.trim().split(/\s+/));
  expect(rows).toHaveLength(2);
  expect(rows[0]?.[head?.indexOf('pages') ?? -1]).toBe(String(MiB / PAGE));
  expect(rows[0]?.[head?.indexOf('file') ?? -1]).toBe(image);
  for (const cell of rows[0]?.slice(0, -1) ?? []) expect(cell).toMatch(/^[\d.]+$/);
});

test('a file under its first write shows dirty pages', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await using file = await open(image, 'w');
  // A disk that has little to do may have written them back before they are counted.
  await eventually('all of them are seen', async () => {
    await file.write(Buffer.alloc(MiB, 1), 0, MiB, 0);
    const [{ dirty, writeback } = { dirty: { pages: 0 }, writeback: { pages: 0 } }] = (await report(
      image,
    )) as unknown as readonly { dirty: { pages: number }; writeback: { pages: number } }[];
    return dirty.pages + writeback.pages === MiB / PAGE ? true : undefined;
  });
});

test('a reader that has gone is no failure', async () => {
  const command = `${PROGRAM.join(' ')} cachestat ${'package.json '.repeat(2000)} | head -1`;
  const { code, stdout, stderr } = await attempt(['bash', '-o', 'pipefail', '-c', command]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout.split('\n')).toHaveLength(2);
});
