/** Writes past the page cache beside others on a block device, which nothing in the kernel keeps apart. */
import { closeSync, openSync, truncateSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { call } from '../../src/native/call.ts';
import { POSIX_FADV_DONTNEED } from '../../src/native/constants.ts';
import { evict, Files, residentPages } from '../plugins/file/files.ts';
import { attachLoop, MiB, makeFileSystem, mountDevice } from '../support/storage.ts';

test('small writes into the midst of direct ones do not make the kernel report the device as damaged', async () => {
  await using files = await Files.create();
  writeFileSync(files.path('backing'), new Uint8Array(8 * MiB));
  await using device = await attachLoop(files.path('backing'));
  const plugin = await files.plugin({ path: device.path, cache: 'none' });
  const handle = plugin.open();
  const memory = Buffer.allocUnsafeSlow(8 * MiB).fill(3);
  const start = native.prefer_huge_page(memory, 0, memory.length);
  const fd = files.open('r+', 'backing');
  expect(fd).toBeGreaterThan(0);
  for (let round = 0; round < 60; round += 1) {
    const direct = handle.write(memory, start, 2 * MiB, 0, false);
    const shorts: (void | Promise<void>)[] = [];
    // First the direct write has to find nothing in the cache.
    const begin = performance.now() + 0.1 + (round % 10) / 20;
    while (performance.now() < begin);
    for (let offset = 0; performance.now() < begin + 1; offset = (offset + 64 * 1024) % (2 * MiB)) {
      const now = handle.writeNow?.(memory, start, 4096, offset) ?? false;
      shorts.push(now === false ? handle.write(memory, start, 4096, offset, false) : undefined);
    }
    await Promise.all([direct, ...shorts]);
    await handle.flush();
    await call((done) => native.fdatasync(fd, done));
    await call((done) => native.posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED, done));
  }
  await handle.close();
  await plugin.close();
});

test('where the file system goes through the page cache without a word, nothing is left in it all the same', async () => {
  await using files = await Files.create();
  writeFileSync(files.path('backing'), '');
  truncateSync(files.path('backing'), 256 * MiB);
  await makeFileSystem('ext4', files.path('backing'));
  await using device = await attachLoop(files.path('backing'));
  await using mount = await mountDevice(device.path, files.path('mount'), ['-o', 'data=journal']);
  const path = `${mount.path}/image`;
  writeFileSync(path, new Uint8Array(96 * MiB).fill(1));
  const fd = openSync(path, 'r+');
  try {
    await evict(fd);
    await new Promise((resolve) => setTimeout(resolve, 1100));
    const plugin = await files.plugin({ path, cache: 'none' });
    const handle = plugin.open();
    const buffer = Buffer.alloc(MiB);
    for (let offset = 0; offset < 64 * MiB; offset += MiB) await handle.read(buffer, 0, MiB, offset);
    buffer.fill(7);
    for (let offset = 80 * MiB; offset < 88 * MiB; offset += MiB)
      await handle.write(buffer, 0, MiB, offset, false);
    await handle.flush();
    await handle.close();
    await plugin.close();
    expect(await residentPages(fd)).toBe(0);
  } finally {
    closeSync(fd);
  }
});
