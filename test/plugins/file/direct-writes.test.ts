/** Long writes past the page cache: what goes that way, what does not, and that neither harms the other. */
import { writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type DirectFile, type Done, native } from '../../../src/native/binding.ts';
import { call } from '../../../src/native/call.ts';
import { POSIX_FADV_DONTNEED } from '../../../src/native/constants.ts';
import { EAGAIN, EBUSY, EINVAL, ENODATA } from '../../../src/native/errno.ts';
import { DirectWrites } from '../../../src/plugins/file/direct-writes.ts';
import type { Handle } from '../../../src/plugins/plugin.ts';
import { Files, KiB, MiB, residentPages } from './files.ts';

const SIZE = 8 * MiB;

/** Memory that O_DIRECT takes as it is, and memory that it does not. */
function filled(length: number, byte: number, isAligned: boolean): { buffer: Uint8Array; start: number } {
  const buffer = Buffer.allocUnsafeSlow(length + 4 * MiB).fill(byte);
  const start = native.prefer_huge_page(buffer, 0, buffer.length) + (isAligned ? 0 : 1);
  return { buffer, start };
}

interface Scene extends AsyncDisposable {
  readonly files: Files;
  readonly fd: number;
  readonly handle: Handle;
  readonly flush: () => Promise<void>;
}

/** Served with windows that no test here fills: what is in the cache stays there until it is looked at. */
async function scene(contents: Uint8Array = new Uint8Array(SIZE).fill(1)): Promise<Scene> {
  const files = await Files.create();
  writeFileSync(files.path(), contents);
  const fd = files.open('r+');
  await evict(fd);
  const plugin = await files.plugin({ cache: 'none', windowCount: 64, windowBytes: 64 * MiB });
  const handle = plugin.open();
  return {
    files,
    fd,
    handle,
    flush: async () => handle.flush(),
    async [Symbol.asyncDispose]() {
      await handle.close();
      await plugin.close();
      await files[Symbol.asyncDispose]();
    },
  };
}

async function evict(fd: number): Promise<void> {
  await call((done) => native.fdatasync(fd, done));
  await call((done) => native.posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED, done));
  expect(await residentPages(fd)).toBe(0);
}

async function contentsOf(files: Files): Promise<Buffer> {
  const file = await open(files.path());
  try {
    return await file.readFile();
  } finally {
    await file.close();
  }
}

describe.each([true, false])('a long write from memory that is aligned: %s', (isAligned) => {
  test.each([256 * KiB, MiB, 3 * MiB + 4 * KiB])('of %d bytes is never in the page cache', async (length) => {
    await using at = await scene();
    const { buffer, start } = filled(length, 7, isAligned);
    await at.handle.write(buffer, start, length, MiB, false);
    expect(await residentPages(at.fd)).toBe(0);
    const expected = Buffer.alloc(SIZE, 1).fill(7, MiB, MiB + length);
    expect((await contentsOf(at.files)).equals(expected)).toBe(true);
  });
});

describe('through the page cache goes', () => {
  async function write(at: Scene, offset: number, length: number): Promise<number> {
    const { buffer, start } = filled(length, 9, true);
    await at.handle.write(buffer, start, length, offset, false);
    return residentPages(at.fd, offset, length);
  }

  test('a shorter write', async () => {
    await using at = await scene();
    expect(await write(at, 0, 256 * KiB - 4096)).toBe(63);
  });

  test.each([
    [512, MiB],
    [4096, MiB + 512],
  ])('a write at %d of %d bytes', async (offset, length) => {
    await using at = await scene();
    expect(await write(at, offset, length)).toBeGreaterThan(256);
  });

  test('a write over what is in it, dirty or not', async () => {
    await using at = await scene();
    const { buffer, start } = filled(4096, 8, true);
    expect(at.handle.writeNow?.(buffer, start, 4096, 2 * MiB)).toBe(true);
    expect(await write(at, 2 * MiB, MiB)).toBe(256);
    await at.flush();
    const expected = Buffer.alloc(SIZE, 1).fill(9, 2 * MiB, 3 * MiB);
    expect((await contentsOf(at.files)).equals(expected)).toBe(true);
  });

  test('a write to a hole, and the next sixteen that could be direct', async () => {
    await using at = await scene();
    await at.handle.trim(0, SIZE, false);
    await evict(at.fd);
    for (let count = 0; count < 17; count += 1) {
      expect(await write(at, 0, MiB)).toBe(256);
      await evict(at.fd);
    }
    expect(await write(at, 0, MiB)).toBe(0);
  });

  test('nothing, when the file was truncated: the write fails', async () => {
    await using at = await scene();
    const file = await open(at.files.path(), 'r+');
    await file.truncate(MiB);
    await file.close();
    await expect(write(at, MiB, MiB)).rejects.toMatchObject({ operation: 'pwrite' });
    expect((await contentsOf(at.files)).length).toBe(MiB);
  });
});

test('a write of nothing inside a page brings nothing in', async () => {
  await using at = await scene();
  await at.handle.write(new Uint8Array(0), 0, 0, MiB + 1, false);
  expect(await residentPages(at.fd)).toBe(0);
});

test('a write inside a page brings in the pages at its edges, and those between', async () => {
  await using at = await scene();
  await at.handle.write(new Uint8Array(5120), 0, 5120, MiB + 4000, false);
  expect(await residentPages(at.fd)).toBe(3);
});

test('FUA and FLUSH succeed after direct writes', async () => {
  await using at = await scene();
  const { buffer, start } = filled(MiB, 5, true);
  await at.handle.write(buffer, start, MiB, 0, true);
  await at.flush();
  expect((await contentsOf(at.files)).subarray(0, MiB).every((byte) => byte === 5)).toBe(true);
});

test('direct and buffered writes of the same pages, many at a time, damage nothing', {
  timeout: 60_000,
}, async () => {
  await using at = await scene();
  const range = fc.record({
    page: fc.nat(1023),
    pages: fc.constantFrom(1, 2, 64, 128, 256, 300),
    byte: fc.nat(255),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(range, { minLength: 8, maxLength: 40 }), async (ranges) => {
      await Promise.all(
        ranges.map(async ({ page, pages, byte }, index) => {
          const offset = page * 4096;
          const length = pages * 4096;
          const { buffer, start } = filled(length, byte, index % 4 > 0);
          const now = at.handle.writeNow?.(buffer, start, length, offset) ?? false;
          await (now === false ? at.handle.write(buffer, start, length, offset, false) : now);
        }),
      );
      // The kernel reports a page that it could not drop as an error of the file.
      await at.flush();
      const contents = await contentsOf(at.files);
      for (const { page, pages } of ranges) {
        const written = new Set(
          ranges
            .filter((each) => each.page < page + pages && page < each.page + each.pages)
            .map(({ byte }) => byte),
        );
        for (let position = page * 4096; position < (page + pages) * 4096; position += 4096) {
          expect(written).toContain(contents[position]);
          expect(contents[position + 4095]).toBe(contents[position]);
        }
      }
    }),
    { numRuns: 60 },
  );
});

const settled = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

describe('while a direct write is under way', () => {
  class SlowFile implements Pick<DirectFile, 'write'> {
    readonly started: Done[] = [];

    write(
      _buffer: Uint8Array,
      _start: number,
      _length: number,
      _offset: number,
      _inside: boolean,
      done: Done,
    ): void {
      this.started.push(done);
    }

    finish(result: number): void {
      this.started.shift()?.(result);
    }
  }

  interface Rig {
    readonly file: SlowFile;
    readonly writes: DirectWrites;
    /** Where the cache has something; empty at first. */
    readonly cached: Set<number>;
    direct(offset: number): Promise<boolean>;
  }

  function rig(isRegular = true): Rig {
    const file = new SlowFile();
    const cached = new Set<number>();
    const writes = new DirectWrites(file as unknown as DirectFile, isRegular, (offset) => cached.has(offset));
    return { file, writes, cached, direct: (offset) => writes.write(new Uint8Array(MiB), 0, MiB, offset) };
  }

  test('one through the cache of the same pages waits for it, another does not', async () => {
    const { file, writes, direct } = rig();
    const isDirect = direct(0);
    const order: string[] = [];
    const overlapping = writes.buffered(MiB - 1, 2, async () => order.push('overlapping'));
    const beside = writes.buffered(MiB, 4096, async () => order.push('beside'));
    expect(writes.isUnderWay).toBe(true);
    await beside;
    expect(order).toEqual(['beside']);
    file.finish(MiB);
    expect(await isDirect).toBe(true);
    await overlapping;
    expect(order).toEqual(['beside', 'overlapping']);
    expect(writes.isUnderWay).toBe(false);
  });

  test.each([
    ['of a block device waits for it, which may lie in the same folio', false],
    ['of a file does not', true],
  ])('one through the cache within 2 MiB %s', async (_name, isRegular) => {
    const { file, writes, direct } = rig(isRegular);
    const first = direct(2 * MiB);
    let isWritten = false;
    const beside = writes.buffered(4 * MiB - 4096, 4096, async () => {
      isWritten = true;
      return 4096;
    });
    await writes.buffered(4 * MiB, 4096, async () => 4096);
    expect(isWritten).toBe(isRegular);
    file.finish(MiB);
    await Promise.all([first, beside]);
    expect(isWritten).toBe(true);
  });

  test('another one of the same pages waits for it and is direct, too, unless a buffered one is under way', async () => {
    const { file, writes, direct } = rig();
    const first = direct(0);
    const overlapping = direct(MiB - 4096);
    const beside = direct(2 * MiB);
    await settled();
    expect(file.started.length).toBe(2);
    file.finish(MiB);
    file.finish(MiB);
    expect(await Promise.all([first, beside])).toEqual([true, true]);
    await settled();
    expect(file.started.length).toBe(1);
    file.finish(MiB);
    expect(await overlapping).toBe(true);
    let end = (): void => {};
    const buffered = writes.buffered(
      0,
      4096,
      () =>
        new Promise((resolve) => {
          end = () => resolve(4096);
        }),
    );
    expect(await direct(0)).toBe(false);
    end();
    await buffered;
    const again = direct(0);
    file.finish(MiB);
    expect(await again).toBe(true);
  });

  test('one that waits is not overtaken by those of its pages that came later', async () => {
    const { file, writes, direct } = rig();
    const order: string[] = [];
    const told = async (name: string, write: Promise<unknown>): Promise<void> => {
      await write;
      order.push(name);
    };
    const long = new Uint8Array(4 * MiB);
    const all = [
      told('first', direct(0)),
      told('long', writes.write(long, 0, 4 * MiB, 0)),
      told('beside the first', direct(MiB)),
      told(
        'cached',
        writes.buffered(2 * MiB, 4096, async () => 4096),
      ),
      told('elsewhere', direct(8 * MiB)),
    ];
    await settled();
    expect(file.started.length).toBe(2);
    file.finish(MiB);
    file.finish(MiB);
    await settled();
    expect(order).toEqual(['first', 'elsewhere']);
    expect(file.started.length).toBe(1);
    file.finish(4 * MiB);
    await settled();
    expect(order).toEqual(['first', 'elsewhere', 'long', 'cached']);
    file.finish(MiB);
    await Promise.all(all);
    expect(writes.isUnderWay).toBe(false);
  });

  test('what is cached goes through the cache, and the next one past it', async () => {
    const { file, writes, cached, direct } = rig();
    cached.add(0);
    expect(writes.wants(0, MiB)).toBe(false);
    expect(await direct(0)).toBe(false);
    expect(file.started.length).toBe(0);
    expect(writes.wants(MiB, MiB)).toBe(true);
    // Brought in by somebody meanwhile.
    const second = direct(MiB);
    file.finish(-EBUSY);
    expect(await second).toBe(false);
    const third = direct(MiB);
    file.finish(MiB);
    expect(await third).toBe(true);
  });

  test('what had to wait is tried again after 16 writes, then 32, and 16 once it went well', async () => {
    const { file, direct } = rig();
    const triesAfter = async (): Promise<number> => {
      for (let count = 0; ; count += 1) {
        const write = direct(0);
        if (file.started.length > 0) return count;
        expect(await write).toBe(false);
      }
    };
    expect(await triesAfter()).toBe(0);
    file.finish(-EAGAIN);
    await settled();
    expect(await triesAfter()).toBe(16);
    file.finish(-ENODATA);
    await settled();
    expect(await triesAfter()).toBe(32);
    file.finish(MiB);
    await settled();
    expect(await triesAfter()).toBe(0);
    file.finish(-EAGAIN);
    await settled();
    expect(await triesAfter()).toBe(16);
    file.finish(-EINVAL);
    await settled();
    for (let count = 0; count < 2000; count += 1) expect(await direct(0)).toBe(false);
  });
});
