/** Overlays as files: kept and thrown away, refused, abandoned. */
import { copyFile, mkdir, readdir, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { encodeHeader, geometryOf, HEADER_BYTES } from '../../../src/filters/cow/layout.ts';
import { FilterError } from '../../../src/filters/filter-error.ts';
import { ImageLockedError } from '../../../src/plugins/file/image-lock.ts';
import type { Plugin } from '../../../src/plugins/plugin.ts';
import { run } from '../../support/command.ts';
import { noise } from '../../support/image.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../../support/temporary-directory.ts';
import { BufferPlugin } from '../buffer-plugin.ts';
import { readFrom, writeTo } from '../model.ts';
import { filtered } from '../stack.ts';

const KIB = 1024;
const SIZE = 300 * KIB + 77;

afterEach(() => {
  vi.unstubAllEnvs();
});

function base(size = SIZE, seed = 1): BufferPlugin {
  return new BufferPlugin(noise(size, seed), 1, { isReadOnly: true });
}

async function write(plugin: Plugin, offset: number, data: Buffer): Promise<void> {
  const handle = await plugin.open();
  await writeTo(handle, offset, data, false);
  await handle.close();
}

async function contents(plugin: Plugin): Promise<Buffer> {
  const handle = await plugin.open();
  const bytes = await readFrom(handle, 0, plugin.info.size);
  await handle.close();
  return bytes;
}

/** An overlay at `path` with eleven bytes at 100,000. */
async function makeOverlay(directory: TemporaryDirectory, name = 'overlay'): Promise<string> {
  const path = directory.file(name);
  const plugin = await filtered(base(), [`cow:overlay=${path}`]);
  await write(plugin, 100_000, Buffer.from('hello world'));
  await plugin.close();
  return path;
}

describe('a kept overlay', () => {
  test('is there again the next time, without a flush before the end', async () => {
    await using directory = await temporaryDirectory();
    const path = await makeOverlay(directory);
    const expected = Buffer.from(base().bytes);
    expected.write('hello world', 100_000);
    for (const isReadOnly of [false, true]) {
      const plugin = await filtered(base(), [`cow:overlay=${path}`], { isReadOnly });
      expect(plugin.info.isReadOnly).toBe(isReadOnly);
      expect((await contents(plugin)).equals(expected)).toBe(true);
      await plugin.close();
    }
  });

  test('holds the blocks that were written, and holes elsewhere', async () => {
    await using directory = await temporaryDirectory();
    const { blocks, size } = await stat(await makeOverlay(directory));
    expect(size).toBe(geometryOf(SIZE).fileBytes);
    // The header, the map and one block, and what the file system needs to find them.
    expect(blocks * 512).toBeLessThanOrEqual((4 + 4 + 64 + 16) * KIB);
  });

  test('tells of each byte how deep it lies', async () => {
    const inner = base();
    inner.bytes.fill(0, 0, 64 * KIB);
    const plugin = await filtered(inner, ['cow']);
    await write(plugin, 200_000, Buffer.from('x'));
    const handle = await plugin.open();
    const depths = new Map<number, number>();
    for (let offset = 0; offset < SIZE; ) {
      for (const { length, status } of (await handle.contextExtents?.(
        'qemu:allocation-depth',
        offset,
        SIZE - offset,
        false,
      )) ?? []) {
        for (const end = offset + length; offset < end; offset += 1)
          depths.set(status, (depths.get(status) ?? 0) + 1);
      }
    }
    await handle.close();
    await plugin.close();
    const zeros = inner.bytes.filter((byte, index) => byte === 0 && Math.floor(index / 65_536) !== 3).length;
    expect(Object.fromEntries(depths)).toEqual({ 0: zeros, 1: 64 * KIB, 2: SIZE - zeros - 64 * KIB });
  });

  test('is locked while it is served', async () => {
    await using directory = await temporaryDirectory();
    const path = await makeOverlay(directory);
    const plugin = await filtered(base(), [`cow:overlay=${path}`]);
    await expect(filtered(base(), [`cow:overlay=${path}`])).rejects.toThrow(ImageLockedError);
    await plugin.close();
  });

  test('may be read by several at a time', async () => {
    await using directory = await temporaryDirectory();
    const path = await makeOverlay(directory);
    const plugins = await Promise.all(
      [1, 2].map(() => filtered(base(), [`cow:overlay=${path}`], { isReadOnly: true })),
    );
    for (const plugin of plugins) await plugin.close();
  });

  test('that is new is gone again when nothing is served after all, an old one is not', async () => {
    await using directory = await temporaryDirectory();
    const path = await makeOverlay(directory);
    const before = await readFile(path);
    for (const name of ['overlay', 'new']) {
      const plugin = await filtered(base(), [`cow:overlay=${directory.file(name)}`]);
      await plugin.abandon?.();
    }
    expect(await readdir(directory.path)).toEqual(['overlay']);
    expect((await readFile(path)).equals(before)).toBe(true);
  });

  test('has one byte, or none', async () => {
    await using directory = await temporaryDirectory();
    for (const size of [0, 1]) {
      const path = directory.file(`overlay-${size}`);
      for (const _ of [1, 2]) {
        const plugin = await filtered(base(size), [`cow:overlay=${path}`]);
        if (size > 0) await write(plugin, 0, Buffer.from('!'));
        expect(plugin.info.size).toBe(size);
        await plugin.close();
      }
    }
  });
});

describe('an overlay is refused', () => {
  async function refusal(path: string, inner = base(), isReadOnly = false): Promise<string> {
    return filtered(inner, [`cow:overlay=${path}`], { isReadOnly }).then(
      () => 'served',
      (error: unknown) => (error instanceof FilterError ? error.message : `bug: ${String(error)}`),
    );
  }

  test('when it belongs to another base', async () => {
    await using directory = await temporaryDirectory();
    const path = await makeOverlay(directory);
    expect(await refusal(path, base(SIZE + 1))).toBe(
      `Filter "cow": "${path}" belongs to a base of ${SIZE} bytes, not to this one of ${SIZE + 1}`,
    );
    expect(await refusal(path, base(SIZE, 2))).toMatch(
      /belongs to another base, or this one has changed since$/,
    );
    const changed = base();
    changed.bytes.writeUInt8(changed.bytes.readUInt8(1080) ^ 1, 1080);
    expect(await refusal(path, changed)).toMatch(/this one has changed since$/);
    expect(await refusal(path)).toBe('served');
  });

  test('when it is something else', async () => {
    await using directory = await temporaryDirectory();
    const path = directory.file('precious');
    for (const text of ['', 'precious', 'x'.repeat(100_000)]) {
      await writeFile(path, text);
      expect(await refusal(path)).toMatch(/"[^"]+precious" is no overlay of nbd-serve; give another path/);
      expect(await readFile(path, 'utf8')).toBe(text);
    }
    await mkdir(directory.file('folder'));
    expect(await refusal(directory.file('folder'))).toMatch(/is no regular file/);
    await run(['mkfifo', directory.file('fifo')]);
    expect(await refusal(directory.file('fifo'))).toMatch(/is no regular file/);
    expect(await refusal(directory.file('none/overlay'))).toMatch(/cannot create ".*none\/overlay": ENOENT$/);
    expect(await refusal(directory.file('none'), base(), true)).toMatch(/and --read-only makes none$/);
    expect((await readdir(directory.path)).sort()).toEqual(['fifo', 'folder', 'precious']);
  });

  test('when any bit of its header is wrong', async () => {
    await using directory = await temporaryDirectory();
    const path = await makeOverlay(directory);
    const damaged = directory.file('damaged');
    await copyFile(path, damaged);
    const header = (await readFile(path)).subarray(0, HEADER_BYTES);
    expect(header.equals(encodeHeader(geometryOf(SIZE), header.subarray(48, 80)))).toBe(true);
    const inner = base();
    for (let position = 0; position < HEADER_BYTES; position += 1) {
      const bytes = Buffer.from(header);
      bytes.writeUInt8(bytes.readUInt8(position) ^ (1 << (position % 8)), position);
      await writeFile(damaged, bytes, { flag: 'r+' });
      expect(await refusal(damaged, inner), `byte ${position}`).toMatch(/is no overlay|has a damaged header/);
    }
  });

  test('when it is of another version', async () => {
    await using directory = await temporaryDirectory();
    const path = await makeOverlay(directory);
    const header = (await readFile(path)).subarray(0, HEADER_BYTES);
    const { crc32 } = await import('node:zlib');
    for (const [position, value, reason] of [
      [16, 2, /is an overlay of version 2; this program knows version 1$/],
      [20, 4096, /has a header that this program does not understand$/],
      [40, 0, /has a header that this program does not understand$/],
    ] as const) {
      const bytes = Buffer.from(header);
      bytes.writeUInt32LE(value, position);
      bytes.writeUInt32LE(crc32(bytes.subarray(0, 80)), 80);
      await writeFile(path, bytes, { flag: 'r+' });
      expect(await refusal(path)).toMatch(reason);
    }
  });

  test('when it was cut off at any place, or has grown', async () => {
    await using directory = await temporaryDirectory();
    const path = await makeOverlay(directory);
    const cut = directory.file('cut');
    const { fileBytes } = geometryOf(SIZE);
    for (const length of [0, 1, 15, 16, 83, 84, 85, 4095, 4096, 8192, 65_536, fileBytes - 1, fileBytes + 1]) {
      await copyFile(path, cut);
      await truncate(cut, length);
      expect(await refusal(cut), `${length} bytes`).toMatch(
        /is no overlay|is damaged: it has \d+ bytes in place of/,
      );
    }
  });

  test('when its map has blocks that the export has not', async () => {
    await using directory = await temporaryDirectory();
    const path = await makeOverlay(directory);
    const blocks = geometryOf(SIZE).blockCount;
    for (const block of [blocks, blocks + 1, 32_767]) {
      const bytes = await readFile(path);
      const position = 4096 + Math.floor(block / 8);
      bytes.writeUInt8(bytes.readUInt8(position) | (1 << (block % 8)), position);
      const damaged = directory.file(`damaged-${block}`);
      await writeFile(damaged, bytes);
      expect(await refusal(damaged)).toMatch(/is damaged: its map has blocks past the end of the export$/);
    }
  });
});

test.each([
  ['default', true],
  ['none', false],
])('CACHE is offered where pages may stay: cache=%s', async (cache, canCache) => {
  const plugin = await filtered(base(), [`cow:cache=${cache}`]);
  expect(plugin.info.canCache).toBe(canCache);
  await plugin.close();
});

describe('a private overlay', () => {
  test('leaves nothing behind, and has no name meanwhile', async () => {
    await using directory = await temporaryDirectory();
    vi.stubEnv('TMPDIR', directory.path);
    const inner = base();
    const plugin = await filtered(inner, ['cow']);
    expect(await readdir(directory.path)).toEqual([]);
    await write(plugin, 5, Buffer.from('hello'));
    const expected = Buffer.from(inner.bytes);
    expected.write('hello', 5);
    expect((await contents(plugin)).equals(expected)).toBe(true);
    await plugin.close();
    expect((await contents(await filtered(inner, ['cow']))).equals(inner.bytes)).toBe(true);
  });

  test('needs a folder', async () => {
    await using directory = await temporaryDirectory();
    vi.stubEnv('TMPDIR', directory.file('none'));
    await expect(filtered(base(), ['cow'])).rejects.toThrow(
      `Filter "cow" cannot make a temporary overlay in "${directory.file('none')}": ENOENT`,
    );
    await rm(directory.file('none'), { force: true });
  });
});

test('blocks that are larger than those of the overlay are refused', async () => {
  const inner = new BufferPlugin(Buffer.alloc(1024 * KIB), 0, {
    blockSize: { minimum: 128 * KIB, preferred: 128 * KIB },
  });
  await expect(filtered(inner, ['cow'])).rejects.toThrow('blocks of 65536 bytes, below those of the export');
});
