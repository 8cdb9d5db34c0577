/** Who is read ahead for, how far, and that what comes of it is never stale. */
import { writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { DirectFile, Done } from '../../../src/native/binding.ts';
import { native } from '../../../src/native/binding.ts';
import { call } from '../../../src/native/call.ts';
import { POSIX_FADV_DONTNEED } from '../../../src/native/constants.ts';
import { CacheEviction } from '../../../src/plugins/file/cache-eviction.ts';
import { DirectReadAhead } from '../../../src/plugins/file/direct-read-ahead.ts';
import { Files, KiB, MiB, residentPages } from './files.ts';

class FakeFile implements Pick<DirectFile, 'read_ahead' | 'forget_ahead' | 'take_ahead'> {
  readonly asked: [offset: number, length: number, changeCount: number][] = [];
  readonly filled: Done[] = [];
  cachedPages = 0;
  isSlow = false;
  readonly forgotten: [begin: number, end: number][] = [];
  taken = 0;
  room = Number.POSITIVE_INFINITY;

  read_ahead(offset: number, length: number, changeCount: number, done: Done): boolean {
    if (this.asked.length >= this.room) return false;
    this.asked.push([offset / MiB, length, changeCount]);
    if (this.isSlow) this.filled.push(done);
    else done(this.cachedPages);
    return true;
  }

  forget_ahead(begin: number, end: number): void {
    this.forgotten.push([begin / MiB, end / MiB]);
  }

  take_ahead(): number {
    this.taken += 1;
    return 64 * KiB;
  }
}

function rig(size = 1024 * MiB): {
  file: FakeFile;
  readAhead: DirectReadAhead;
  touched: number[];
  change: () => void;
  inOrder: (reader: object, offset: number, count: number, length?: number) => Promise<number>;
} {
  const file = new FakeFile();
  let changeCount = 7;
  const touched: number[] = [];
  const readAhead = new DirectReadAhead({
    file: file as unknown as DirectFile,
    size,
    changeCount: () => changeCount,
    eviction: { touchRead: (offset) => void touched.push(offset / MiB) },
  });
  return {
    file,
    readAhead,
    touched,
    change: () => {
      changeCount += 1;
    },
    /** Reads that come together; where they end. */
    async inOrder(reader, offset, count, length = MiB) {
      for (let index = 0; index < count; index += 1)
        readAhead.follow(reader, offset + index * length, length);
      await Promise.resolve();
      return offset + count * length;
    },
  };
}

function asked(file: FakeFile): number[] {
  return file.asked.map(([offset]) => offset);
}

test('reads in order are followed by a quarter of their length, and up to 16 MiB, behind all that came together', async () => {
  const { file, inOrder } = rig();
  const reader = {};
  let end = await inOrder(reader, MiB, 7);
  expect(asked(file)).toEqual([]);
  end = await inOrder(reader, end, 8);
  expect(file.asked).toEqual([[16, 2 * MiB, 7]]);
  end = await inOrder(reader, end, 49);
  expect(asked(file).slice(1)).toEqual([66, 68, 70, 72, 74, 76, 78, 80]);
  await inOrder(reader, end, 200);
  expect(asked(file).slice(9)).toEqual([266, 268, 270, 272, 274, 276, 278, 280]);
});

test('what has no room is asked for again by the next reads', async () => {
  const { file, inOrder } = rig();
  const reader = {};
  file.room = 3;
  const end = await inOrder(reader, 0, 64);
  expect(file.asked.length).toBe(3);
  file.room = Number.POSITIVE_INFINITY;
  await inOrder(reader, end, 1);
  expect(asked(file)).toEqual([64, 66, 68, 70, 72, 74, 76, 78, 80]);
});

test('the end of the file is the end', async () => {
  const { file, inOrder } = rig(69 * MiB + 5);
  await inOrder({}, 0, 65);
  expect(file.asked.map(([offset, length]) => [offset, length])).toEqual([
    [66, 2 * MiB],
    [68, MiB + 5],
  ]);
});

test('it knows what is ahead, until it is forgotten', async () => {
  const { readAhead, inOrder } = rig();
  const isAhead = (): boolean[] => [
    readAhead.isAhead(66 * MiB - 4096, 4096),
    readAhead.isAhead(66 * MiB - 4096, 4097),
    readAhead.isAhead(82 * MiB - 1, 4096),
    readAhead.isAhead(82 * MiB, 4096),
  ];
  expect(isAhead()).toEqual([false, false, false, false]);
  await inOrder({}, MiB, 64);
  expect(isAhead()).toEqual([false, true, true, false]);
  readAhead.forget();
  expect(isAhead()).toEqual([false, false, false, false]);
});

test('what a reader has long passed is ahead of nobody', async () => {
  const { readAhead, inOrder } = rig();
  const reader = {};
  let end = 0;
  while (end < 200 * MiB) end = await inOrder(reader, end, 8);
  const isAhead = (offset: number): boolean => readAhead.isAhead(offset, 4096);
  expect([isAhead(100 * MiB), isAhead(end - 33 * MiB)]).toEqual([false, false]);
  // Its latest requests may still be under way.
  expect([isAhead(end - 31 * MiB), isAhead(end - 4096), isAhead(end + 15 * MiB)]).toEqual([true, true, true]);
});

describe('a reader', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  test('who goes elsewhere begins again, and what nobody will ask for is let go of', async () => {
    const { file, readAhead, inOrder } = rig();
    const reader = {};
    await inOrder(reader, 0, 64);
    expect(file.asked.length).toBe(8);
    await inOrder(reader, 200 * MiB, 7);
    expect([file.forgotten.length, file.asked.length]).toEqual([1, 8]);
    expect(readAhead.take(new Uint8Array(0), 0, 64 * KiB, 0)).toBe(false);
    await inOrder(reader, 207 * MiB, 1);
    expect(asked(file).slice(8)).toEqual([208]);
  });

  test('who is not the only one has nothing read ahead for longer reads until a second after the other', async () => {
    const { file, inOrder } = rig();
    const [one, other] = [{}, {}];
    await inOrder(one, 0, 64);
    expect(file.asked.length).toBe(8);
    for (let round = 0; round < 20; round += 1) {
      await inOrder(other, 512 * MiB + round * 16 * MiB, 16);
      await inOrder(one, round * 16 * MiB, 16);
      vi.advanceTimersByTime(100);
    }
    expect([file.forgotten.length, file.asked.length]).toEqual([1, 8]);
    const end = await inOrder(one, 320 * MiB, 64);
    expect(file.asked.length).toBe(8);
    vi.advanceTimersByTime(1000);
    await inOrder(one, end, 1);
    expect(file.asked.length).toBeGreaterThan(8);
  });

  test('who is not the only one has three chunks read ahead for reads of up to 128 KiB', async () => {
    const { file, readAhead, inOrder } = rig();
    const readers = [{}, {}, {}];
    for (let round = 0; round < 120; round += 1) {
      for (const [index, reader] of readers.entries()) {
        await inOrder(reader, index * 256 * MiB + round * MiB, 16, 64 * KiB);
      }
    }
    // From 8 MiB on one, from 16 MiB on two, from 24 MiB on three.
    const chunks = Array.from({ length: 59 }, (_, index) => 8 + 2 * index);
    for (const index of readers.keys()) {
      const ahead = asked(file).filter((chunk) => Math.floor(chunk / 256) === index);
      expect(ahead.map((chunk) => chunk % 256)).toEqual(chunks);
      expect(readAhead.isAhead((index * 256 + 124) * MiB, 64 * KiB)).toBe(true);
      expect(readAhead.isAhead((index * 256 + 126) * MiB, 64 * KiB)).toBe(false);
    }
  });

  test.each([
    [5, 2],
    [6, 1],
    [8, 1],
    [9, 0],
    [40, 0],
  ])('of %d has %d chunks, and takes no room that others need', async (readerCount, countMax) => {
    const { file, inOrder } = rig(64 * 1024 * MiB);
    const readers = Array.from({ length: readerCount }, () => ({}));
    for (let round = 0; round < 120; round += 1) {
      for (const [index, reader] of readers.entries()) {
        await inOrder(reader, index * 256 * MiB + round * MiB, 16, 64 * KiB);
      }
    }
    for (const index of readers.keys()) {
      const ahead = asked(file).filter((chunk) => Math.floor(chunk / 256) === index);
      expect(ahead.at(-1)).toBe(countMax === 0 ? undefined : index * 256 + 118 + 2 * countMax);
    }
  });

  test.each(['reads on', 'went elsewhere', 'has left'])(
    'nothing is read ahead where another has begun, whether that one %s',
    async (state) => {
      const { file, readAhead, inOrder } = rig();
      const [one, other] = [{}, {}];
      for (let round = 0; round < 40; round += 1) {
        await inOrder(one, round * MiB, 16, 64 * KiB);
        await inOrder(other, 64 * MiB + 64 * KiB + round * MiB, 16, 64 * KiB);
      }
      if (state === 'went elsewhere') await inOrder(other, 512 * MiB, 16, 64 * KiB);
      if (state === 'has left') readAhead.left(other);
      for (let round = 40; round < 64; round += 1) await inOrder(one, round * MiB, 16, 64 * KiB);
      const ahead = asked(file).filter((chunk) => chunk < 66);
      expect(ahead).toEqual(Array.from({ length: 28 }, (_, index) => 8 + 2 * index));
    },
  );

  test('who begins where another has long been is no border', async () => {
    const { file, inOrder } = rig();
    const [one, other, third] = [{}, {}, {}];
    for (let round = 0; round < 40; round += 1) {
      await inOrder(one, round * MiB, 16, 64 * KiB);
      // Behind, and too short to be a reader in order.
      await inOrder(other, round * MiB, 16, 64 * KiB);
      await inOrder(third, (round + 3) * MiB, 1, 64 * KiB);
    }
    expect(asked(file).at(-1)).toBe(44);
  });

  test('who goes elsewhere or leaves takes nothing from another', async () => {
    const { file, readAhead, inOrder } = rig();
    const [one, other] = [{}, {}];
    await inOrder(one, 0, 1600, 64 * KiB);
    await inOrder(other, 512 * MiB, 1600, 64 * KiB);
    expect(readAhead.isAhead(100 * MiB, MiB)).toBe(true);
    expect(readAhead.isAhead(612 * MiB, MiB)).toBe(true);
    await inOrder(one, 200 * MiB, 1, 64 * KiB);
    expect([readAhead.isAhead(100 * MiB, MiB), readAhead.isAhead(612 * MiB, MiB)]).toEqual([false, true]);
    readAhead.left(one);
    readAhead.left(other);
    expect(file.forgotten).toEqual([
      [100, 116],
      [612, 618],
    ]);
    expect(readAhead.take(new Uint8Array(0), 0, 64 * KiB, 612 * MiB)).toBe(false);
    expect(file.taken).toBe(0);
  });

  test('who leaves takes nothing of what another has ahead where it has long passed itself', async () => {
    const { file, readAhead, inOrder } = rig();
    const [one, other] = [{}, {}];
    for (let offset = 0; offset < 200 * MiB; offset += 8 * MiB) await inOrder(one, offset, 128, 64 * KiB);
    await inOrder(other, 0, 1600, 64 * KiB);
    readAhead.left(one);
    expect(file.forgotten).toEqual([[200 - 32, 216]]);
    expect(readAhead.isAhead(101 * MiB, 64 * KiB)).toBe(true);
  });

  test('who has left is nobody to share with, and leaves nothing behind', async () => {
    const { file, readAhead, inOrder } = rig();
    const [one, other] = [{}, {}];
    await inOrder(one, 0, 64);
    readAhead.left(other);
    expect(file.forgotten.length).toBe(0);
    readAhead.left(one);
    expect(file.forgotten.length).toBe(1);
    await inOrder(other, 0, 64);
    expect(file.asked.length).toBe(16);
  });
});

describe('nothing is read ahead', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  test('for a second after the server has changed the file', async () => {
    const { file, change, inOrder } = rig();
    const reader = {};
    let end = await inOrder(reader, 0, 64);
    change();
    end = await inOrder(reader, end, 8);
    expect([file.forgotten.length, file.asked.length]).toEqual([1, 8]);
    vi.advanceTimersByTime(1000);
    end = await inOrder(reader, end, 1);
    expect(file.asked.length).toBe(16);
    expect(file.asked.at(-1)?.[2]).toBe(8);
  });

  test('for a second after it was left in the page cache, which is told to leave', async () => {
    const { file, touched, inOrder } = rig();
    const reader = {};
    file.cachedPages = 512;
    let end = await inOrder(reader, 0, 64);
    await new Promise((resolve) => void setImmediate(resolve));
    expect(touched).toEqual(asked(file));
    vi.advanceTimersByTime(999);
    end = await inOrder(reader, end, 8);
    expect(file.asked.length).toBe(8);
    file.cachedPages = 0;
    vi.advanceTimersByTime(1);
    await inOrder(reader, end, 1);
    expect(file.asked.length).toBe(13);
  });
});

test('it is under way, and not settled, until all chunks were read', async () => {
  const { file, readAhead, inOrder } = rig();
  file.isSlow = true;
  await inOrder({}, 0, 64);
  expect(readAhead.isUnderWay).toBe(true);
  let isSettled = false;
  const settled = readAhead.settled().then(() => {
    isSettled = true;
  });
  for (const done of file.filled) {
    expect(isSettled).toBe(false);
    done(0);
    await new Promise((resolve) => void setImmediate(resolve));
  }
  await settled;
  expect(readAhead.isUnderWay).toBe(false);
});

test('only what is there without waiting is taken, and nothing is asked for before anything was read ahead', async () => {
  const { file, readAhead, inOrder } = rig();
  expect(readAhead.take(new Uint8Array(0), 0, 64 * KiB, 0)).toBe(false);
  expect(file.taken).toBe(0);
  await inOrder({}, 0, 64);
  expect(readAhead.take(new Uint8Array(0), 0, 64 * KiB, 0)).toBe(true);
  expect(readAhead.take(new Uint8Array(0), 0, 32 * KiB, 0)).toBe(false);
});

test.each([64 * KiB, 256 * KiB, MiB])(
  'reads of %d bytes in order, with writes in between, are always what was written last',
  async (length) => {
    const size = 96 * MiB;
    await using files = await Files.create();
    const expected = Buffer.alloc(size);
    for (let offset = 0; offset < size; offset += 4096) expected.writeUInt32LE(offset / 4096, offset);
    writeFileSync(files.path(), expected);
    const fd = files.open('r+');
    await call((done) => native.fdatasync(fd, done));
    await call((done) => native.posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED, done));
    // Of a file that was changed in the last second nothing is read ahead.
    await new Promise((resolve) => setTimeout(resolve, 1100));
    const answered = vi.spyOn(CacheEviction.prototype, 'postponeDrain');
    const plugin = await files.plugin({ cache: 'none' });
    const handle = plugin.open();
    const depth = 8;
    for (let offset = 0; offset < size; offset += depth * length) {
      const buffers = Array.from({ length: depth }, () => Buffer.alloc(length));
      await Promise.all(
        buffers.map(async (buffer, index) => {
          const at = offset + index * length;
          if (handle.readNow?.(buffer, 0, length, at) !== true) await handle.read(buffer, 0, length, at);
        }),
      );
      for (const [index, buffer] of buffers.entries()) {
        const at = offset + index * length;
        expect(buffer.equals(expected.subarray(at, at + length))).toBe(true);
      }
      if (offset === 64 * MiB) {
        // Ahead of the reader, where something was read ahead.
        const block = Buffer.alloc(4096, 0xdd);
        for (let at = offset + 4 * MiB; at < offset + 12 * MiB; at += 300 * 4096) {
          await handle.write(block, 0, 4096, at, false);
          block.copy(expected, at);
        }
      }
    }
    // Of longer ones nobody hears whether they came from the disk.
    if (length === 64 * KiB) expect(answered.mock.calls.length).toBeGreaterThan(100);
    answered.mockRestore();
    await handle.flush();
    await handle.close();
    await plugin.close();
    expect(await residentPages(fd)).toBe(0);
  },
);
