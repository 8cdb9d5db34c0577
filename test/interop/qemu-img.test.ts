import { describe, expect, test } from 'vitest';
import { run } from '../support/command.ts';
import {
  allocatedBytes,
  createFullImage,
  createImage,
  expectSameContent,
  fileExtents,
} from '../support/image.ts';
import { CACHE_MODES, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

interface QemuMapEntry {
  readonly start: number;
  readonly length: number;
  readonly zero: boolean;
  readonly data: boolean;
}

const SIZE = 64 * MiB;
const DATA = [
  { offset: 0, length: 2 * MiB },
  { offset: 10 * MiB, length: 64 * 1024 },
  { offset: 40 * MiB, length: 5 * MiB },
];

describe.each(CACHE_MODES)('with --cache %s', (cache) => {
  test('qemu-img convert writes a raw image into an export', async () => {
    await using directory = await temporaryDirectory();
    const [source, target] = [directory.file('source.img'), directory.file('target.img')];
    await createImage(source, SIZE, DATA);
    await createFullImage(target, SIZE);
    await using server = await startServer(['file', target, '--cache', cache]);
    await run(['qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', '-m', '8', '-W', source, server.uri]);
    await expectSameContent(source, target);
    await run(['qemu-img', 'compare', '-f', 'raw', '-F', 'raw', source, server.uri]);
  });

  test('qemu-img convert makes a qcow2 image from an export and back', async () => {
    await using directory = await temporaryDirectory();
    const [source, qcow2, target] = ['source.img', 'disk.qcow2', 'target.img'].map((name) =>
      directory.file(name),
    );
    if (source === undefined || qcow2 === undefined || target === undefined) throw new Error('three names');
    await createImage(source, SIZE, DATA);
    await createImage(target, SIZE);
    await using from = await startServer(['file', source, '--cache', cache, '--read-only']);
    await run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', from.uri, qcow2]);
    // The holes were seen: qcow2 holds little more than the data.
    expect(await allocatedBytes(qcow2)).toBeLessThan(SIZE / 4);
    await run(['qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', qcow2, from.uri]);
    await using to = await startServer(['file', target, '--cache', cache]);
    await run(['qemu-img', 'convert', '-n', '-f', 'qcow2', '-O', 'raw', qcow2, to.uri]);
    await expectSameContent(source, target);
  });

  test('qemu-img serves a qcow2 image from inside an export', async () => {
    await using directory = await temporaryDirectory();
    const [source, target] = [directory.file('source.img'), directory.file('target.img')];
    await createImage(source, SIZE, DATA);
    await createImage(target, 2 * SIZE);
    await using server = await startServer(['file', target, '--cache', cache]);
    await run(['qemu-img', 'create', '-f', 'qcow2', server.uri, String(SIZE)]);
    await run(['qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'qcow2', source, server.uri]);
    await run(['qemu-img', 'check', '-f', 'qcow2', server.uri]);
    await run(['qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', source, server.uri]);
  });
});

test('qemu-img map shows the holes that lseek finds', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE, DATA);
  await using server = await startServer(['file', image]);
  const map = JSON.parse(
    await run(['qemu-img', 'map', '--output=json', '-f', 'raw', server.uri]),
  ) as QemuMapEntry[];
  expect(
    map.map(({ start, length, zero, data }) => ({ offset: start, length, hole: zero && !data })),
  ).toEqual(await fileExtents(image));
});

test('qemu-img info tells the size of the export', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE, DATA);
  await using server = await startServer(['file', image, '--export-name', 'a/b c']);
  const info = JSON.parse(await run(['qemu-img', 'info', '--output=json', server.uri])) as {
    readonly 'virtual-size': number;
    readonly format: string;
  };
  expect(info).toMatchObject({ 'virtual-size': SIZE, format: 'raw' });
});

test('qemu-img converts an image made by qemu-img create', async () => {
  await using directory = await temporaryDirectory();
  const [image, copy] = [directory.file('disk.img'), directory.file('copy.img')];
  await run(['qemu-img', 'create', '-f', 'raw', image, '32M']);
  await using server = await startServer(['file', image, '--cache', 'none']);
  await run(['qemu-img', 'convert', '-f', 'raw', '-O', 'raw', server.uri, copy]);
  await expectSameContent(image, copy);
  // qemu-img writes the first block of a new image to probe its alignment.
  expect(await allocatedBytes(copy)).toBeLessThanOrEqual(4096);
});

test('qemu-img reads an image of odd size, which it rounds up to a sector with zeros', async () => {
  await using directory = await temporaryDirectory();
  const [image, copy] = [directory.file('disk.img'), directory.file('copy.img')];
  const size = MiB + 513;
  await createFullImage(image, size);
  await using server = await startServer(['file', image, '--read-only']);
  await run(['qemu-img', 'convert', '-f', 'raw', '-O', 'raw', server.uri, copy]);
  await run(['cmp', '--bytes', String(size), image, copy]);
  // Whatever is behind the last byte of ours is qemu's own padding.
  await run(['cmp', '--bytes', String(511), '--ignore-initial', `${size}:0`, copy, '/dev/zero']);
});
