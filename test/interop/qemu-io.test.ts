import { describe, expect, test } from 'vitest';
import { attempt, run } from '../support/command.ts';
import { allocatedBytes, createFullImage, createImage, expectBytes, readRange } from '../support/image.ts';
import { CACHE_MODES, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const SIZE = 32 * MiB;

/** Runs commands in one qemu-io session and fails on any mismatch: qemu-io reports those in its output only. */
async function qemuIo(uri: string, ...commands: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await attempt([
    'qemu-io',
    '-f',
    'raw',
    // Without this qemu turns a discard into nothing at all.
    '-d',
    'unmap',
    ...commands.flatMap((command) => ['-c', command]),
    uri,
  ]);
  const output = stdout + stderr;
  expect(code, output).toBe(0);
  expect(output).not.toMatch(/failed|error|mismatch/i);
  return output;
}

describe.each(CACHE_MODES)('with --cache %s', (cache) => {
  test('qemu-io reads the pattern that it wrote, at aligned and at odd offsets', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, SIZE);
    await using server = await startServer(['file', image, '--cache', cache]);
    await qemuIo(
      server.uri,
      'write -P 0xa1 0 64k',
      'write -P 0xb2 1M 4M',
      'write -P 0xc3 9000001 12345',
      'read -P 0xa1 0 64k',
      'read -P 0 64k 960k',
      'read -P 0xb2 1M 4M',
      'read -P 0xc3 9000001 12345',
      'read -P 0 9012346 1000',
      'read -P 0 9000000 1',
      'flush',
    );
    await expectBytes(image, 9_000_001, Buffer.alloc(12_345, 0xc3));
  });

  test('qemu-io write -z zeroes and keeps the blocks, write -z -u punches them', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, SIZE);
    await using server = await startServer(['file', image, '--cache', cache]);
    await qemuIo(server.uri, 'write -z 4M 8M', 'read -P 0 4M 8M', 'flush');
    expect(await allocatedBytes(image)).toBeGreaterThanOrEqual(SIZE);
    await qemuIo(server.uri, 'write -z -u 4M 8M', 'read -P 0 4M 8M', 'flush');
    expect(await allocatedBytes(image)).toBeLessThanOrEqual(SIZE - 7 * MiB);
    await expectBytes(image, 4 * MiB, Buffer.alloc(8 * MiB));
  });

  test('qemu-io write -z at odd borders leaves the neighbours alone', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, SIZE);
    await using server = await startServer(['file', image, '--cache', cache]);
    await qemuIo(
      server.uri,
      'write -P 0x55 0 1M',
      'write -z -u 1001 200003',
      'read -P 0x55 0 1001',
      'read -P 0 1001 200003',
      'read -P 0x55 201004 847572',
      'write -z 300007 5',
      'read -P 0x55 300000 7',
      'read -P 0 300007 5',
      'read -P 0x55 300012 100',
    );
  });

  test('qemu-io write -f reaches the file with FUA', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, SIZE);
    await using server = await startServer(['file', image, '--cache', cache]);
    await qemuIo(
      server.uri,
      'write -f -P 0x77 12k 4k',
      'write -f -z 64k 64k',
      'write -f -z -u 128k 64k',
      'read -P 0x77 12k 4k',
    );
    await expectBytes(image, 12 * 1024, Buffer.alloc(4096, 0x77));
  });

  test('qemu-io discard frees the blocks of the image', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, SIZE);
    await using server = await startServer(['file', image, '--cache', cache]);
    await qemuIo(server.uri, 'discard 0 16M', 'flush');
    expect(await allocatedBytes(image)).toBeLessThanOrEqual(SIZE / 2 + MiB);
    await qemuIo(server.uri, 'read -P 0 0 16M');
  });

  test('qemu-io has many asynchronous writes and reads in flight', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, SIZE);
    await using server = await startServer(['file', image, '--cache', cache]);
    const pieces = Array.from({ length: 64 }, (_, index) => ({
      pattern: index + 1,
      offset: index * 256 * 1024,
    }));
    await qemuIo(
      server.uri,
      ...pieces.map(({ pattern, offset }) => `aio_write -q -P ${pattern} ${offset} 256k`),
      'aio_flush',
      ...pieces.map(({ pattern, offset }) => `aio_read -q -P ${pattern} ${offset} 256k`),
      'aio_flush',
    );
  });
});

test('qemu-io cannot open a read-only export for writing', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, SIZE);
  const before = await readRange(image, { offset: 0, length: 4096 });
  await using server = await startServer(['file', image, '--read-only']);
  const { stderr, code } = await attempt(['qemu-io', '-f', 'raw', '-c', 'write 0 4k', server.uri]);
  expect(code).not.toBe(0);
  expect(stderr).toMatch(/read.only|Permission denied/i);
  await run(['qemu-io', '-r', '-f', 'raw', '-c', 'read 0 4k', server.uri]);
  await expectBytes(image, 0, before);
});
