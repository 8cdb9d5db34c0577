/** `--keep-resident`: what somebody else had in the page cache stays there, and only that. */
import { ftruncateSync, readSync, writeSync } from 'node:fs';
import { describe, expect, test, vi } from 'vitest';
import { native } from '../../../src/native/binding.ts';
import { call } from '../../../src/native/call.ts';
import { POSIX_FADV_RANDOM } from '../../../src/native/constants.ts';
import { CHUNK_BYTES } from '../../../src/plugins/file/chunks.ts';
import { ChunkMarks, KeptChunks } from '../../../src/plugins/file/kept-chunks.ts';
import { evict, Files, GiB, keptPages, residentPages } from './files.ts';

const CHUNK_COUNT = 6;
const SIZE = CHUNK_COUNT * CHUNK_BYTES;
const CHUNK_PAGES = CHUNK_BYTES / native.page_size;
/** Somebody else reads one page of this chunk before the server comes. */
const FOREIGN_CHUNK = 2;

/** Of each chunk of which something is resident the pages that nobody has evicted. */
async function residentByChunk(fd: number): Promise<number[]> {
  const counts: number[] = [];
  for (let chunk = 0; chunk < CHUNK_COUNT; chunk += 1) {
    const range = [chunk * CHUNK_BYTES, CHUNK_BYTES] as const;
    counts.push((await residentPages(fd, ...range)) === 0 ? 0 : await keptPages(fd, ...range));
  }
  return counts;
}

/** A file of data of which one page is cached; serves it, lets `use` work on it, closes it, and looks. */
async function residentAfter(
  isKeeping: boolean,
  use: (access: {
    read: (offset: number, length: number) => Promise<void>;
    write: (offset: number, length: number) => Promise<void>;
  }) => Promise<void>,
): Promise<number[]> {
  await using files = await Files.create();
  const fd = files.open('w+');
  writeSync(fd, Buffer.alloc(SIZE, 7));
  await evict(fd);
  const page = Buffer.alloc(native.page_size);
  // Without it the kernel's read-ahead would bring in the whole file.
  await call((done) => {
    native.posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM, done);
  });
  readSync(fd, page, 0, page.length, FOREIGN_CHUNK * CHUNK_BYTES);
  const before = await residentByChunk(fd);
  expect(before).toEqual(before.map((_, chunk) => (chunk === FOREIGN_CHUNK ? 1 : 0)));

  const plugin = await files.plugin({ cache: 'none', keepsResident: isKeeping });
  const handle = plugin.open();
  await use({
    read: async (offset, length) => {
      const buffer = Buffer.alloc(length);
      if (!handle.readNow?.(buffer, 0, length, offset)) await handle.read(buffer, 0, length, offset);
    },
    write: async (offset, length) => {
      await handle.write(Buffer.alloc(length, 9), 0, length, offset, false);
    },
  });
  await handle.close();
  await plugin.close();
  return await residentByChunk(fd);
}

describe('chunks that were resident', () => {
  test('stay after they were read, and what was read of the others leaves', async () => {
    const resident = await residentAfter(true, async ({ read }) => {
      // Read ahead through the cache: longer ones are not.
      for (let offset = 0; offset < SIZE; offset += 32 * 1024) await read(offset, 32 * 1024);
    });
    expect(resident[FOREIGN_CHUNK]).toBe(CHUNK_PAGES);
    expect(resident.filter((pages) => pages === 0)).toHaveLength(CHUNK_COUNT - 1);
  });

  test('stay after they were written, and what was written of the others leaves', async () => {
    const resident = await residentAfter(true, async ({ write }) => {
      for (let offset = 4096; offset < SIZE; offset += CHUNK_BYTES / 2) await write(offset, 256 * 1024);
    });
    expect(resident[FOREIGN_CHUNK]).toBeGreaterThan(0);
    expect(resident.filter((pages) => pages === 0)).toHaveLength(CHUNK_COUNT - 1);
  });

  test('leave without the option', async () => {
    const resident = await residentAfter(false, async ({ read }) => {
      for (let offset = 0; offset < SIZE; offset += 64 * 1024) await read(offset, 64 * 1024);
    });
    expect(resident).toEqual(Array.from({ length: CHUNK_COUNT }, () => 0));
  });
});

test('a TRIM or WRITE_ZEROES of a large range looks at its edges only, not at every chunk on the event loop', async () => {
  await using files = await Files.create();
  const fd = files.open('w+');
  ftruncateSync(fd, 64 * GiB);
  const plugin = await files.plugin({ cache: 'none', keepsResident: true });
  const handle = plugin.open();
  const look = vi.spyOn(native, 'cached_pages');
  try {
    await handle.trim(512, 64 * GiB - 1024, false);
    await handle.zero(512, 64 * GiB - 1024, { mayPunch: true, isFast: false }, false);
    expect(look.mock.calls.length).toBeGreaterThan(0);
    expect(look.mock.calls.length).toBeLessThan(100);
  } finally {
    look.mockRestore();
    await handle.close();
    await plugin.close();
  }
});

describe('several threads', () => {
  test("take nothing for somebody else's that one of them has read", async () => {
    await using files = await Files.create();
    const fd = files.open('w+');
    writeSync(fd, Buffer.alloc(SIZE, 7));
    await evict(fd);
    await call((done) => {
      native.posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM, done);
    });
    const page = Buffer.alloc(native.page_size);
    readSync(fd, page, 0, page.length, FOREIGN_CHUNK * CHUNK_BYTES);
    const marks = ChunkMarks.create(SIZE);
    const one = new KeptChunks(fd, marks);
    const other = new KeptChunks(fd, new ChunkMarks(marks.words));
    const own = FOREIGN_CHUNK + 1;
    one.meet(own * CHUNK_BYTES, 1);
    readSync(fd, page, 0, page.length, own * CHUNK_BYTES);
    other.meet(FOREIGN_CHUNK * CHUNK_BYTES, 2 * CHUNK_BYTES);
    expect([FOREIGN_CHUNK, own].map((chunk) => other.has(chunk))).toEqual([true, false]);
    one.meet(FOREIGN_CHUNK * CHUNK_BYTES, 1);
    expect([FOREIGN_CHUNK, own].map((chunk) => one.has(chunk))).toEqual([true, false]);
  });

  test('the first look that is recorded decides, whatever others see meanwhile', () => {
    const marks = ChunkMarks.create(200 * CHUNK_BYTES);
    const other = new ChunkMarks(marks.words);
    const never = (): boolean => {
      throw new Error('It was looked at twice');
    };
    // The other thread looks, records and reads the chunk between this thread's first load and its look.
    const late = marks.decide(37, () => {
      expect(other.decide(37, () => false)).toBe(false);
      return true;
    });
    expect(late).toBe(false);
    // A neighbour in the same word, recorded meanwhile, is no reason to look again.
    const decided = marks.decide(38, () => {
      other.decide(39, () => true);
      return true;
    });
    expect(decided).toBe(true);
    expect([37, 38, 39].map((chunk) => other.decide(chunk, never))).toEqual([false, true, true]);
    // All chunks of a word, the sign bit included.
    for (let chunk = 64; chunk < 96; chunk += 1) marks.decide(chunk, () => chunk % 3 === 0);
    for (let chunk = 64; chunk < 96; chunk += 1) expect(other.decide(chunk, never)).toBe(chunk % 3 === 0);
  });

  test('share marks for the largest file there can be, and memory for what they touch only', () => {
    const before = process.memoryUsage.rss();
    const marks = ChunkMarks.create(Number.MAX_SAFE_INTEGER);
    const last = Math.floor(Number.MAX_SAFE_INTEGER / CHUNK_BYTES) + 8;
    expect(marks.decide(last, () => true)).toBe(true);
    expect(marks.decide(last, () => false)).toBe(true);
    expect(process.memoryUsage.rss() - before).toBeLessThan(GiB / 4);
  });
});
