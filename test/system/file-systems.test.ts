import { stat } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import { describe, expect, test } from 'vitest';
import { run } from '../support/command.ts';
import {
  allocatedBytes,
  createFullImage,
  createImage,
  expectBytes,
  expectSameContent,
  fileExtents,
  noise,
} from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { CACHE_MODES, expectRefusal, startServer } from '../support/server.ts';
import { attachLoop, GiB, MiB, scratchFileSystem, TiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

/** Writes, zeroes and trims at aligned and odd places, and compares with a model in memory after each step. */
const EXERCISE = `
h = connect(setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
size = h.get_size()
model = bytearray(h.pread(size, 0)) if size <= 32 << 20 else None
assert model is not None
M = 1 << 20
def check():
    assert h.pread(size, 0) == model
def write(offset, length, byte, flags=0):
    h.pwrite(bytearray([byte]) * length, offset, flags)
    model[offset:offset + length] = bytes([byte]) * length
def zero(offset, length, flags=0):
    h.zero(length, offset, flags)
    model[offset:offset + length] = bytes(length)
def trim(offset, length):
    h.trim(length, offset)
    # Content is undefined after a trim: what is there now must stay.
    model[offset:offset + length] = h.pread(length, offset)
write(0, 3 * M, 1)
write(5 * M + 77, 2 * M, 2, nbd.CMD_FLAG_FUA)
check()
zero(M, M)
zero(5 * M + 512, 100003)
zero(6 * M, 65536, nbd.CMD_FLAG_NO_HOLE)
zero(12345, 17, nbd.CMD_FLAG_FUA)
check()
trim(2 * M, M)
trim(777, 5)
trim(5 * M + 1000, 100000)
check()
write(size - 1, 1, 9)
zero(size - 600, 300)
trim(size - 200, 100)
check()
h.flush()
check()
h.shutdown()
`;

const MAP = `
h = connect(setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
print(json.dumps(extents(h)))
h.shutdown()
`;

describe.each(['ext4', 'xfs', 'btrfs'] as const)('on %s', (type) => {
  test.each(CACHE_MODES)('an image is written, zeroed, trimmed and mapped with --cache %s', async (cache) => {
    await using fileSystem = await scratchFileSystem(type);
    const image = fileSystem.file('disk.img');
    await createImage(image, 16 * MiB + 513);
    await using server = await startServer(['file', image, '--cache', cache]);
    await python(server.uri, EXERCISE);
    // Until they agree: zeroed blocks that stay allocated count as data while their pages are in the cache,
    // and as a hole when --cache none has evicted them.
    await eventually('the map of the export is that of the file', async () => {
      const map: unknown = JSON.parse(await python(server.uri, MAP));
      const expected = (await fileExtents(image)).map(({ offset, length, hole }) => [
        offset,
        length,
        hole ? 3 : 0,
      ]);
      return isDeepStrictEqual(map, expected) ? true : undefined;
    });
    expect((await stat(image)).size).toBe(16 * MiB + 513);
  });

  test('a sparse file is copied in and out, and its holes stay holes', async () => {
    await using directory = await temporaryDirectory();
    await using fileSystem = await scratchFileSystem(type);
    const [source, image, copy] = [
      directory.file('source.img'),
      fileSystem.file('disk.img'),
      directory.file('copy.img'),
    ];
    await createImage(source, GiB / 2, [
      { offset: 0, length: MiB },
      { offset: 300 * MiB, length: 5 * MiB },
    ]);
    await createImage(image, GiB / 2);
    await using server = await startServer(['file', image, '--cache', 'none']);
    await run(['nbdcopy', '--connections=4', '--threads=4', '--flush', source, server.uri]);
    await run(['nbdcopy', '--connections=4', '--threads=4', server.uri, copy]);
    await expectSameContent(source, image);
    await expectSameContent(source, copy);
    expect(await allocatedBytes(image)).toBeLessThan(16 * MiB);
  });

  test('a trim gives the blocks back to the file system', async () => {
    await using fileSystem = await scratchFileSystem(type);
    const image = fileSystem.file('disk.img');
    await createFullImage(image, 64 * MiB);
    await using server = await startServer(['file', image]);
    await python(server.uri, 'h = connect(); h.trim(32 << 20, 16 << 20); h.flush(); h.shutdown()');
    expect(await allocatedBytes(image)).toBeLessThanOrEqual(33 * MiB);
  });
});

describe('a block device', () => {
  test.each(CACHE_MODES)('is written, zeroed and trimmed with --cache %s', async (cache) => {
    await using directory = await temporaryDirectory();
    const backing = directory.file('backing.img');
    await createFullImage(backing, 16 * MiB);
    await using loop = await attachLoop(backing);
    await using server = await startServer(['file', loop.path, '--cache', cache]);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${16 * MiB}\n`);
    await python(server.uri, EXERCISE);
  });

  test('is copied in and out over 4 connections', async () => {
    await using directory = await temporaryDirectory();
    const [source, backing, copy] = [
      directory.file('source.img'),
      directory.file('backing.img'),
      directory.file('copy.img'),
    ];
    await createImage(source, 64 * MiB, [{ offset: 0, length: 20 * MiB }]);
    await createFullImage(backing, 64 * MiB);
    await using loop = await attachLoop(backing);
    await using server = await startServer(['file', loop.path, '--cache', 'none']);
    await run(['nbdcopy', '--connections=4', '--threads=4', '--flush', source, server.uri]);
    await run(['nbdcopy', '--connections=4', '--threads=4', server.uri, copy]);
    await expectSameContent(source, copy);
    await server.stop();
    await run(['cmp', source, loop.path]);
  });

  test('gives the blocks of a trim and of zeroes back to what is below', async () => {
    await using directory = await temporaryDirectory();
    const backing = directory.file('backing.img');
    await createFullImage(backing, 64 * MiB);
    await using loop = await attachLoop(backing);
    await using server = await startServer(['file', loop.path]);
    await python(
      server.uri,
      `
h = connect()
h.trim(16 << 20, 0)
h.zero(16 << 20, 32 << 20)
h.flush()
assert h.pread(16 << 20, 32 << 20) == bytearray(16 << 20)
h.shutdown()
`,
    );
    expect(await allocatedBytes(backing)).toBeLessThanOrEqual(49 * MiB);
  });

  test('that is read-only is refused for writing and served for reading', async () => {
    await using directory = await temporaryDirectory();
    const backing = directory.file('backing.img');
    await createFullImage(backing, 4 * MiB);
    await using loop = await attachLoop(backing, '--read-only');
    const message = await expectRefusal(['file', loop.path, '-U', directory.file('s')]);
    expect(message).toContain(loop.path);
    await using server = await startServer(['file', loop.path, '--read-only', '--cache', 'none']);
    await python(
      server.uri,
      'h = connect(strict=0); fails(errno.EPERM, h.pwrite, bytearray(512), 0); h.pread(512, 0); h.shutdown()',
    );
  });
});

test('a sparse file of 1 TiB is served from end to end', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, TiB);
  await using server = await startServer(['file', image, '--cache', 'none']);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${TiB}\n`);
  await python(
    server.uri,
    `
h = connect(setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
h.pwrite(bytearray(b'last'), (1 << 40) - 4)
h.pwrite(bytearray(b'middle'), (1 << 39) + 1)
h.flush()
assert h.pread(4, (1 << 40) - 4) == b'last'
holes = [extent for extent in extents(h) if extent[2] == 3]
assert len(holes) == 2, holes
h.shutdown()
`,
  );
  expect(await allocatedBytes(image)).toBeLessThan(MiB);
});

describe('--create', () => {
  test.each([
    ['1G', GiB],
    ['1049089', MiB + 513],
    ['512K', MiB / 2],
  ])('makes a sparse image of %s', async (size, bytes) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('new.img');
    await using server = await startServer(['file', image, '--create', size]);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${bytes}\n`);
    expect((await stat(image)).size).toBe(bytes);
    expect(await allocatedBytes(image)).toBe(0);
  });

  test('serves an image that is already there as it is', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, MiB);
    await using server = await startServer(['file', image, '--create', '1M']);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
    await expectBytes(image, 0, noise(MiB, 0));
  });
});

test.each(CACHE_MODES)(
  'an image of 1 MiB and 513 bytes is served to its last byte with --cache %s',
  async (cache) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    const size = MiB + 513;
    await createFullImage(image, size);
    await using server = await startServer(['file', image, '--cache', cache]);
    await python(
      server.uri,
      `
h = connect(strict=0)
size = h.get_size()
assert size == (1 << 20) + 513
h.pread(size, 0)
h.pwrite(bytearray(b'!'), size - 1)
h.zero(100, size - 200)
h.trim(513, size - 513)
h.pwrite(bytearray(b'end'), size - 3)
fails(errno.ENOSPC, h.pwrite, bytearray(4), size - 3)
h.flush()
assert h.pread(3, size - 3) == b'end'
h.shutdown()
`,
    );
    expect((await stat(image)).size).toBe(size);
  },
);

test('a file system made by mkfs.ext4 in an image survives the trip through qemu-img', async () => {
  await using directory = await temporaryDirectory();
  const [image, copy] = [directory.file('disk.img'), directory.file('copy.img')];
  await createImage(image, 64 * MiB);
  await run(['mkfs.ext4', '-q', '-F', image]);
  await using server = await startServer(['file', image, '--read-only']);
  await run(['qemu-img', 'convert', '-f', 'raw', '-O', 'raw', server.uri, copy]);
  await run(['e2fsck', '-f', '-n', copy]);
  await expectSameContent(image, copy);
});
