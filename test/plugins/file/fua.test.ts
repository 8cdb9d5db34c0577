/** The promise of FUA: its reply comes after an fdatasync that began when the data was written. */
import { afterEach, expect, test } from 'vitest';
import { type Done, native } from '../../../src/native/binding.ts';
import type { Handle } from '../../../src/plugins/plugin.ts';
import { createImage } from '../../support/image.ts';
import { Files } from './files.ts';

const SIZE = 1024 * 1024;
const { fdatasync } = native;

afterEach(() => {
  native.fdatasync = fdatasync;
});

const COMMANDS: [string, (handle: Handle, isFua: boolean) => void | Promise<void>][] = [
  ['WRITE', (handle, isFua) => handle.write(Buffer.alloc(512, 1), 0, 512, 4096, isFua)],
  ['WRITE_ZEROES', (handle, isFua) => handle.zero(8192, 4096, { mayPunch: true, isFast: false }, isFua)],
  ['TRIM', (handle, isFua) => handle.trim(16_384, 4096, isFua)],
];

test.each(COMMANDS)('a %s with FUA is answered only after its data is on stable storage', async (_, act) => {
  await using files = await Files.create();
  await createImage(files.path(), SIZE);
  const plugin = await files.plugin({});
  const handle = await plugin.open();
  const held: (() => void)[] = [];
  native.fdatasync = (fd: number, done: Done) => {
    held.push(() => fdatasync(fd, done));
  };
  await act(handle, false);
  expect(held, 'without FUA nothing waits for the disk').toHaveLength(0);
  let isAnswered = false;
  const answered = Promise.resolve(act(handle, true)).then(() => {
    isAnswered = true;
  });
  while (held.length === 0) await new Promise((resolve) => setImmediate(resolve));
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  expect(isAnswered).toBe(false);
  native.fdatasync = fdatasync;
  for (const sync of held) sync();
  await answered;
  await handle.close();
  await plugin.close();
});
