/** Who is read ahead for, how far, and that what comes of it is never stale. */
import { writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import type { DirectFile } from '../../../src/native/binding.ts';
import { native } from '../../../src/native/binding.ts';
import { call } from '../../../src/native/call.ts';
import { POSIX_FADV_DONTNEED } from '../../../src/native/constants.ts';
import { DirectReadAhead } from '../../../src/plugins/file/direct-read-ahead.ts';
import { Files, KiB, MiB, residentPages } from './files.ts';

class FakeFile implements Pick<DirectFile, 'read_ahead' | 'forget_ahead' | 'take_ahead'> {
  readonly asked: [offset: number, length: number, changeCount: number][] = [];
  forgotten = 0;
  taken = 0;
  room = Number.POSITIVE_INFINITY;

  read_ahead(offset: number, length: number, changeCount: number): boolean {
    if (this.asked.length >= this.room) return false;
    this.asked.push([offset / MiB, length, changeCount]);
    return true;
  }

  forget_ahead(): void {
    this.forgotten += 1;
  }

  take_ahead(): number {
    this.taken += 1;
    return 64 * KiB;
  }
}

function rig(size = 1024 * MiB): {
  file: FakeFile;
  readAhead: DirectReadAhead;
  inOrder: (reader: object, offset: number, count: number, length?: number) => Promise<number>;
} {
  const file = new FakeFile();
  const readAhead = new DirectReadAhead(file as unknown as DirectFile, size, () => 7);
  return {
    file,
    readAhead,
    /** Reads that come together; where they end. */
    async inOrder(reader, offset, count, length = MiB) {
      for (let index = 0; index < count; index += 1)
        readAhead.follow(reader, offset + index * length, length);
      await Promise.resolve();
      return offset + count * length;
    },
  };
}

test('24 reads in order are followed by eight chunks of 2 MiB, behind all that came together', async () => {
  const { file, inOrder } = rig();
  const reader = {};
  let end = await inOrder(reader, MiB, 23);
  expect(file.asked).toEqual([]);
  end = await inOrder(reader, end, 8);
  expect(file.asked).toEqual([32, 34, 36, 38, 40, 42, 44, 46].map((offset) => [offset, 2 * MiB, 7]));
  await inOrder(reader, end, 3);
  expect(file.asked.slice(8).map(([offset]) => offset)).toEqual([48, 50]);
});

test('what has no room is asked for again by the next reads', async () => {
  const { file, inOrder } = rig();
  const reader = {};
  file.room = 3;
  const end = await inOrder(reader, 0, 24);
  expect(file.asked.length).toBe(3);
  file.room = Number.POSITIVE_INFINITY;
  await inOrder(reader, end, 1);
  expect(file.asked.map(([offset]) => offset)).toEqual([24, 26, 28, 30, 32, 34, 36, 38, 40]);
});

test('the end of the file is the end', async () => {
  const { file, inOrder } = rig(29 * MiB + 5);
  const end = await inOrder({}, 0, 25);
  expect(file.asked.map(([offset, length]) => [offset, length])).toEqual([
    [26, 2 * MiB],
    [28, MiB + 5],
  ]);
  expect(end).toBe(25 * MiB);
});

test('a read elsewhere, or by somebody else, ends it and lets go of what nobody will ask for', async () => {
  const { file, readAhead, inOrder } = rig();
  const [one, other] = [{}, {}];
  const end = await inOrder(one, 0, 24);
  const asked = file.asked.length;
  await inOrder(other, end, 1);
  expect(file.forgotten).toBe(1);
  expect(readAhead.take(new Uint8Array(0), 0, 64 * KiB, 0)).toBe(false);
  for (let round = 0; round < 20; round += 1) {
    await inOrder(one, end + round * 16 * MiB, 16);
    await inOrder(other, 512 * MiB + round * 16 * MiB, 16);
  }
  expect(file.asked.length).toBe(asked);
  expect(file.forgotten).toBe(1);
  await inOrder(other, 900 * MiB, 24);
  expect(file.asked.length).toBeGreaterThan(asked);
  await inOrder(other, 0, 1);
  expect(file.forgotten).toBe(2);
});

test('only what is there without waiting is taken, and nothing is asked for before anything was read ahead', async () => {
  const { file, readAhead, inOrder } = rig();
  expect(readAhead.take(new Uint8Array(0), 0, 64 * KiB, 0)).toBe(false);
  expect(file.taken).toBe(0);
  await inOrder({}, 0, 24);
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
      if (offset % (32 * MiB) === 16 * MiB) {
        // Ahead of the reader, where something was read ahead.
        const block = Buffer.alloc(4096, 0xdd);
        for (let at = offset + 4 * MiB; at < offset + 12 * MiB; at += 300 * 4096) {
          await handle.write(block, 0, 4096, at, false);
          block.copy(expected, at);
        }
      }
    }
    await handle.flush();
    await handle.close();
    await plugin.close();
    expect(await residentPages(fd)).toBe(0);
  },
);
