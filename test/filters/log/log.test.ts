/** One line for each request. */
import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { EIO } from '../../../src/native/errno.ts';
import { BackendError } from '../../../src/plugins/backend-error.ts';
import type { Plugin } from '../../../src/plugins/plugin.ts';
import { FakeLog } from '../../server/fake-log.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';
import { BufferPlugin } from '../buffer-plugin.ts';
import { filtered } from '../stack.ts';

async function useAll(inner: BufferPlugin, plugin: Plugin): Promise<void> {
  const [first, second] = [await plugin.open(), await plugin.open()];
  await first.write(Buffer.alloc(10), 0, 10, 20, true);
  await second.read(Buffer.alloc(10), 0, 10, 30);
  await first.flush();
  await first.trim(1, 2, false);
  await first.zero(3, 4, { mayPunch: true, isFast: false }, true);
  await first.cache(5, 6);
  await first.extents(7, 8, true);
  inner.failure = new BackendError(EIO, 'test');
  await expect((async () => first.read(Buffer.alloc(1), 0, 1, 0))()).rejects.toThrow();
  inner.failure = new TypeError('broken');
  await expect((async () => first.flush())()).rejects.toThrow('broken');
  await first.close();
  await second.close();
  await plugin.close();
}

const EXPECTED = [
  { handle: 1, command: 'write', offset: 20, length: 10, isFua: true, result: 'ok' },
  { handle: 2, command: 'read', offset: 30, length: 10, isFua: false, result: 'ok' },
  { handle: 1, command: 'flush', offset: 0, length: 0, isFua: false, result: 'ok' },
  { handle: 1, command: 'trim', offset: 1, length: 2, isFua: false, result: 'ok' },
  { handle: 1, command: 'zero', offset: 3, length: 4, isFua: true, result: 'ok' },
  { handle: 1, command: 'cache', offset: 5, length: 6, isFua: false, result: 'ok' },
  { handle: 1, command: 'extents', offset: 7, length: 8, isFua: false, result: 'ok' },
  { handle: 1, command: 'read', offset: 0, length: 1, isFua: false, result: 'EIO' },
  { handle: 1, command: 'flush', offset: 0, length: 0, isFua: false, result: 'TypeError: broken' },
].map((fields) => ({ ...fields, milliseconds: expect.any(Number) }));

test("goes to the server's log", async () => {
  const log = new FakeLog();
  const inner = new BufferPlugin(Buffer.alloc(100));
  await useAll(inner, await filtered(inner, ['log'], { log }));
  expect(log.lines.map(({ fields }) => fields)).toEqual(EXPECTED);
  expect(new Set(log.lines.map(({ level, message }) => `${level} ${message}`))).toEqual(
    new Set(['info Request']),
  );
});

test('goes to a file, behind what is in it already', async () => {
  await using directory = await temporaryDirectory();
  const path = directory.file('requests.log');
  for (const times of [1, 2]) {
    const inner = new BufferPlugin(Buffer.alloc(100));
    await useAll(inner, await filtered(inner, [`log:file=${path}`]));
    const lines = (await readFile(path, 'utf8')).trimEnd().split('\n');
    expect(lines).toHaveLength(9 * times);
    expect(lines.slice(-9).map((line) => JSON.parse(line) as object)).toEqual(
      EXPECTED.map((fields) => expect.objectContaining({ ...fields, level: 30, msg: 'Request' })),
    );
  }
});

test('a file that cannot be written is refused', async () => {
  const inner = new BufferPlugin(Buffer.alloc(100));
  await expect(filtered(inner, ['log:file=/nonexistent/log'])).rejects.toThrow(
    'Filter "log" cannot write "/nonexistent/log": ENOENT',
  );
  expect(inner.abandonCount).toBe(1);
});

test('a full disk is told once, and requests go on', async () => {
  const log = new FakeLog();
  const inner = new BufferPlugin(Buffer.alloc(100));
  await useAll(inner, await filtered(inner, ['log:file=/dev/full'], { log }));
  expect(log.lines.filter(({ level }) => level === 'error')).toHaveLength(1);
});
