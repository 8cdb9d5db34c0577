/** The file plugin as a whole, from a handle's methods to the bytes on disk and the pages in the cache. */
import { ftruncateSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { native, type RangeDone, type WriteWindows as Windows } from '../../../src/native/binding.ts';
import type { CacheMode, FilePlugin } from '../../../src/plugins/file/file-plugin.ts';
import { WRITE_PAUSE_MS_MAX } from '../../../src/plugins/file/write-bet.ts';
import type { Handle } from '../../../src/plugins/plugin.ts';
import { createFullImage, createImage } from '../../support/image.ts';
import { evict, Files, KiB, MiB, residentPages } from './files.ts';

const SIZE = 3 * MiB + 513;
const EIO = 5;
const ENOSPC = 28;

const { WriteWindows } = native;

afterEach(() => {
  vi.restoreAllMocks();
  native.WriteWindows = WriteWindows;
});

/** Serves a new image until the end of the scope, and closes what a test has opened of it. */
class Served implements AsyncDisposable {
  readonly files: Files;
  readonly plugin: FilePlugin;
  readonly #handles = new Set<Handle>();
  #isClosed = false;

  private constructor(files: Files, plugin: FilePlugin) {
    this.files = files;
    this.plugin = plugin;
  }

  static async create(options: Parameters<Files['plugin']>[0] = {}, size = SIZE): Promise<Served> {
    const files = await Files.create();
    await createImage(files.path(), size);
    return new Served(files, await files.plugin(options));
  }

  open(): Handle {
    const handle = this.plugin.open();
    if ('then' in handle) throw new Error('A file needs no promise to be opened');
    this.#handles.add(handle);
    return handle;
  }

  async closeHandle(handle: Handle): Promise<void> {
    this.#handles.delete(handle);
    await handle.close();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const handle of this.#handles) await this.closeHandle(handle);
    await this.plugin.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      // A test about a failing close has closed it.
      if (!this.#isClosed) await this.close();
    } finally {
      await this.files[Symbol.asyncDispose]();
    }
  }
}

async function writeSomehow(
  handle: Handle,
  data: Buffer,
  offset: number,
  way: 'now' | 'later' | 'fua',
): Promise<void> {
  // Somewhere in the middle of a larger buffer, as in the receive buffer.
  const buffer = Buffer.alloc(data.length + 100);
  data.copy(buffer, 100);
  if (way === 'now') {
    const done = handle.writeNow?.(buffer, 100, data.length, offset) ?? false;
    // The data has been taken out of the buffer, whatever the promise still waits for.
    if (done !== false) buffer.fill(0xee);
    if (done === true) return;
    if (done !== false) return done;
  }
  return handle.write(buffer, 100, data.length, offset, way === 'fua');
}

async function readSomehow(handle: Handle, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length + 100, 0xaa);
  if (handle.readNow?.(buffer, 50, length, offset) !== true) await handle.read(buffer, 50, length, offset);
  expect(buffer.subarray(0, 50).equals(Buffer.alloc(50, 0xaa))).toBe(true);
  expect(buffer.subarray(50 + length).equals(Buffer.alloc(50, 0xaa))).toBe(true);
  return buffer.subarray(50, 50 + length);
}

type Step =
  | { readonly kind: 'write'; readonly fill: number; readonly way: 'now' | 'later' | 'fua' }
  | { readonly kind: 'zero'; readonly mayPunch: boolean; readonly isFast: boolean; readonly isFua: boolean }
  | { readonly kind: 'trim' | 'read' | 'flush' | 'reopen' };

const STEP: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('write' as const),
      fill: fc.integer({ min: 1, max: 255 }),
      way: fc.constantFrom('now' as const, 'now' as const, 'later' as const, 'fua' as const),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('zero' as const),
      mayPunch: fc.boolean(),
      isFast: fc.boolean(),
      isFua: fc.boolean(),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constantFrom('trim' as const, 'read' as const, 'read' as const) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constantFrom('flush' as const, 'reopen' as const) }) },
);

/** Places that hurt: pages, chunks and the odd end, and anywhere else. */
const PLACE = fc.oneof(
  fc.nat({ max: SIZE }),
  fc.constantFrom(0, 1, 4095, 4096, 2 * MiB - 1, 2 * MiB, 3 * MiB, 3 * MiB + 512, SIZE),
);

const RANGE = fc.tuple(PLACE, PLACE, fc.boolean()).map(([one, other, isShort]) => {
  const offset = Math.min(one, other);
  const length = Math.max(one, other) - offset;
  return { offset, length: isShort ? Math.min(length, 70_000) : length };
});

describe.each<CacheMode>(['default', 'none'])('with --cache %s', (cache) => {
  test('any sequence of requests leaves the bytes that it should', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(STEP, RANGE), { minLength: 1, maxLength: 30 }), async (steps) => {
        await using served = await Served.create({ cache, windowCount: 2, windowBytes: 64 * KiB });
        const model = Buffer.alloc(SIZE);
        let handle = served.open();
        for (const [step, { offset, length }] of steps) {
          switch (step.kind) {
            case 'write': {
              const data = Buffer.alloc(length, step.fill);
              await writeSomehow(handle, data, offset, step.way);
              data.copy(model, offset);
              break;
            }
            case 'zero':
              await handle.zero(offset, length, { mayPunch: step.mayPunch, isFast: step.isFast }, step.isFua);
              model.fill(0, offset, offset + length);
              break;
            case 'trim':
              await handle.trim(offset, length, false);
              // The file system at hand punches; the protocol would allow anything.
              model.fill(0, offset, offset + length);
              break;
            case 'read': {
              const found = await readSomehow(handle, offset, length);
              expect(found.equals(model.subarray(offset, offset + length))).toBe(true);
              break;
            }
            case 'flush':
              await handle.flush();
              break;
            case 'reopen':
              await served.closeHandle(handle);
              handle = served.open();
              break;
          }
        }
        await served.close();
        if (cache === 'none') expect(await residentPages(served.files.open('r'))).toBe(0);
        const found = readFileSync(served.files.path());
        expect(found.length).toBe(SIZE);
        expect(found.equals(model)).toBe(true);
      }),
      { numRuns: 40 },
    );
  });

  test('requests in flight together end in the bytes that they should', async () => {
    await using served = await Served.create({ cache, windowBytes: 64 * KiB });
    const [one, other] = [served.open(), served.open()];
    const model = Buffer.alloc(SIZE);
    const pieces = Array.from({ length: 47 }, (_, index) => ({
      index,
      data: Buffer.alloc(64 * KiB, index + 1),
    }));
    await Promise.all(
      pieces.map(({ index, data }) => {
        const offset = index * 64 * KiB + 512;
        data.copy(model, offset);
        return (index % 2 === 0 ? one : other).write(data, 0, data.length, offset, index % 5 === 0);
      }),
    );
    expect((await readSomehow(one, 0, SIZE)).equals(model)).toBe(true);
    expect((await readSomehow(other, 0, SIZE)).equals(model)).toBe(true);
  });

  test('a file that was truncated behind the server is an error of the device, not zeros', async () => {
    await using served = await Served.create({ cache });
    const handle = served.open();
    ftruncateSync(served.files.open('r+'), MiB);
    const buffer = Buffer.alloc(8192);
    expect(handle.readNow?.(buffer, 0, 8192, MiB - 4096)).toBe(false);
    await expect(handle.read(buffer, 0, 8192, MiB - 4096)).rejects.toMatchObject({
      errno: EIO,
      offset: MiB - 4096,
      length: 8192,
    });
    await expect(handle.read(buffer, 0, 1, 2 * MiB)).rejects.toMatchObject({ errno: EIO });
  });

  test('a write that waits for its turn while the file is truncated does not make it long again', async () => {
    await using served = await Served.create({ cache });
    const handle = served.open();
    const turns: (() => void)[] = [];
    const write = native.pwrite_inside_async.bind(native);
    vi.spyOn(native, 'pwrite_inside_async').mockImplementation((...values) => {
      turns.push(() => write(...values));
    });
    const waiting = handle.write(Buffer.alloc(4096, 1), 0, 4096, 2 * MiB, false);
    await vi.waitFor(() => expect(turns).toHaveLength(1));
    ftruncateSync(served.files.open('r+'), MiB);
    turns[0]?.();
    await expect(waiting).rejects.toMatchObject({ errno: EIO, offset: 2 * MiB, length: 4096 });
    expect(statSync(served.files.path()).size).toBe(MiB);
    // Not a loss of what was acknowledged.
    await expect(handle.flush()).resolves.toBeUndefined();
  });

  test('gives its descriptor back', async () => {
    const before = readdirSync('/proc/self/fd').length;
    {
      await using served = await Served.create({ cache });
      await served.open().flush();
    }
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
  });

  test('says what it can do', async () => {
    await using served = await Served.create({ cache });
    expect(served.plugin.info).toMatchObject({
      size: SIZE,
      isReadOnly: false,
      canFlush: true,
      canFua: true,
      canMultiConn: true,
      canCache: cache === 'default',
      metaContexts: ['base:allocation', 'x-nbd-serve:resident'],
    });
  });
});

describe('without waiting', () => {
  /** A handle of a full image of SIZE, and a descriptor to evict it by. */
  async function withFullImage(use: (handle: Handle, fd: number) => Promise<void>): Promise<void> {
    await using files = await Files.create();
    await createFullImage(files.path(), SIZE);
    const fd = files.open('r+');
    const plugin = await files.plugin();
    try {
      const handle = plugin.open() as Handle;
      await use(handle, fd);
      await handle.close();
    } finally {
      await plugin.close();
    }
  }

  test('only what is in the page cache is read, and only short reads', async () => {
    await withFullImage(async (handle, fd) => {
      const buffer = Buffer.alloc(256 * KiB);
      await evict(fd);
      expect(handle.readNow?.(buffer, 0, 4096, MiB)).toBe(false);
      await handle.read(buffer, 0, 4096, MiB);
      expect(handle.readNow?.(buffer, 0, 4096, MiB)).toBe(true);
      expect(handle.readNow?.(buffer, 0, 128 * KiB + 1, MiB)).toBe(false);
    });
  });

  test('only short writes are done', async () => {
    await using served = await Served.create();
    const handle = served.open();
    const buffer = Buffer.alloc(256 * KiB + 1, 1);
    expect(handle.writeNow?.(buffer, 0, buffer.length, 0)).toBe(false);
    expect(readFileSync(served.files.path()).equals(Buffer.alloc(SIZE))).toBe(true);
  });

  test('only writes for which no page has to be read are done', async () => {
    await withFullImage(async (handle, fd) => {
      const buffer = Buffer.alloc(64 * KiB, 1);
      // The first write to a part of a file waits for its folios.
      await handle.write(buffer, 0, 10, MiB, false);
      await evict(fd);
      for (const [length, offset] of [
        [10, MiB + 5000],
        [4096, MiB + 1],
        [8192 + 512, MiB + 8192],
        [3584, MiB + 512],
      ] as const) {
        expect(handle.writeNow?.(buffer, 0, length, offset), `${length} at ${offset}`).toBe(false);
      }
      expect(handle.receiveWrite?.(MiB + 512, 256 * KiB)).toBeUndefined();
      expect(handle.receiveWrite?.(MiB, 256 * KiB + 512)).toBeUndefined();
      expect(await residentPages(fd)).toBe(0);
      expect(handle.writeNow?.(buffer, 0, 8192, MiB)).toBe(true);
      // Not refused because the last one lost the processor.
      await sleep(2 * WRITE_PAUSE_MS_MAX);
      expect(handle.writeNow?.(buffer, 0, 4096 + 512, MiB + 512)).toBe(true);
    });
  });

  test('an error of the disk is thrown', async () => {
    await using served = await Served.create();
    const handle = served.open();
    // The first write to a part of a file waits for its folios.
    await handle.write(Buffer.alloc(10), 0, 10, 20, false);
    vi.spyOn(native, 'pwritev2').mockReturnValue(-ENOSPC);
    expect(() => handle.writeNow?.(Buffer.alloc(10), 0, 10, 20)).toThrow(
      expect.objectContaining({ errno: ENOSPC, offset: 20, length: 10 }),
    );
  });
});

describe('a page cache that is to be left alone', () => {
  const LARGE = 128 * MiB;

  test('holds a bounded part of the image while many large reads are in flight', async () => {
    await using served = await Served.create({ cache: 'none' }, LARGE);
    const handle = served.open();
    const buffers = Array.from({ length: 16 }, () => Buffer.alloc(MiB));
    let next = 0;
    await Promise.all(
      buffers.map(async (buffer) => {
        for (; next < 256; ) {
          // Everywhere, in an order that no read-ahead foresees.
          const offset = ((next * 37) % (LARGE / MiB)) * MiB;
          next += 1;
          await handle.read(buffer, 0, MiB, offset);
        }
      }),
    );
    const resident = (await residentPages(served.files.open('r'))) * native.page_size;
    expect(resident).toBeLessThanOrEqual(48 * MiB);
  });

  test('holds nothing of what long reads bring, whatever their place', async () => {
    await using served = await Served.create({ cache: 'none' }, LARGE);
    const handle = served.open();
    const fd = served.files.open('r');
    const buffer = Buffer.alloc(MiB);
    for (const [length, offset] of [
      [MiB, 0],
      [MiB, 777],
      [64 * KiB, 5 * MiB - 1],
      [300_001, 9 * MiB + 3],
      [MiB, LARGE - MiB],
    ] as const) {
      await handle.read(buffer, 0, length, offset);
      expect(await residentPages(fd)).toBe(0);
    }
  });

  test('holds a bounded part of it while the largest reads are made', async () => {
    await using served = await Served.create({ cache: 'none' }, LARGE);
    const handle = served.open();
    const buffer = Buffer.alloc(32 * MiB);
    for (let offset = 0; offset < LARGE; offset += buffer.length)
      await handle.read(buffer, 0, buffer.length, offset);
    const resident = (await residentPages(served.files.open('r'))) * native.page_size;
    expect(resident).toBeLessThanOrEqual(48 * MiB);
  });

  test('holds none of it after the last close, although a read was under way during a sweep', async () => {
    await using served = await Served.create({ cache: 'none' });
    const [reader, other] = [served.open(), served.open()];
    const { pread_async } = native;
    let go = (): void => {};
    vi.spyOn(native, 'pread_async').mockImplementation((...values) => {
      go = () => pread_async(...values);
    });
    // Short enough to go through the cache.
    const reading = reader.read(Buffer.alloc(32 * KiB), 0, 32 * KiB, 0);
    const written = other.write(Buffer.alloc(4096, 1), 0, 4096, 2 * MiB, false);
    await written;
    await other.flush();
    await served.closeHandle(other);
    go();
    await reading;
    await served.closeHandle(reader);
    expect(await residentPages(served.files.open('r'))).toBe(0);
  });

  test('is filled ahead of a stream that waits for each read, however much was read before', async () => {
    await using served = await Served.create({ cache: 'none' }, LARGE);
    const handle = served.open();
    const readOn = async (begin: number, end: number): Promise<void> => {
      for (let offset = begin; offset < end; offset += LENGTH) await handle.read(buffer, 0, LENGTH, offset);
    };
    const LENGTH = 32 * KiB;
    const buffer = Buffer.alloc(LENGTH);
    await readOn(0, 16 * MiB);
    const readAhead = vi.spyOn(native, 'read_ahead');
    await readOn(16 * MiB, 24 * MiB);
    expect(readAhead.mock.calls.length).toBeGreaterThan(0);
  });

  test('is not read into by a CACHE of nothing', async () => {
    await using served = await Served.create({}, LARGE);
    const fd = served.files.open('r+');
    await evict(fd);
    await served.open().cache(0, 0);
    expect(await residentPages(fd)).toBe(0);
  });
});

test('the resident bytes of a range are told until the file is closed', async () => {
  await using served = await Served.create({}, 4 * MiB);
  await evict(served.files.open('r+'));
  await served.open().write(Buffer.alloc(8192, 1), 0, 8192, 2 * MiB + 4096, false);
  expect(await served.plugin.residentBytes(0, 4 * MiB)).toBe(8192);
  expect(await served.plugin.residentBytes(0, 2 * MiB)).toBe(0);
  const counting = served.plugin.residentBytes(2 * MiB, MiB);
  await served.close();
  expect(await counting).toBe(8192);
  await expect(served.plugin.residentBytes(0, MiB)).rejects.toThrow('closed');
});

describe('the latch', () => {
  /** Windows of which each full one meets the error. */
  function failWindows(result: number): void {
    class FailingWindows implements Windows {
      add(): boolean {
        return true;
      }

      advance(done: RangeDone): void {
        setImmediate(() => done(result, 4096, 8192));
      }

      drain(done: RangeDone): void {
        this.advance(done);
      }

      pending_bytes(): number {
        return 0;
      }

      counts(): [number, number, number] {
        return [0, 0, 0];
      }
    }
    native.WriteWindows = FailingWindows;
  }

  test('of a window fails every later FLUSH and FUA on every handle, and the close', async () => {
    failWindows(-ENOSPC);
    const onLoss = vi.fn();
    await using served = await Served.create({ cache: 'none', onLoss });
    const [one, other] = [served.open(), served.open()];
    expect(served.plugin.lossCount).toBe(0);
    await one.write(Buffer.alloc(4096, 1), 0, 4096, 0, false);
    await expect(other.flush()).rejects.toMatchObject({ errno: ENOSPC, offset: 4096, length: 8192 });
    await expect(one.flush()).rejects.toMatchObject({ errno: EIO });
    expect(served.plugin.lossCount).toBe(1);
    await expect(other.write(Buffer.alloc(1), 0, 1, 0, true)).rejects.toMatchObject({ errno: EIO });
    await expect(other.zero(0, 1, { mayPunch: true, isFast: false }, true)).rejects.toMatchObject({
      errno: EIO,
    });
    await expect(other.trim(0, 1, true)).rejects.toMatchObject({ errno: EIO });
    await expect(served.open().flush()).rejects.toMatchObject({ errno: EIO });
    expect(onLoss).toHaveBeenCalledTimes(1);
    const before = readdirSync('/proc/self/fd').length;
    await expect(served.close()).rejects.toMatchObject({ errno: EIO });
    expect(readdirSync('/proc/self/fd')).toHaveLength(before - 2);
  });

  test('of a window delays no plain write and fails none', async () => {
    failWindows(-EIO);
    await using served = await Served.create({ cache: 'none' });
    const handle = served.open();
    const now = handle.writeNow?.(Buffer.alloc(4096, 1), 0, 4096, 0);
    expect(now).toBeInstanceOf(Promise);
    await expect(now).resolves.toBeUndefined();
    await expect(served.close()).rejects.toMatchObject({ errno: EIO });
  });

  test('is not set by a write that fails: that is the answer to this write', async () => {
    await using served = await Served.create();
    const handle = served.open();
    vi.spyOn(native, 'pwrite_inside_async').mockImplementation((...values) => {
      setImmediate(() => values[5](-ENOSPC));
    });
    await expect(handle.write(Buffer.alloc(1), 0, 1, 0, false)).rejects.toMatchObject({ errno: ENOSPC });
    await expect(handle.flush()).resolves.toBeUndefined();
  });
});

describe('is refused', () => {
  test('with --cache none on a file system in memory, and nothing stays open or locked', async () => {
    await using files = await Files.create();
    const path = `/dev/shm/nbd-serve-test-${process.pid}`;
    writeFileSync(path, 'x');
    try {
      const before = readdirSync('/proc/self/fd').length;
      await expect(files.plugin({ path, cache: 'none', hasLock: true })).rejects.toThrow(/it is on tmpfs/);
      expect(readdirSync('/proc/self/fd')).toHaveLength(before);
      const plugin = await files.plugin({ path, hasLock: true });
      await plugin.close();
    } finally {
      rmSync(path);
    }
  });

  test('while another one serves it, unless neither locks it', async () => {
    await using served = await Served.create({ hasLock: true });
    await expect(served.files.plugin({ hasLock: true })).rejects.toThrow(/locked/);
    const plugin = await served.files.plugin({ hasLock: false });
    await plugin.close();
  });
});

test('what is settled is flushed once, and a handle in use goes on', async () => {
  await using served = await Served.create();
  const handle = served.open();
  await handle.write(new Uint8Array(512).fill(7), 0, 512, 0, false);
  const fdatasync = vi.spyOn(native, 'fdatasync');
  await served.plugin.settle();
  await served.plugin.settle();
  expect(fdatasync).toHaveBeenCalledTimes(1);
  const read = new Uint8Array(512);
  await handle.read(read, 0, 512, 0);
  expect(read.every((byte) => byte === 7)).toBe(true);
});
