/** What is resident, by every way of asking, and whether eviction works. */
import { ftruncateSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import {
  advance,
  cachestat,
  drain,
  GiB,
  KiB,
  MiB,
  openForTest,
  POSIX_FADV_DONTNEED,
  pattern,
  result,
  run,
  SUCCESS,
  temporaryFile,
} from './support.ts';

function hasCachestats(): boolean {
  try {
    run('cachestats', process.execPath);
    return true;
  } catch (error) {
    // It exits with 1 when a file is not cached entirely.
    return (error as NodeJS.ErrnoException).code !== 'ENOENT';
  }
}

/** Pages by the tool of Debian's package nocache. */
function cachestatsTool(path: string): number {
  let text: string;
  try {
    text = run('cachestats', path);
  } catch (error) {
    text = String(Reflect.get(error as object, 'stdout'));
  }
  return Number(/pages in cache: (\d+)\//.exec(text)?.[1]);
}

function mincore(fd: number, offset = 0, length = 0): Promise<number> {
  return result((done) => native.mincore_resident(fd, offset, length, done));
}

async function flush(fd: number): Promise<void> {
  expect(await result((done) => native.fdatasync(fd, done))).toBe(0);
}

async function evict(fd: number, offset: number, length: number): Promise<void> {
  expect(await result((done) => native.posix_fadvise(fd, offset, length, POSIX_FADV_DONTNEED, done))).toBe(0);
}

test('page_size is a power of two', () => {
  expect(Number.isInteger(Math.log2(native.page_size))).toBe(true);
});

describe('cachestat', () => {
  test('counts what is cached and what is dirty', async () => {
    const { fd } = temporaryFile();
    const pages = 64;
    native.pwritev2(fd, pattern(pages * native.page_size, 1), 0, pages * native.page_size, 0, 0);
    expect(await cachestat(fd)).toMatchObject({ cached: pages });
    await flush(fd);
    expect(await cachestat(fd)).toEqual({ cached: pages, dirty: 0, writeBack: 0 });
  });

  test('agrees with mincore, and with cachestats', async () => {
    const { path, fd } = temporaryFile();
    const data = pattern(4 * MiB, 2);
    native.pwritev2(fd, data, 0, data.length, 0, 0);
    native.pwritev2(fd, data, 0, 100, 9 * MiB, 0);
    await flush(fd);
    for (const evicted of [0, 1 * MiB, 3 * MiB, 10 * MiB]) {
      if (evicted > 0) await evict(fd, 0, evicted);
      const { cached } = await cachestat(fd);
      expect(await mincore(fd)).toBe(cached);
      if (hasCachestats()) expect(cachestatsTool(path)).toBe(cached);
      if (evicted === 10 * MiB) expect(cached).toBe(0);
    }
  });

  test('fills nothing in after an error', async () => {
    const counts = new Float64Array(5).fill(7);
    expect(await result((done) => native.cachestat(99_999, 0, 0, counts, done))).toBeLessThan(0);
    expect([...counts]).toEqual([7, 7, 7, 7, 7]);
  });

  test('survives an array that is detached meanwhile', async () => {
    const { fd } = temporaryFile();
    const counts = new Float64Array(5);
    const pending = result((done) => native.cachestat(fd, 0, 0, counts, done));
    structuredClone(counts.buffer, { transfer: [counts.buffer] });
    expect(await pending).toBe(0);
  });
});

describe('mincore_resident', () => {
  test('looks through mappings of 1 GiB each', async () => {
    const { fd } = temporaryFile();
    const page = native.page_size;
    const data = Buffer.alloc(page, 1);
    ftruncateSync(fd, 3 * GiB + 100);
    for (const offset of [0, GiB - page, GiB, 2 * GiB + 5 * page, 3 * GiB]) {
      native.pwritev2(fd, data, 0, offset === 3 * GiB ? 100 : page, offset, 0);
    }
    expect(await mincore(fd)).toBe(5);
    expect(await mincore(fd)).toBe((await cachestat(fd)).cached);
    expect(await mincore(fd, GiB - page, 2 * page)).toBe(2);
    expect(await mincore(fd, GiB, 2 * GiB)).toBe(2);
    expect(await mincore(fd, 3 * GiB + 50, 10)).toBe(1);
    expect(await mincore(fd, 9 * GiB, 0)).toBe(0);
  });

  test('counts a page that the range only touches', async () => {
    const { fd } = temporaryFile();
    const page = native.page_size;
    native.pwritev2(fd, Buffer.alloc(4 * page, 1), 0, 4 * page, 0, 0);
    expect(await mincore(fd, page - 1, 2)).toBe(2);
    expect(await mincore(fd, page, 1)).toBe(1);
    expect((await cachestat(fd, page - 1, 2)).cached).toBe(2);
  });

  test('answers nothing for an empty file, and an error without the right to read', async () => {
    const { path, fd } = temporaryFile();
    expect(await mincore(fd)).toBe(0);
    native.pwritev2(fd, Buffer.alloc(1), 0, 1, 0, 0);
    expect(await mincore(openForTest(path, 'a'))).toBeLessThan(0);
  });
});

test('WriteWindows leave nothing of what was written, by either way of counting', async () => {
  const { path, fd } = temporaryFile();
  const windows = new native.WriteWindows(fd, 4, 256 * KiB);
  const data = pattern(64 * KiB, 3);
  for (let offset = 0; offset < 4 * MiB; offset += data.length) {
    native.pwritev2(fd, data, 0, data.length, offset, 0);
    if (windows.add(offset, data.length)) expect(await advance(windows)).toEqual(SUCCESS);
  }
  expect(await drain(windows)).toEqual(SUCCESS);
  expect(await cachestat(fd)).toEqual({ cached: 0, dirty: 0, writeBack: 0 });
  expect(await mincore(fd)).toBe(0);
  if (hasCachestats()) expect(cachestatsTool(path)).toBe(0);
  const buffer = Buffer.alloc(64 * KiB);
  expect(native.preadv2(fd, buffer, 0, buffer.length, 3 * MiB, 0)).toBe(buffer.length);
  expect(buffer.equals(data)).toBe(true);
});
