/** Reads past the page cache that need no thread of the pool, and are as fresh as those that do. */
import { execFileSync } from 'node:child_process';
import { closeSync, constants, readSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { native } from '../../../src/native/binding.ts';
import { call } from '../../../src/native/call.ts';
import { POSIX_FADV_RANDOM } from '../../../src/native/constants.ts';
import type { FilePlugin } from '../../../src/plugins/file/file-plugin.ts';
import type { Handle } from '../../../src/plugins/plugin.ts';
import { evict, Files, KiB, MiB, residentPages } from './files.ts';

const SIZE = 8 * MiB;

let files: Files;
let fd: number;
let plugin: FilePlugin;
let handle: Handle;
let close: () => Promise<void>;

beforeEach(async () => {
  files = await Files.create();
  writeFileSync(files.path(), Buffer.alloc(SIZE, 1));
  fd = files.open('r+');
  await evict(fd);
  plugin = await files.plugin({ cache: 'none', windowCount: 64, windowBytes: 64 * MiB });
  handle = plugin.open();
  close = async () => {
    await handle.close();
    await plugin.close();
    await files[Symbol.asyncDispose]();
  };
});

afterEach(async () => {
  vi.useRealTimers();
  await close();
});

/** Runs `work` while the only thread of the pool waits for somebody to open a FIFO. */
async function withoutThreads<T>(work: () => Promise<T>): Promise<T> {
  const fifo = files.path('fifo');
  execFileSync('mkfifo', [fifo]);
  native.set_pool_size(1);
  const opened = call((done) => native.openat2(fd, fifo, constants.O_RDONLY, 0, done));
  try {
    return await work();
  } finally {
    const writer = await open(fifo, 'w');
    closeSync(await opened);
    await writer.close();
    native.set_pool_size(16);
  }
}

async function read(length: number, offset: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  if (handle.readNow?.(buffer, 0, length, offset) !== true) await handle.read(buffer, 0, length, offset);
  return buffer;
}

test.each([4 * KiB, 64 * KiB])(
  'reads of %d bytes of a file that is being written need no thread and leave nothing behind',
  async (length) => {
    vi.useFakeTimers({ toFake: ['performance'] });
    expect(handle.writeNow?.(Buffer.alloc(4 * KiB, 1), 0, 4 * KiB, SIZE - 4 * KiB)).toBe(true);
    const buffers = await withoutThreads(() =>
      Promise.all(Array.from({ length: 40 }, (_, index) => read(length, (39 - index) * 128 * KiB))),
    );
    for (const buffer of buffers) expect(buffer.equals(Buffer.alloc(length, 1))).toBe(true);
    expect(await residentPages(fd, 0, SIZE - 4 * KiB)).toBe(0);
  },
);

test('a read of 64 KiB of which a part was written through the cache gets what was written', async () => {
  expect(handle.writeNow?.(Buffer.alloc(4 * KiB, 7), 0, 4 * KiB, MiB + 8 * KiB)).toBe(true);
  const buffer = await read(64 * KiB, MiB);
  expect(buffer.equals(Buffer.alloc(64 * KiB, 1).fill(7, 8 * KiB, 12 * KiB))).toBe(true);
});

test.each([8 * KiB, 64 * KiB])(
  'reads of %d bytes of which a page is cached leave nothing behind',
  async (length) => {
    await call((done) => native.posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM, done));
    readSync(fd, Buffer.alloc(4 * KiB), 0, 4 * KiB, MiB);
    expect(await residentPages(fd)).toBe(1);
    const buffer = await read(length, MiB);
    expect(buffer.equals(Buffer.alloc(length, 1))).toBe(true);
    await handle.close();
    expect(await residentPages(fd)).toBe(0);
    handle = plugin.open();
  },
);

test('a read of 64 KiB behind the end of a file that was truncated fails', async () => {
  const file = await open(files.path(), 'r+');
  await file.truncate(MiB);
  await file.close();
  await expect(read(64 * KiB, MiB - 4 * KiB)).rejects.toMatchObject({ operation: 'pread' });
});
