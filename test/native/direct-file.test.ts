/** Reads past the page cache: the same bytes whatever the range, and nothing of them cached. */
import { constants, ftruncateSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type DirectFile, native } from '../../src/native/binding.ts';
import {
  cachestat,
  EAGAIN,
  EBADF,
  EINVAL,
  KiB,
  MiB,
  openForTest,
  POSIX_FADV_DONTNEED,
  pattern,
  result,
  temporaryFile,
} from './support.ts';

/** Longer than two bounce buffers, and no multiple of anything. */
const SIZE = 5 * MiB + 1234;

interface Scene {
  readonly fd: number;
  readonly path: string;
  readonly data: Buffer;
  readonly file: DirectFile;
}

async function scene(): Promise<Scene> {
  const { fd, path } = temporaryFile();
  const data = pattern(SIZE, 7);
  expect(native.pwritev2(fd, data, 0, SIZE, 0, 0)).toBe(SIZE);
  await evict(fd);
  const directFd = openForTest(path, constants.O_RDONLY | constants.O_DIRECT);
  return { fd, path, data, file: new native.DirectFile(fd, directFd) };
}

async function evict(fd: number): Promise<void> {
  expect(await result((done) => native.fdatasync(fd, done))).toBe(0);
  expect(await result((done) => native.posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED, done))).toBe(0);
  expect((await cachestat(fd)).cached).toBe(0);
}

function read(file: DirectFile, buffer: Buffer, offset: number): Promise<number> {
  return result((done) => file.read(buffer, 0, buffer.length, offset, done));
}

test('the bytes of any range arrive, and nothing stays in the cache', async () => {
  const { fd, data, file } = await scene();
  const ranges = fc.tuple(fc.nat(SIZE + 5000), fc.oneof(fc.nat(9000), fc.nat(SIZE + 5000)));
  await fc.assert(
    fc.asyncProperty(ranges, async ([offset, length]) => {
      const buffer = Buffer.alloc(length, 0xee);
      const expected = data.subarray(offset, offset + length);
      expect(await read(file, buffer, offset)).toBe(expected.length);
      expect(buffer.subarray(0, expected.length).equals(expected)).toBe(true);
      expect(buffer.subarray(expected.length).every((byte) => byte === 0xee)).toBe(true);
      // The bytes beyond the end were asked of the cache, which has no page there.
      expect((await cachestat(fd)).cached).toBe(0);
    }),
    { numRuns: 60 },
  );
});

describe('what is in the cache', () => {
  test('is read there, dirty as it is', async () => {
    const { fd, data, file } = await scene();
    data.fill(0x5a, 100_000, 100_100);
    expect(native.pwritev2(fd, data, 100_000, 100, 100_000, 0)).toBe(100);
    const buffer = Buffer.alloc(256 * KiB);
    expect(await read(file, buffer, 0)).toBe(buffer.length);
    expect(buffer.equals(data.subarray(0, buffer.length))).toBe(true);
    expect((await cachestat(fd)).cached).toBeGreaterThan(0);
  });
});

test('reads at the same time have a bounce buffer each, before and after a release', async () => {
  const { data, file } = await scene();
  for (let round = 0; round < 3; round += 1) {
    const reads = Array.from({ length: 24 }, (_, index) => {
      const buffer = Buffer.alloc(300 * KiB);
      const offset = index * 170_001;
      return read(file, buffer, offset).then((count) => {
        expect(count).toBe(buffer.length);
        expect(buffer.equals(data.subarray(offset, offset + count))).toBe(true);
      });
    });
    // Between them, too: what is in use stays.
    file.release();
    await Promise.all(reads);
    file.release();
  }
});

describe('a direct descriptor that fails', () => {
  test('leaves the read to the page cache', async () => {
    const { fd, data } = await scene();
    // Open for writing alone: every read from it is EBADF.
    const { path } = temporaryFile();
    const file = new native.DirectFile(fd, openForTest(path, constants.O_WRONLY));
    const buffer = Buffer.alloc(256 * KiB);
    expect(await read(file, buffer, 4096)).toBe(buffer.length);
    expect(buffer.equals(data.subarray(4096, 4096 + buffer.length))).toBe(true);
  });

  test('and a page cache that fails as well are an error', async () => {
    const { path } = temporaryFile();
    const writeOnly = openForTest(path, constants.O_WRONLY);
    const file = new native.DirectFile(writeOnly, writeOnly);
    expect(await read(file, Buffer.alloc(64 * KiB), 0)).toBe(-EBADF);
  });
});

test('a file that became shorter ends where it ends now', async () => {
  const { fd, data, file } = await scene();
  ftruncateSync(fd, 100_001);
  await evict(fd);
  const buffer = Buffer.alloc(MiB);
  expect(await read(file, buffer, 4096)).toBe(100_001 - 4096);
  expect(buffer.subarray(0, 100_001 - 4096).equals(data.subarray(4096, 100_001))).toBe(true);
});

describe('a queued read', () => {
  const QUEUED_BYTES_MAX = 64 * KiB;
  const DEPTH = 256;

  function readQueued(file: DirectFile, buffer: Buffer, offset: number): Promise<number> {
    return result((done) => expect(file.read_queued(buffer, 0, buffer.length, offset, done)).toBe(0));
  }

  test('of any range arrives whole, short at the end of the file, and leaves nothing in the cache', async () => {
    const { fd, data, file } = await scene();
    const ranges = fc.tuple(fc.nat(SIZE + 5000), fc.integer({ min: 1, max: QUEUED_BYTES_MAX }));
    await fc.assert(
      fc.asyncProperty(ranges, async ([offset, length]) => {
        const buffer = Buffer.alloc(length, 0xee);
        const expected = data.subarray(offset, offset + length);
        expect(await readQueued(file, buffer, offset)).toBe(expected.length);
        expect(buffer.subarray(0, expected.length).equals(expected)).toBe(true);
        expect(buffer.subarray(expected.length).every((byte) => byte === 0xee)).toBe(true);
        expect((await cachestat(fd)).cached).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  test('sees what was written through the cache, or asks for another way', async () => {
    const { fd, file } = await scene();
    const written = pattern(4096, 9);
    expect(native.pwritev2(fd, written, 0, 4096, 8192, 0)).toBe(4096);
    const buffer = Buffer.alloc(4096);
    const count = await readQueued(file, buffer, 8192);
    // -EAGAIN: dirty pages have to be written back first.
    expect([4096, -EAGAIN]).toContain(count);
    if (count === 4096) expect(buffer.equals(written)).toBe(true);
  });

  test('is refused above its length, and beyond so many in flight', async () => {
    const { data, file } = await scene();
    const done = (): void => {};
    expect(file.read_queued(Buffer.alloc(QUEUED_BYTES_MAX + 1), 0, QUEUED_BYTES_MAX + 1, 0, done)).toBe(
      -EINVAL,
    );
    const buffers = Array.from({ length: DEPTH }, () => Buffer.alloc(4096));
    const reads = buffers.map((buffer, index) => readQueued(file, buffer, index * 4096));
    expect(file.read_queued(Buffer.alloc(4096), 0, 4096, 0, done)).toBe(-EAGAIN);
    expect(await Promise.all(reads)).toEqual(buffers.map(() => 4096));
    expect(Buffer.concat(buffers).equals(data.subarray(0, DEPTH * 4096))).toBe(true);
    // And there is room again.
    expect(await readQueued(file, Buffer.alloc(4096), 0)).toBe(4096);
  });

  test('of a descriptor that is not open is an error', async () => {
    const { fd } = await scene();
    const file = new native.DirectFile(fd, 99_999);
    expect(file.read_queued(Buffer.alloc(4096), 0, 4096, 0, () => {})).toBe(-EBADF);
  });

  test('refuses wrong arguments', async () => {
    const { file } = await scene();
    const call = (...values: unknown[]): unknown => Reflect.apply(file.read_queued, file, values);
    expect(() => call('x', 0, 1, 0, () => {})).toThrow(/buffer/);
    expect(() => call(Buffer.alloc(1), 0, 2, 0, () => {})).toThrow(/length/);
    expect(() => call(Buffer.alloc(1), 0, 1, -1, () => {})).toThrow(/offset/);
    expect(() => call(Buffer.alloc(1), 0, 1, 0, 'x')).toThrow(/done/);
  });
});
