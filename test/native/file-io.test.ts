/** Transfers, allocation and durability calls, and the errors that they answer. */
import { constants, fstatSync, ftruncateSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import {
  cachestat,
  defer,
  EAGAIN,
  EBADF,
  EINVAL,
  ENOSPC,
  ENOTTY,
  ESPIPE,
  isRoot,
  KiB,
  MiB,
  openForTest,
  POSIX_FADV_DONTNEED,
  pattern,
  RWF_DSYNC,
  RWF_NOWAIT,
  result,
  run,
  temporaryFile,
  temporaryFolder,
} from './support.ts';

const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;

async function evict(fd: number): Promise<void> {
  expect(await result((done) => native.fdatasync(fd, done))).toBe(0);
  expect(await result((done) => native.posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED, done))).toBe(0);
  expect((await cachestat(fd)).cached).toBe(0);
}

describe('reads', () => {
  test('stop short at the end of the file', async () => {
    const { fd } = temporaryFile();
    const data = pattern(10 * KiB, 1);
    expect(native.pwritev2(fd, data, 0, data.length, 0, 0)).toBe(data.length);
    const buffer = Buffer.alloc(16 * KiB, 0xee);
    expect(await result((done) => native.pread_async(fd, buffer, 0, buffer.length, 4 * KiB, done))).toBe(
      6 * KiB,
    );
    expect(buffer.subarray(0, 6 * KiB).equals(data.subarray(4 * KiB))).toBe(true);
    expect(buffer.subarray(6 * KiB).every((byte) => byte === 0xee)).toBe(true);
    expect(native.preadv2(fd, buffer, 0, buffer.length, 8 * KiB, 0)).toBe(2 * KiB);
    expect(native.preadv2(fd, buffer, 0, buffer.length, 64 * KiB, 0)).toBe(0);
    expect(await result((done) => native.pread_async(fd, buffer, 0, 1, Number.MAX_SAFE_INTEGER, done))).toBe(
      0,
    );
  });

  test('RWF_NOWAIT answers -EAGAIN for what is not resident, and the bytes for what is', async () => {
    const { fd } = temporaryFile();
    const data = pattern(64 * KiB, 2);
    native.pwritev2(fd, data, 0, data.length, 0, 0);
    await evict(fd);
    const buffer = Buffer.alloc(data.length);
    expect(native.preadv2(fd, buffer, 0, buffer.length, 0, RWF_NOWAIT)).toBe(-EAGAIN);
    expect(await result((done) => native.pread_async(fd, buffer, 0, buffer.length, 0, done))).toBe(
      data.length,
    );
    buffer.fill(0);
    expect(native.preadv2(fd, buffer, 0, buffer.length, 0, RWF_NOWAIT)).toBe(data.length);
    expect(buffer.equals(data)).toBe(true);
  });

  test('callbacks come in the order of completion, none is lost among many', async () => {
    const { fd } = temporaryFile();
    const data = pattern(MiB, 3);
    native.pwritev2(fd, data, 0, data.length, 0, 0);
    const reads = Array.from({ length: 2000 }, async (_, index) => {
      const offset = (index * 4096) % MiB;
      const buffer = Buffer.alloc(4096);
      expect(await result((done) => native.pread_async(fd, buffer, 0, 4096, offset, done))).toBe(4096);
      expect(buffer.equals(data.subarray(offset, offset + 4096))).toBe(true);
    });
    await Promise.all(reads);
  });
});

describe('writes', () => {
  test('reach offsets above 2^32 in a sparse file', async () => {
    const { fd } = temporaryFile();
    const offset = 2 ** 42 + 12_345;
    const data = pattern(MiB, 4);
    expect(await result((done) => native.pwrite_async(fd, data, 0, data.length, offset, 0, done))).toBe(MiB);
    expect(native.pwritev2(fd, data, 0, 100, 2 ** 33 + 1, 0)).toBe(100);
    expect(fstatSync(fd).size).toBe(offset + MiB);
    const buffer = Buffer.alloc(MiB);
    readSync(fd, buffer, { position: offset });
    expect(buffer.equals(data)).toBe(true);
    expect(native.preadv2(fd, buffer, 0, 100, 2 ** 33 + 1, 0)).toBe(100);
    expect(buffer.subarray(0, 100).equals(data.subarray(0, 100))).toBe(true);
  });

  test('with RWF_DSYNC leave nothing dirty', async () => {
    const { fd } = temporaryFile();
    const data = pattern(256 * KiB, 5);
    expect(await result((done) => native.pwrite_async(fd, data, 0, data.length, 0, RWF_DSYNC, done))).toBe(
      data.length,
    );
    expect(await cachestat(fd)).toMatchObject({ dirty: 0, writeBack: 0 });
  });

  test('to a full device answer -ENOSPC', async () => {
    const fd = openForTest('/dev/full', 'r+');
    const data = Buffer.alloc(4096);
    expect(native.pwritev2(fd, data, 0, data.length, 0, 0)).toBe(-ENOSPC);
    expect(await result((done) => native.pwrite_async(fd, data, 0, data.length, 0, 0, done))).toBe(-ENOSPC);
  });

  test.skipIf(!isRoot)('that fit in part answer -ENOSPC, not the part', async () => {
    const folder = temporaryFolder();
    run('mount', '-t', 'tmpfs', '-o', 'size=64k', 'nbd-serve-test', folder);
    defer(() => run('umount', '--lazy', folder));
    const fd = openForTest(join(folder, 'image'), 'w+');
    const data = pattern(256 * KiB, 6);
    expect(await result((done) => native.pwrite_async(fd, data, 0, data.length, 0, 0, done))).toBe(-ENOSPC);
    expect(native.pwritev2(fd, data, 0, data.length, 0, 0)).toBe(-ENOSPC);
    expect(fstatSync(fd).size).toBeGreaterThan(0);
  });
});

describe('errors', () => {
  test('a descriptor that is not open is -EBADF everywhere', async () => {
    const fd = 99_999;
    const buffer = Buffer.alloc(16);
    const counts = new Float64Array(5);
    expect(native.preadv2(fd, buffer, 0, 16, 0, 0)).toBe(-EBADF);
    expect(native.pwritev2(fd, buffer, 0, 16, 0, 0)).toBe(-EBADF);
    const results = await Promise.all([
      result((done) => native.pread_async(fd, buffer, 0, 16, 0, done)),
      result((done) => native.pwrite_async(fd, buffer, 0, 16, 0, 0, done)),
      result((done) => native.fdatasync(fd, done)),
      result((done) => native.lseek(fd, 0, 3, done)),
      result((done) => native.fallocate(fd, 0, 0, 1, done)),
      result((done) => native.blkzeroout(fd, 0, 512, done)),
      result((done) => native.blkdiscard(fd, 0, 512, done)),
      result((done) => native.posix_fadvise(fd, 0, 0, 0, done)),
      result((done) => native.sync_file_range(fd, 0, 0, 2, done)),
      result((done) => native.cachestat(fd, 0, 0, counts, done)),
      result((done) => native.mincore_resident(fd, 0, 0, done)),
    ]);
    expect(results).toEqual(results.map(() => -EBADF));
  });

  test('a read-only descriptor refuses writes, a write-only one reads', () => {
    const { path } = temporaryFile();
    const buffer = Buffer.alloc(16);
    expect(native.pwritev2(openForTest(path, 'r'), buffer, 0, 16, 0, 0)).toBe(-EBADF);
    expect(native.preadv2(openForTest(path, 'a'), buffer, 0, 16, 0, 0)).toBe(-EBADF);
  });

  test('posix_fadvise turns its positive error round', async () => {
    const { fd } = temporaryFile();
    expect(await result((done) => native.posix_fadvise(fd, 0, 0, 99, done))).toBe(-EINVAL);
  });

  test('an unknown flag is the kernel’s to refuse', () => {
    const { fd } = temporaryFile();
    expect(native.preadv2(fd, Buffer.alloc(1), 0, 1, 0, 1 << 30)).toBeLessThan(0);
  });

  test('a pipe has no offsets', async () => {
    const folder = temporaryFolder();
    run('mkfifo', join(folder, 'pipe'));
    const fd = openForTest(join(folder, 'pipe'), 'r+');
    expect(await result((done) => native.pread_async(fd, Buffer.alloc(1), 0, 1, 0, done))).toBe(-ESPIPE);
    expect(await result((done) => native.sync_file_range(fd, 0, 0, 2, done))).toBe(-ESPIPE);
  });
});

describe('allocation', () => {
  test('fallocate allocates, and punches holes that read as zeroes', async () => {
    const { fd } = temporaryFile();
    expect(await result((done) => native.fallocate(fd, 0, 0, MiB, done))).toBe(0);
    expect(fstatSync(fd).size).toBe(MiB);
    const data = pattern(MiB, 7);
    native.pwritev2(fd, data, 0, MiB, 0, 0);
    const mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    expect(await result((done) => native.fallocate(fd, mode, 64 * KiB, 128 * KiB, done))).toBe(0);
    const buffer = Buffer.alloc(MiB);
    native.preadv2(fd, buffer, 0, MiB, 0, 0);
    expect(buffer.equals(Buffer.from(data).fill(0, 64 * KiB, 192 * KiB))).toBe(true);
    expect(await result((done) => native.fallocate(fd, 0, 0, 0, done))).toBe(-EINVAL);
  });

  test('block device calls refuse a regular file', async () => {
    const { fd } = temporaryFile();
    expect(await result((done) => native.blkzeroout(fd, 0, 512, done))).toBe(-ENOTTY);
    expect(await result((done) => native.blkdiscard(fd, 0, 512, done))).toBe(-ENOTTY);
  });

  test.skipIf(!isRoot)('blkzeroout and blkdiscard clear a block device', async () => {
    const path = join(temporaryFolder(), 'disk');
    writeFileSync(path, pattern(MiB, 8));
    const device = run('losetup', '--find', '--show', path).trim();
    defer(() => run('losetup', '--detach', device));
    const fd = openForTest(device, constants.O_RDWR);
    expect(await result((done) => native.blkzeroout(fd, 64 * KiB, 64 * KiB, done))).toBe(0);
    expect(await result((done) => native.blkdiscard(fd, 256 * KiB, 64 * KiB, done))).toBe(0);
    const buffer = Buffer.alloc(MiB);
    expect(await result((done) => native.pread_async(fd, buffer, 0, MiB, 0, done))).toBe(MiB);
    const wanted = pattern(MiB, 8)
      .fill(0, 64 * KiB, 128 * KiB)
      .fill(0, 256 * KiB, 320 * KiB);
    expect(buffer.equals(wanted)).toBe(true);
    expect(await result((done) => native.blkzeroout(fd, 1, 512, done))).toBe(-EINVAL);
    expect(await result((done) => native.mincore_resident(fd, 0, 0, done))).toBeGreaterThan(0);
  });
});

test('a shrinking resizable buffer costs an error, not the process', async () => {
  const { fd } = temporaryFile();
  ftruncateSync(fd, MiB);
  // Not in the ES2023 types.
  type Resizable = ArrayBuffer & { resize(length: number): void };
  const memory: Resizable = Reflect.construct(ArrayBuffer, [MiB, { maxByteLength: MiB }]);
  const view = new Uint8Array(memory);
  const pending = result((done) => native.pread_async(fd, view, 0, MiB, 0, done));
  memory.resize(0);
  expect(Number.isInteger(await pending)).toBe(true);
});

describe('pwrite_inside', () => {
  const ENODATA = 61;

  function write(fd: number, length: number, offset: number): Promise<number> {
    return result((done) => native.pwrite_inside_async(fd, pattern(length, 3), 0, length, offset, done));
  }

  test('writes up to the end of the file and never makes it longer', async () => {
    const { path, fd } = temporaryFile();
    ftruncateSync(fd, MiB);
    expect(await write(fd, 4096, MiB - 4096)).toBe(4096);
    for (const [length, offset] of [
      [4096, MiB - 4095],
      [1, MiB],
      [MiB + 1, 0],
    ] as const) {
      expect(await write(fd, length, offset)).toBe(-ENODATA);
    }
    const content = readFileSync(path);
    expect(content).toHaveLength(MiB);
    expect(content.subarray(MiB - 4096).equals(pattern(4096, 3))).toBe(true);
    expect(content.subarray(0, MiB - 4096).every((byte) => byte === 0)).toBe(true);
  });
});
