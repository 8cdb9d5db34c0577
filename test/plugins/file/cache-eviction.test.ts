/** How what was touched leaves the page cache: behind the readers, after a FLUSH, when idle, and at the end. */
import { ftruncateSync, readSync, writeSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { native } from '../../../src/native/binding.ts';
import { call } from '../../../src/native/call.ts';
import { POSIX_FADV_RANDOM } from '../../../src/native/constants.ts';
import { CacheEviction } from '../../../src/plugins/file/cache-eviction.ts';
import { CHUNK_BYTES } from '../../../src/plugins/file/chunks.ts';
import { FakeLog } from '../../server/fake-log.ts';
import { eventually } from '../../support/polling.ts';
import { Files, MiB, residentPages } from './files.ts';

/** What an LRU of sixteen chunks may leave behind the readers, with some room for what is under way. */
const BOUND_BYTES = 20 * CHUNK_BYTES;

afterEach(() => {
  vi.useRealTimers();
  vi.restoreAllMocks();
});

/** A file of holes: reading it fills the page cache like any other, and no disk is needed. */
async function sparse(files: Files, size: number): Promise<number> {
  const fd = files.open('w+');
  ftruncateSync(fd, size);
  // The kernel's own read-ahead would make the numbers depend on the device.
  await call((done) => {
    native.posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM, done);
  });
  return fd;
}

function evictionOf(
  fd: number,
  size: number,
  drainWindows: () => Promise<void> = async () => {},
): CacheEviction {
  return new CacheEviction({
    fd,
    size,
    drainWindows,
    drained: () => {},
    keepsResident: false,
    log: new FakeLog(),
  });
}

const BUFFER = Buffer.alloc(MiB);

function read(fd: number, eviction: CacheEviction, offset: number, length: number): void {
  readSync(fd, BUFFER, 0, length, offset);
  eviction.touchRead(offset, length);
}

describe('reading', () => {
  test.each([4096, 64 * 1024, MiB])(
    'front to back in pieces of %d keeps a bounded number of pages',
    async (length) => {
      const size = 64 * MiB;
      await using files = await Files.create();
      const fd = await sparse(files, size);
      const eviction = evictionOf(fd, size);
      for (let offset = 0; offset < size; offset += length) {
        read(fd, eviction, offset, length);
      }
      await eventually('the chunks behind the reader are evicted', async () =>
        (await residentPages(fd)) * native.page_size <= BOUND_BYTES ? true : undefined,
      );
      await eviction.drain();
      expect(await residentPages(fd)).toBe(0);
    },
  );

  test('here and there, across the borders of chunks, leaves nothing after a drain', async () => {
    const size = 64 * MiB + 513;
    await using files = await Files.create();
    const fd = await sparse(files, size);
    const eviction = evictionOf(fd, size);
    for (const offset of [
      0,
      CHUNK_BYTES - 1,
      5 * CHUNK_BYTES - 4096,
      31 * CHUNK_BYTES + 7,
      64 * MiB - 100_000,
    ]) {
      read(fd, eviction, offset, 100_000);
    }
    read(fd, eviction, 64 * MiB, 513);
    expect(await residentPages(fd)).toBeGreaterThan(0);
    await eviction.drain();
    expect(await residentPages(fd)).toBe(0);
  });

  test('a chunk again after a drain is noticed', async () => {
    await using files = await Files.create();
    const fd = await sparse(files, 8 * MiB);
    const eviction = evictionOf(fd, 8 * MiB);
    for (let round = 0; round < 3; round += 1) {
      read(fd, eviction, 0, 4096);
      await eviction.drain();
      expect(await residentPages(fd)).toBe(0);
    }
  });
});

test('what was written is swept, once it is on its way to disk', async () => {
  await using files = await Files.create();
  const fd = await sparse(files, 8 * MiB);
  const eviction = evictionOf(fd, 8 * MiB, async () => {
    await call((done) => {
      native.fdatasync(fd, done);
    });
  });
  writeSync(fd, BUFFER, 0, 100_000, CHUNK_BYTES - 50_000);
  eviction.touchWrite(CHUNK_BYTES - 50_000, 100_000);
  await eviction.drain();
  expect(await residentPages(fd)).toBe(0);
});

test('more chunks than are remembered one by one: the whole file is swept', async () => {
  const size = 70_000 * CHUNK_BYTES;
  await using files = await Files.create();
  const fd = await sparse(files, size);
  const eviction = evictionOf(fd, size);
  readSync(fd, BUFFER, 0, MiB, size - MiB);
  eviction.touchWrite(0, size);
  await eviction.drain();
  expect(await residentPages(fd)).toBe(0);
});

test('what a drain had to leave behind is swept by the next one', async () => {
  await using files = await Files.create();
  const fd = await sparse(files, 8 * MiB);
  const eviction = evictionOf(fd, 8 * MiB);
  // As with pages that are locked by a slow disk: DONTNEED passes them by.
  const refuses = vi
    .spyOn(native, 'posix_fadvise')
    .mockImplementation((_fd, _offset, _length, _advice, done) => {
      setImmediate(() => done(0));
    });
  read(fd, eviction, 0, 4096);
  await eviction.drain();
  expect(await residentPages(fd)).toBeGreaterThan(0);
  refuses.mockRestore();
  await eviction.drain();
  expect(await residentPages(fd)).toBe(0);
});

test('drains run one after the other, and each caller waits for a whole one', async () => {
  const size = 8 * MiB;
  await using files = await Files.create();
  const fd = await sparse(files, size);
  let running = 0;
  let count = 0;
  const eviction = evictionOf(fd, size, async () => {
    running += 1;
    count += 1;
    expect(running).toBe(1);
    await nextTurn();
    running -= 1;
  });
  const first = eviction.drain();
  read(fd, eviction, 4 * MiB, 4096);
  await Promise.all([first, eviction.drain(), eviction.drain()]);
  expect(count).toBe(3);
  expect(await residentPages(fd)).toBe(0);
});

describe('by itself', () => {
  /** An eviction on a clock that the test turns, and the number of its drains. */
  async function clocked(files: Files): Promise<{ eviction: CacheEviction; drains: () => number }> {
    const fd = await sparse(files, 64 * MiB);
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
    const drainWindows = vi.fn(async () => {});
    return { eviction: evictionOf(fd, 64 * MiB, drainWindows), drains: () => drainWindows.mock.calls.length };
  }

  test('it drains within two seconds without requests', async () => {
    await using files = await Files.create();
    const { eviction, drains } = await clocked(files);
    eviction.touchRead(0, 4096);
    await vi.advanceTimersByTimeAsync(2000);
    expect(drains()).toBe(1);
  });

  test('it does not drain while requests flow, also such as stay in one chunk', async () => {
    await using files = await Files.create();
    const { eviction, drains } = await clocked(files);
    for (let count = 0; count < 50; count += 1) {
      eviction.touchRead(count * 4096, 4096);
      eviction.touchWrite(count * 4096, 4096);
      await vi.advanceTimersByTimeAsync(100);
    }
    expect(drains()).toBe(0);
    await vi.advanceTimersByTimeAsync(2000);
    expect(drains()).toBe(1);
  });

  test('it does not drain while requests flow that leave nothing in the cache, and does after the last of them', async () => {
    await using files = await Files.create();
    const { eviction, drains } = await clocked(files);
    eviction.touchRead(0, 4096);
    for (let count = 0; count < 50; count += 1) {
      eviction.postponeDrain();
      await vi.advanceTimersByTimeAsync(100);
    }
    expect(drains()).toBe(0);
    await vi.advanceTimersByTimeAsync(2000);
    expect(drains()).toBe(1);
    eviction.postponeDrain();
    await vi.advanceTimersByTimeAsync(2000);
    // The first one, whose threads know nothing of this clock, may not be over.
    await vi.waitFor(() => expect(drains()).toBe(2));
  });

  test('it drains within a second of a FLUSH while requests flow', async () => {
    await using files = await Files.create();
    const { eviction, drains } = await clocked(files);
    eviction.touchWrite(0, 4096);
    eviction.flushed();
    for (let count = 0; count < 10; count += 1) {
      eviction.touchWrite(count * CHUNK_BYTES, 4096);
      await vi.advanceTimersByTimeAsync(100);
    }
    expect(drains()).toBe(1);
  });

  test('it drains within a second of a FLUSH although more of them follow', async () => {
    await using files = await Files.create();
    const { eviction, drains } = await clocked(files);
    for (let count = 0; count < 10; count += 1) {
      eviction.touchWrite(count * CHUNK_BYTES, 4096);
      eviction.flushed();
      await vi.advanceTimersByTimeAsync(100);
    }
    expect(drains()).toBeGreaterThan(0);
  });

  test('it does not drain where nothing was touched', async () => {
    await using files = await Files.create();
    const { eviction, drains } = await clocked(files);
    eviction.flushed();
    await vi.advanceTimersByTimeAsync(10_000);
    expect(drains()).toBe(0);
  });
});
