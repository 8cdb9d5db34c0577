import { describe, expect, test } from 'vitest';
import { run } from '../support/command.ts';
import { allocatedBytes, createFullImage, createImage, expectSameContent, sha256 } from '../support/image.ts';
import { CACHE_MODES, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const ODD_SIZE = MiB + 513;

const SPARSE_SIZE = 128 * MiB;
const SPARSE_DATA = [
  { offset: 0, length: 4 * MiB },
  { offset: 17 * MiB + 4096, length: MiB },
  { offset: 100 * MiB, length: 8 * MiB },
  { offset: SPARSE_SIZE - 4096, length: 4096 },
];

describe.each(CACHE_MODES)('with --cache %s', (cache) => {
  test('nbdcopy over 4 connections writes an image that is equal', async () => {
    await using directory = await temporaryDirectory();
    const [source, target] = [directory.file('source.img'), directory.file('target.img')];
    await createFullImage(source, 96 * MiB);
    await createImage(target, 96 * MiB);
    await using server = await startServer(['file', target, '--cache', cache]);
    await run(['nbdcopy', '--connections=4', '--threads=4', '--requests=16', '--flush', source, server.uri]);
    await expectSameContent(source, target);
  });

  test('nbdcopy over 4 connections reads an image that is equal', async () => {
    await using directory = await temporaryDirectory();
    const [source, target] = [directory.file('source.img'), directory.file('target.img')];
    await createFullImage(source, 96 * MiB);
    await using server = await startServer(['file', source, '--cache', cache, '--read-only']);
    await run(['nbdcopy', '--connections=4', '--threads=4', '--requests=16', server.uri, target]);
    await expectSameContent(source, target);
  });

  test('nbdcopy reads a sparse image as a sparse image', async () => {
    await using directory = await temporaryDirectory();
    const [source, target] = [directory.file('source.img'), directory.file('target.img')];
    await createImage(source, SPARSE_SIZE, SPARSE_DATA);
    await using server = await startServer(['file', source, '--cache', cache]);
    await run(['nbdcopy', '--connections=4', '--threads=4', server.uri, target]);
    await expectSameContent(source, target);
    expect(await allocatedBytes(target)).toBeLessThan(SPARSE_SIZE / 4);
  });

  test('nbdcopy punches the holes of a sparse source into a full target', async () => {
    await using directory = await temporaryDirectory();
    const [source, target] = [directory.file('source.img'), directory.file('target.img')];
    await createImage(source, SPARSE_SIZE, SPARSE_DATA);
    await createFullImage(target, SPARSE_SIZE);
    await using server = await startServer(['file', target, '--cache', cache]);
    await run(['nbdcopy', '--connections=4', '--threads=4', '--flush', source, server.uri]);
    await expectSameContent(source, target);
    expect(await allocatedBytes(target)).toBeLessThan(SPARSE_SIZE / 4);
  });

  test('nbdcopy --allocated fills the holes of the target with allocated zeros', async () => {
    await using directory = await temporaryDirectory();
    const [source, target] = [directory.file('source.img'), directory.file('target.img')];
    await createImage(source, SPARSE_SIZE, SPARSE_DATA);
    await createImage(target, SPARSE_SIZE);
    await using server = await startServer(['file', target, '--cache', cache]);
    await run(['nbdcopy', '--connections=4', '--threads=4', '--allocated', '--flush', source, server.uri]);
    await expectSameContent(source, target);
    expect(await allocatedBytes(target)).toBeGreaterThanOrEqual(SPARSE_SIZE);
  });

  test('nbdcopy --sparse=0 --no-extents copies byte for byte', async () => {
    await using directory = await temporaryDirectory();
    const [source, target] = [directory.file('source.img'), directory.file('target.img')];
    await createImage(source, SPARSE_SIZE, SPARSE_DATA);
    await using server = await startServer(['file', source, '--cache', cache]);
    await run([
      'nbdcopy',
      '--sparse=0',
      '--no-extents',
      '--allocated',
      '--connections=4',
      '--threads=4',
      server.uri,
      target,
    ]);
    await expectSameContent(source, target);
  });

  test('nbdcopy copies an image of odd size in both directions without losing a byte', async () => {
    await using directory = await temporaryDirectory();
    const [source, target, back] = ['source', 'target', 'back'].map((name) => directory.file(name));
    if (source === undefined || target === undefined || back === undefined) throw new Error('three names');
    await createFullImage(source, ODD_SIZE);
    await createImage(target, ODD_SIZE);
    await using server = await startServer(['file', target, '--cache', cache]);
    await run(['nbdcopy', '--connections=4', '--threads=4', '--flush', source, server.uri]);
    await run(['nbdcopy', '--connections=4', '--threads=4', server.uri, back]);
    expect(await sha256(target)).toBe(await sha256(source));
    await expectSameContent(source, back);
  });

  test('nbdcopy works over TCP as over a Unix socket, in both directions', async () => {
    await using directory = await temporaryDirectory();
    const [source, target, back] = ['source', 'target', 'back'].map((name) => directory.file(name));
    if (source === undefined || target === undefined || back === undefined) throw new Error('three names');
    await createFullImage(source, 32 * MiB + 513);
    await createImage(target, 32 * MiB + 513);
    await using server = await startServer(['file', target, '--cache', cache, '--port', '0']);
    await run(['nbdcopy', '--connections=4', '--threads=4', '--flush', source, server.uri]);
    await run(['nbdcopy', '--connections=4', '--threads=4', server.uri, back]);
    await expectSameContent(source, target);
    await expectSameContent(source, back);
  });

  test('nbdcopy --synchronous with small and with huge requests copies an image that is equal', async () => {
    await using directory = await temporaryDirectory();
    const [source, target] = [directory.file('source.img'), directory.file('target.img')];
    await createFullImage(source, 64 * MiB);
    await using server = await startServer(['file', source, '--cache', cache]);
    await run(['nbdcopy', '--synchronous', '--request-size=4096', server.uri, target]);
    await expectSameContent(source, target);
    await run(['nbdcopy', '--request-size=33554432', '--connections=2', '--threads=2', server.uri, target]);
    await expectSameContent(source, target);
  });
});

test('nbdcopy copies from one server to another', async () => {
  await using directory = await temporaryDirectory();
  const [source, target] = [directory.file('source.img'), directory.file('target.img')];
  await createImage(source, SPARSE_SIZE, SPARSE_DATA);
  await createImage(target, SPARSE_SIZE);
  await using from = await startServer(['file', source, '--read-only', '--cache', 'none']);
  await using to = await startServer(['file', target, '--cache', 'none']);
  await run(['nbdcopy', '--connections=4', '--threads=4', '--flush', from.uri, to.uri]);
  await expectSameContent(source, target);
});
