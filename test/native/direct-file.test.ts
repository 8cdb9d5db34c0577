/** Reads past the page cache: the same bytes whatever the range, and nothing of them cached. */
import { constants, ftruncateSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type DirectFile, native } from '../../src/native/binding.ts';
import {
  cachestat,
  defer,
  EAGAIN,
  EBADF,
  EBUSY,
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

function read(file: DirectFile, buffer: Buffer, offset: number, changeCount = 0): Promise<number> {
  return result((done) => file.read(buffer, 0, buffer.length, offset, changeCount, done));
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

describe('what was read ahead', () => {
  const CHUNK = 2 * MiB;

  /** Of a file that was changed in the last second nothing is. */
  async function settledScene(): Promise<Scene> {
    const at = await scene();
    defer(() => at.file.release());
    await new Promise((resolve) => setTimeout(resolve, 1100));
    return at;
  }

  async function ahead(changeCount = 0): Promise<Scene> {
    const at = await settledScene();
    for (const offset of [0, CHUNK, 2 * CHUNK]) {
      const length = Math.min(CHUNK, SIZE - offset);
      expect(
        await result((done) => expect(at.file.read_ahead(offset, length, changeCount, done)).toBe(true)),
      ).toBe(0);
    }
    return at;
  }

  function take(file: DirectFile, buffer: Buffer, offset: number, changeCount = 0): number {
    return file.take_ahead(buffer, 0, buffer.length, offset, changeCount);
  }

  test('is there once, in pieces of any size, and nothing of it in the page cache', async () => {
    const { fd, file, data } = await ahead();
    for (const [offset, length] of [
      [0, 100_000],
      [100_000, CHUNK - 100_000],
      [2 * CHUNK, SIZE - 2 * CHUNK],
    ] as const) {
      const buffer = Buffer.alloc(length);
      expect(take(file, buffer, offset)).toBe(length);
      expect(buffer.equals(data.subarray(offset, offset + length))).toBe(true);
      expect(take(file, Buffer.alloc(1), offset)).toBe(offset === 0 && length < CHUNK ? 1 : 0);
    }
    expect((await cachestat(fd)).cached).toBe(0);
  });

  test('ends where a chunk ends: a longer range is read from several, and from the disk', async () => {
    const { file, data } = await ahead();
    expect(take(file, Buffer.alloc(2), CHUNK - 1)).toBe(0);
    const buffer = Buffer.alloc(SIZE - 1000);
    expect(await read(file, buffer, 1000)).toBe(buffer.length);
    expect(buffer.equals(data.subarray(1000))).toBe(true);
    const again = Buffer.alloc(SIZE);
    expect(await read(file, again, 0)).toBe(SIZE);
    expect(again.equals(data)).toBe(true);
  });

  test('is forgotten when the server has changed the file', async () => {
    const { file } = await ahead(4);
    expect(take(file, Buffer.alloc(100), 0, 5)).toBe(0);
    expect(take(file, Buffer.alloc(100), 0, 4)).toBe(0);
    expect(take(file, Buffer.alloc(100), CHUNK, 4)).toBe(100);
  });

  test.each(['write', 'truncate'])('is forgotten when somebody else does a %s', async (change) => {
    const { path, file, data } = await ahead();
    // Before Linux 6.13 the times are those of the last tick of the clock.
    await new Promise((resolve) => setTimeout(resolve, 20));
    const other = openForTest(path, constants.O_RDWR);
    if (change === 'write') {
      expect(native.pwritev2(other, Buffer.alloc(4096, 0xaa), 0, 4096, CHUNK, 0)).toBe(4096);
      data.fill(0xaa, CHUNK, CHUNK + 4096);
    } else {
      ftruncateSync(other, CHUNK + 100);
    }
    expect(take(file, Buffer.alloc(4096), 0)).toBe(0);
    const buffer = Buffer.alloc(4096);
    expect(await read(file, buffer, CHUNK)).toBe(change === 'write' ? 4096 : 100);
    expect(buffer.subarray(0, 100).equals(data.subarray(CHUNK, CHUNK + 100))).toBe(true);
  });

  test('is nothing of a file that was changed in the last second', async () => {
    const { file, fd } = await settledScene();
    expect(native.pwritev2(fd, Buffer.alloc(1), 0, 1, SIZE - 1, 0)).toBe(1);
    await evict(fd);
    expect(await result((done) => expect(file.read_ahead(0, CHUNK, 0, done)).toBe(true))).toBe(0);
    expect(take(file, Buffer.alloc(100), 0)).toBe(0);
  });

  test('is there for a slow client, too, and not read from the disk twice', async () => {
    const { file } = await ahead();
    expect(take(file, Buffer.alloc(100), 0)).toBe(100);
    await new Promise((resolve) => setTimeout(resolve, 2100));
    expect(take(file, Buffer.alloc(100), 0)).toBe(100);
  });

  function holes(): DirectFile {
    const { path } = temporaryFile();
    const fd = openForTest(path, constants.O_RDWR);
    ftruncateSync(fd, 64 * MiB);
    const file = new native.DirectFile(fd, openForTest(path, constants.O_RDONLY | constants.O_DIRECT));
    defer(() => file.release());
    return file;
  }

  function announce(file: DirectFile, chunk: number): Promise<boolean> {
    return new Promise((resolve) => {
      if (!file.read_ahead(chunk * CHUNK, CHUNK, 0, () => resolve(true))) resolve(false);
    });
  }

  test('is no more than 32 chunks of all files together', async () => {
    const files = [holes(), holes(), holes()];
    await new Promise((resolve) => setTimeout(resolve, 1100));
    for (let chunk = 0; chunk < 12; chunk += 1)
      expect(await announce(files[0] as DirectFile, chunk)).toBe(true);
    for (let chunk = 0; chunk < 12; chunk += 1)
      expect(await announce(files[1] as DirectFile, chunk)).toBe(true);
    for (let chunk = 0; chunk < 12; chunk += 1)
      expect(await announce(files[2] as DirectFile, chunk)).toBe(chunk < 8);
    files[1]?.forget_ahead(0, Number.MAX_SAFE_INTEGER);
    expect(await announce(files[2] as DirectFile, 8)).toBe(true);
  });

  test('is not announced twice, nor beyond sixteen chunks, until it was left for half a second', async () => {
    const file = holes();
    await new Promise((resolve) => setTimeout(resolve, 1100));
    for (let chunk = 0; chunk < 16; chunk += 1) expect(await announce(file, chunk)).toBe(true);
    expect(await announce(file, 3)).toBe(false);
    expect(await announce(file, 16)).toBe(false);
    await new Promise((resolve) => setTimeout(resolve, 600));
    expect(await announce(file, 16)).toBe(true);
    file.forget_ahead(0, Number.MAX_SAFE_INTEGER);
    expect(await announce(file, 3)).toBe(true);
    file.release();
    expect(take(file, Buffer.alloc(100), 3 * CHUNK)).toBe(0);
  });

  test('is waited for while it is being read, copied by many at a time, and may be forgotten meanwhile', async () => {
    const { file, data } = await settledScene();
    for (let round = 0; round < 20; round += 1) {
      const reads: Promise<unknown>[] = [];
      for (const offset of [0, CHUNK, 2 * CHUNK]) {
        reads.push(result((done) => void file.read_ahead(offset, Math.min(CHUNK, SIZE - offset), 0, done)));
      }
      for (let offset = 0; offset + 300_000 < SIZE; offset += 170_001) {
        const buffer = Buffer.alloc(300_000);
        reads.push(
          read(file, buffer, offset).then((count) => {
            expect(count).toBe(buffer.length);
            expect(buffer.equals(data.subarray(offset, offset + count))).toBe(true);
          }),
        );
        if (round % 4 === 1 && offset % 5 === 0) file.forget_ahead(0, SIZE);
      }
      await Promise.all(reads);
    }
  });
});

describe('a direct write', () => {
  function write(
    file: DirectFile,
    data: Buffer,
    start: number,
    length: number,
    offset: number,
  ): Promise<number> {
    return result((done) => file.write(data, start, length, offset, true, done));
  }

  async function writable(): Promise<Scene> {
    const { fd, path } = temporaryFile();
    const data = pattern(SIZE, 3);
    expect(native.pwritev2(fd, data, 0, SIZE, 0, 0)).toBe(SIZE);
    await evict(fd);
    const directFd = openForTest(path, constants.O_RDWR | constants.O_DIRECT);
    return { fd, path, data, file: new native.DirectFile(fd, directFd) };
  }

  test('of whole pages that were written before arrives, from any memory', async () => {
    const { fd, file, data } = await writable();
    const fresh = pattern(SIZE, 9);
    for (const [start, length, offset] of [
      [0, 4096, 8192],
      [77, 3 * MiB, MiB],
    ] as const) {
      expect(await write(file, fresh, start, length, offset)).toBe(length);
      fresh.copy(data, offset, start, start + length);
    }
    expect((await cachestat(fd)).cached).toBe(0);
    const contents = Buffer.alloc(SIZE);
    expect(native.preadv2(fd, contents, 0, SIZE, 0, 0)).toBe(SIZE);
    expect(contents.equals(data)).toBe(true);
  });

  test('is refused by its range, by what is cached, by a hole, and behind the end', async () => {
    const { fd, file } = await writable();
    const data = Buffer.alloc(MiB);
    expect(await write(file, data, 0, 4096, 512)).toBe(-EINVAL);
    expect(await write(file, data, 0, 512, 0)).toBe(-EINVAL);
    expect(await write(file, data, 0, 8192, SIZE - (SIZE % 4096))).toBe(-EAGAIN);
    expect(native.preadv2(fd, data, 0, 1, MiB, 0)).toBe(1);
    expect(await write(file, data, 0, MiB, MiB)).toBe(-EBUSY);
    await evict(fd);
    ftruncateSync(fd, MiB);
    ftruncateSync(fd, SIZE);
    expect(await write(file, data, 0, MiB, 3 * MiB)).toBe(-EAGAIN);
    expect(await write(file, data, 0, MiB, MiB - 4096)).toBe(-EAGAIN);
    expect(await write(file, data, 0, MiB, 0)).toBe(MiB);
  });
});
