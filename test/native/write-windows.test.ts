/** Merging, fullness, the bound on what is cached, draining, and errors of a disk that fills up. */
import { ftruncateSync, mkdirSync, statfsSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { native, type WriteWindows } from '../../src/native/binding.ts';
import {
  advance,
  cachestat,
  defer,
  drain,
  EBADF,
  EIO,
  ENOSPC,
  ESPIPE,
  GiB,
  isRoot,
  KiB,
  MiB,
  openForTest,
  POSIX_FADV_DONTNEED,
  pattern,
  result,
  run,
  SUCCESS,
  temporaryFile,
  temporaryFolder,
} from './support.ts';

const page = native.page_size;
const RANGES_MAX = 256;
const NOWHERE = 99_999;

/**
 * A sparse file of its final size, as an export has. A write past the end of a file whose size is not a
 * multiple of the page size makes ext4 zero, and so dirty, the rest of the page where the end was (seen on
 * Linux 6.18): a page that nobody wrote and no window knows.
 */
function imageFile(size: number): { path: string; fd: number } {
  const file = temporaryFile();
  ftruncateSync(file.fd, size);
  return file;
}

/** Bookkeeping only: nothing is drained, so the descriptor is never used. */
function bookkeeping(windowBytesMax = Number.MAX_SAFE_INTEGER): WriteWindows {
  return new native.WriteWindows(NOWHERE, 8, windowBytesMax);
}

describe('merging', () => {
  test('rounds outwards to whole pages', () => {
    const windows = bookkeeping();
    expect(windows.pending_bytes()).toBe(0);
    windows.add(page + 1, 1);
    expect(windows.pending_bytes()).toBe(page);
    windows.add(4 * page - 1, 2);
    expect(windows.pending_bytes()).toBe(3 * page);
    windows.add(0, 0);
    expect(windows.pending_bytes()).toBe(3 * page);
  });

  test('counts a page once, however often and in whatever order it is written', () => {
    const windows = bookkeeping();
    const ranges: [number, number][] = [
      [8, 2],
      [0, 2],
      [4, 2],
      [2, 2],
      [0, 10],
      [5, 1],
    ];
    const totals = [2, 4, 6, 8, 10, 10];
    for (const [index, [first, count]] of ranges.entries()) {
      expect(windows.add(first * page, count * page)).toBe(false);
      expect(windows.pending_bytes()).toBe((totals[index] ?? 0) * page);
    }
  });

  test('holds the offsets at the end of the legal range', () => {
    const windows = bookkeeping();
    windows.add(Number.MAX_SAFE_INTEGER, 1);
    windows.add(Number.MAX_SAFE_INTEGER - page, page);
    expect(windows.pending_bytes()).toBe(2 * page);
  });

  test('agrees with a set of pages', () => {
    const range = fc.tuple(fc.integer({ min: 0, max: 400 * 8 }), fc.integer({ min: 1, max: 40 }));
    fc.assert(
      fc.property(fc.array(range, { maxLength: 200 }), (ranges) => {
        const windows = bookkeeping();
        const pages = new Set<number>();
        const eighth = page / 8;
        for (const [position, count] of ranges) {
          const offset = position * eighth;
          const length = count * eighth;
          expect(windows.add(offset, length)).toBe(false);
          for (let index = Math.floor(offset / page); index * page < offset + length; index += 1) {
            pages.add(index);
          }
          expect(windows.pending_bytes()).toBe(pages.size * page);
        }
      }),
    );
  });
});

describe('fullness', () => {
  test('comes with the bytes', () => {
    const windows = bookkeeping(4 * page);
    expect([0, 1, 2, 3, 4].map((index) => windows.add(index * page, page))).toEqual([
      false,
      false,
      false,
      true,
      false,
    ]);
  });

  test('comes with the 256th range, not with 256 adjacent writes', () => {
    const scattered = bookkeeping();
    const sequential = bookkeeping();
    for (let index = 1; index < RANGES_MAX; index += 1) {
      expect(scattered.add(2 * index * page, 1)).toBe(false);
      expect(sequential.add(index * page, page)).toBe(false);
    }
    expect(scattered.add(0, 1)).toBe(true);
    expect(sequential.add(0, page)).toBe(false);
    expect(scattered.add(0, 1)).toBe(false);
  });

  test('a write as large as a window fills one alone', () => {
    const windows = bookkeeping(4 * page);
    expect(windows.add(100 * page, 9 * page)).toBe(true);
    expect(windows.add(0, page)).toBe(false);
    expect(windows.add(200 * page, 4 * page)).toBe(true);
    expect(windows.add(0, 3 * page)).toBe(false);
    expect(windows.pending_bytes()).toBe((9 + 1 + 4 + 3) * page);
  });
});

describe('on a disk', () => {
  test('advance keeps the cache below (windows + 2) window sizes over a sequential write', async () => {
    const { fd } = temporaryFile();
    const windowCount = 8;
    const windowBytesMax = MiB;
    const windows = new native.WriteWindows(fd, windowCount, windowBytesMax);
    const data = pattern(256 * KiB, 1);
    const boundPages = ((windowCount + 2) * windowBytesMax) / page;
    let cachedMax = 0;
    for (let offset = 0; offset < 256 * MiB; offset += data.length) {
      expect(native.pwritev2(fd, data, 0, data.length, offset, 0)).toBe(data.length);
      if (!windows.add(offset, data.length)) continue;
      expect(await advance(windows)).toEqual(SUCCESS);
      const { cached, dirty } = await cachestat(fd);
      cachedMax = Math.max(cachedMax, cached, dirty);
      expect(windows.pending_bytes()).toBeLessThanOrEqual((windowCount + 1) * windowBytesMax);
    }
    expect(cachedMax).toBeLessThan(boundPages);
    expect(cachedMax).toBeGreaterThan(0);
    expect(await drain(windows)).toEqual(SUCCESS);
    expect(windows.pending_bytes()).toBe(0);
    expect(await cachestat(fd)).toEqual({ cached: 0, dirty: 0, writeBack: 0 });
  });

  test('advance leaves `windowCount` windows in flight, 0 included', async () => {
    for (const windowCount of [0, 1, 3]) {
      const { fd } = temporaryFile();
      const windows = new native.WriteWindows(fd, windowCount, page);
      for (let index = 0; index < 8; index += 1) {
        native.pwritev2(fd, Buffer.alloc(page, index + 1), 0, page, index * page, 0);
        expect(windows.add(index * page, page)).toBe(true);
        expect(await advance(windows)).toEqual(SUCCESS);
        expect(windows.pending_bytes()).toBe(Math.min(index + 1, windowCount) * page);
        expect((await cachestat(fd)).cached).toBe(Math.min(index + 1, windowCount));
      }
      expect(await drain(windows)).toEqual(SUCCESS);
    }
  });

  test.each([
    ['sequential, at a shift of 512 bytes', 64 * KiB, (index: number) => 512 + index * 64 * KiB],
    ['scattered small', 4 * KiB, (index: number) => ((index * 7919) % 4096) * 16 * KiB],
    ['scattered and unaligned', 5000, (index: number) => ((index * 7919) % 4096) * 16 * KiB + 777],
    ['backwards', 8 * KiB, (index: number) => (2000 - index) * 8 * KiB],
    ['two streams', 32 * KiB, (index: number) => (index % 2) * GiB + (index >> 1) * 32 * KiB],
    ['one place again and again', 64 * KiB, () => 12_345],
  ])('drain leaves nothing: %s', async (_, length, offsetOf) => {
    const { fd } = imageFile(2 * GiB);
    const windows = new native.WriteWindows(fd, 8, 256 * KiB);
    const written = new Map<number, number>();
    for (let index = 0; index < 1000; index += 1) {
      const offset = offsetOf(index);
      expect(native.pwritev2(fd, pattern(length, index), 0, length, offset, 0)).toBe(length);
      written.set(offset, index);
      if (windows.add(offset, length)) expect(await advance(windows)).toEqual(SUCCESS);
    }
    expect(await drain(windows)).toEqual(SUCCESS);
    expect(windows.pending_bytes()).toBe(0);
    expect(await cachestat(fd)).toEqual({ cached: 0, dirty: 0, writeBack: 0 });
    const buffer = Buffer.alloc(length);
    for (const [offset, seed] of written) {
      expect(native.preadv2(fd, buffer, 0, length, offset, 0)).toBe(length);
      // `pattern` writes whole words, and so leaves the last 0 to 3 bytes alone.
      if (!buffer.equals(pattern(length, seed))) throw new Error(`Wrong bytes at ${offset}`);
    }
  });

  test.each([1, 2, 16])('advances and drains run at the same time on %d threads', async (threads) => {
    native.set_pool_size(threads);
    defer(() => native.set_pool_size(16));
    const { fd } = imageFile(64 * MiB);
    const windows = new native.WriteWindows(fd, 4, 64 * KiB);
    const data = pattern(16 * KiB, 2);
    const pending: Promise<void>[] = [];
    for (let index = 0; index < 2000; index += 1) {
      const offset = index % 3 === 0 ? index * data.length : ((index * 7919) % 2000) * data.length + 100;
      native.pwritev2(fd, data, 0, data.length, offset, 0);
      if (windows.add(offset, data.length)) {
        pending.push(advance(windows).then((range) => expect(range).toEqual(SUCCESS)));
      }
      if (index % 100 === 50) pending.push(drain(windows).then((range) => expect(range).toEqual(SUCCESS)));
      if (index % 64 === 0) await Promise.all(pending.splice(0, pending.length >> 1));
    }
    const last = await Promise.all([drain(windows), drain(windows), advance(windows)]);
    expect(last).toEqual([SUCCESS, SUCCESS, SUCCESS]);
    await Promise.all(pending);
    expect(windows.pending_bytes()).toBe(0);
    expect(await cachestat(fd)).toMatchObject({ dirty: 0, writeBack: 0 });
    // A folio that a later write made dirty in part, between its window's wait and eviction, may be left
    // (write_windows.h). The sweep over whole chunks takes it.
    expect(await result((done) => native.posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED, done))).toBe(0);
    expect((await cachestat(fd)).cached).toBe(0);
  });

  test('a drain covers what an advance before it has in hand', async () => {
    const { fd } = temporaryFile();
    const windows = new native.WriteWindows(fd, 0, MiB);
    const data = pattern(MiB, 3);
    for (let round = 0; round < 50; round += 1) {
      native.pwritev2(fd, data, 0, MiB, 0, 0);
      expect(windows.add(0, MiB)).toBe(true);
      const advanced = advance(windows);
      expect(await drain(windows)).toEqual(SUCCESS);
      expect(windows.pending_bytes()).toBe(0);
      expect(await cachestat(fd)).toEqual({ cached: 0, dirty: 0, writeBack: 0 });
      expect(await advanced).toEqual(SUCCESS);
    }
  });

  test('a drain of nothing succeeds at once', async () => {
    const { fd } = temporaryFile();
    const windows = new native.WriteWindows(fd, 4, MiB);
    expect(await drain(windows)).toEqual(SUCCESS);
    expect(await advance(windows)).toEqual(SUCCESS);
  });
});

describe('errors', () => {
  test('name the first range, do not stop the others, and are not reported twice', async () => {
    const windows = new native.WriteWindows(NOWHERE, 0, 4 * page);
    windows.add(10 * page + 1, 4 * page);
    windows.add(100 * page, page);
    windows.add(200 * page, page);
    expect(await advance(windows)).toEqual({ result: -EBADF, offset: 10 * page, length: 5 * page });
    expect(windows.pending_bytes()).toBe(2 * page);
    expect(await advance(windows)).toEqual(SUCCESS);
    expect(await drain(windows)).toEqual({ result: -EBADF, offset: 100 * page, length: page });
    expect(windows.pending_bytes()).toBe(0);
    expect(await drain(windows)).toEqual(SUCCESS);
  });

  test('of a scattered window name its span', async () => {
    const windows = new native.WriteWindows(NOWHERE, 0, MiB);
    for (let index = 0; index < 64; index += 1) windows.add(2 * index * page, page);
    expect(await drain(windows)).toEqual({ result: -EBADF, offset: 0, length: 127 * page });
    expect(windows.pending_bytes()).toBe(0);
  });

  test('are known when a drain ends, whoever met them', async () => {
    for (let round = 0; round < 100; round += 1) {
      const windows = new native.WriteWindows(NOWHERE, 0, page);
      for (let index = 0; index < 20; index += 1) windows.add(2 * index * page, page);
      let failuresBefore = 0;
      const count = ({ result }: { result: number }) => {
        if (result === -EBADF) failuresBefore += 1;
      };
      const advances = [advance(windows).then(count), advance(windows).then(count)];
      const drained = await drain(windows);
      count(drained);
      // Reported by the drain, or by a call whose done came before the drain's.
      expect(failuresBefore).toBeGreaterThan(0);
      await Promise.all(advances);
      expect(windows.pending_bytes()).toBe(0);
    }
  });

  test('say so when the descriptor cannot be synchronised', async () => {
    const folder = temporaryFolder();
    run('mkfifo', join(folder, 'pipe'));
    const windows = new native.WriteWindows(openForTest(join(folder, 'pipe'), 'r+'), 0, page);
    windows.add(0, page);
    expect(await drain(windows)).toEqual({ result: -ESPIPE, offset: 0, length: page });
  });

  /** A file system that believes in 64 MiB, on a backing store that has room for about 12. */
  function fileOnFullDisk(): number {
    const folder = temporaryFolder();
    const store = join(folder, 'store');
    const mount = join(folder, 'mount');
    mkdirSync(store);
    mkdirSync(mount);
    run('mount', '-t', 'tmpfs', '-o', 'size=12m', 'nbd-serve-test', store);
    defer(() => run('umount', '--lazy', store));
    run('truncate', '--size=64M', join(store, 'disk'));
    run('mkfs.ext4', '-q', '-F', '-O', '^has_journal', join(store, 'disk'));
    run('mount', '-o', 'loop,errors=continue', join(store, 'disk'), mount);
    defer(() => run('umount', mount));
    expect(statfsSync(mount).bavail * statfsSync(mount).bsize).toBeGreaterThan(40 * MiB);
    return openForTest(join(mount, 'image'), 'w+');
  }

  // 20 MiB of 32 find no room. A window waited for before the next one starts is told of its own pages. Of
  // several in flight the first wait may be told for all: the kernel keeps one mark per open file.
  test.skipIf(!isRoot).each([
    { windowCount: 0, failuresMin: 16 },
    { windowCount: 4, failuresMin: 3 },
  ])('of a disk that fills up are reported, $windowCount windows in flight', async (parameters) => {
    const fd = fileOnFullDisk();
    const windows = new native.WriteWindows(fd, parameters.windowCount, MiB);
    const data = pattern(MiB, 4);
    const failures: { result: number; offset: number; length: number }[] = [];
    for (let offset = 0; offset < 32 * MiB; offset += MiB) {
      expect(native.pwritev2(fd, data, 0, MiB, offset, 0)).toBe(MiB);
      expect(windows.add(offset, MiB)).toBe(true);
      const range = await advance(windows);
      if (range.result !== 0) failures.push(range);
    }
    const last = await drain(windows);
    if (last.result !== 0) failures.push(last);
    expect(failures.length).toBeGreaterThanOrEqual(parameters.failuresMin);
    for (const failure of failures) {
      expect([-EIO, -ENOSPC]).toContain(failure.result);
      expect(failure.offset % MiB).toBe(0);
      expect(failure.length).toBe(MiB);
    }
    expect(windows.pending_bytes()).toBe(0);
    expect(await cachestat(fd)).toMatchObject({ dirty: 0, writeBack: 0 });
  });

  test.skipIf(!isRoot)(
    'of a disk that fills up are told by a drain, or by an advance before it',
    async () => {
      const fd = fileOnFullDisk();
      const windows = new native.WriteWindows(fd, 2, 256 * KiB);
      const data = pattern(256 * KiB, 5);
      const told: number[] = [];
      const count = ({ result }: { result: number }): void => {
        told.push(result);
      };
      const pending: Promise<void>[] = [];
      for (let offset = 0; offset < 32 * MiB; offset += data.length) {
        native.pwritev2(fd, data, 0, data.length, offset, 0);
        if (windows.add(offset, data.length)) pending.push(advance(windows).then(count));
      }
      count(await drain(windows));
      // An advance whose failure is delivered while the drain waits for a thread keeps it to itself.
      expect(Math.min(...told)).toBeLessThan(0);
      expect(windows.pending_bytes()).toBe(0);
      await Promise.all(pending);
      expect(told.filter((result) => ![0, -EIO, -ENOSPC].includes(result))).toEqual([]);
    },
  );
});
