/** One bound on written data for all connections, kept before the write. */
import { expect, test } from 'vitest';
import { CacheEviction } from '../../../src/plugins/file/cache-eviction.ts';
import { Durability } from '../../../src/plugins/file/durability.ts';
import { WriteBack } from '../../../src/plugins/file/write-back.ts';
import type { WindowCounter } from '../../../src/plugins/window-counter.ts';
import { FakeLog } from '../../server/fake-log.ts';
import { Files, MiB } from './files.ts';

const SIZE = 64 * MiB;

function writeBackOf(
  fd: number,
  threadCount = 1,
  windowCounter?: WindowCounter,
): { writeBack: WriteBack; eviction: CacheEviction } {
  const log = new FakeLog();
  const durability = new Durability({ fd, size: SIZE, log, onLoss: () => undefined });
  // Room for 12 MiB.
  const options = { fd, windowCount: 8, windowBytes: MiB, durability, threadCount, windowCounter };
  const writeBack = new WriteBack(options);
  const drainWindows = (): Promise<void> => writeBack.drain();
  return {
    writeBack,
    eviction: new CacheEviction({
      fd,
      size: SIZE,
      drainWindows,
      drained: () => {},
      keepsResident: false,
      log,
    }),
  };
}

test('a write that finds no room waits, and so do all behind it, in their order', async () => {
  await using files = await Files.create();
  const { writeBack, eviction } = writeBackOf(files.open('w+'));
  for (let index = 0; index < 12; index += 1) expect(writeBack.tryBegin(MiB)).toBe(true);
  const order: string[] = [];
  const waits = ['first', 'second'].map(async (name) => {
    await writeBack.begin(MiB);
    order.push(name);
  });
  expect(writeBack.tryBegin(1)).toBe(false);
  for (let index = 0; index < 12; index += 1) await writeBack.wrote(eviction, index * MiB, MiB);
  await Promise.all(waits);
  expect(order).toEqual(['first', 'second']);
  await eviction.drain();
});

test('a write that is larger than all the room goes when nothing else does', async () => {
  await using files = await Files.create();
  const { writeBack, eviction } = writeBackOf(files.open('w+'));
  expect(writeBack.tryBegin(32 * MiB)).toBe(true);
  const next = writeBack.begin(32 * MiB);
  expect(next).toBeInstanceOf(Promise);
  await writeBack.wrote(eviction, 0, 32 * MiB);
  await next;
  await writeBack.wrote(eviction, 32 * MiB, 32 * MiB);
  expect(writeBack.tryBegin(MiB)).toBe(true);
  await writeBack.wrote(eviction, 0, MiB);
  await eviction.drain();
});

test.each([2, 3, 4, 16, 64])(
  '%d threads divide the room, whatever they leave of a window',
  async (threadCount) => {
    await using files = await Files.create();
    const fd = files.open('w+');
    const shares = Array.from({ length: threadCount }, () => writeBackOf(fd, threadCount));
    const PAGE = 4096;
    let bytes = 0;
    for (const { writeBack, eviction } of shares) {
      while (writeBack.tryBegin(PAGE)) bytes += PAGE;
      // One page too many for the room would wait; what is recorded and never advanced counts like any other.
      expect(writeBack.begin(PAGE)).toBeInstanceOf(Promise);
      await writeBack.drain();
      await eviction.drain();
    }
    expect(bytes).toBeLessThanOrEqual(12 * MiB);
    expect(bytes).toBeGreaterThan(11 * MiB);
  },
);

test("a write that is larger than a thread's room is made in pieces", async () => {
  await using files = await Files.create();
  const fd = files.open('w+');
  const { writeBack, eviction } = writeBackOf(fd, 4);
  expect(writeBack.pieceBytesMax).toBe(3 * MiB);
  expect(writeBackOf(fd).writeBack.pieceBytesMax).toBe(Number.POSITIVE_INFINITY);
  await eviction.drain();
});

test('windows that were given to the disk, waited for and evicted are counted', async () => {
  await using files = await Files.create();
  const counts = { written: 0, waited: 0, evicted: 0 };
  const { writeBack, eviction } = writeBackOf(files.open('w+'), 1, {
    countWindows: (written, waited, evicted) => {
      counts.written += written;
      counts.waited += waited;
      counts.evicted += evicted;
    },
  });
  for (let index = 0; index < 10; index += 1) await writeBack.wrote(eviction, index * MiB, MiB);
  // Eight stay in flight.
  expect(counts).toEqual({ written: 10, waited: 2, evicted: 2 });
  await eviction.drain();
  expect(counts).toEqual({ written: 10, waited: 10, evicted: 10 });
});
