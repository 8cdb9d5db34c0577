/** The asserts around every call, and that our own plugins pass them. */
import { expect, test } from 'vitest';
import { BackendError } from '../../src/plugins/backend-error.ts';
import { withContract } from '../../src/plugins/contract.ts';
import { FilePlugin } from '../../src/plugins/file/file-plugin.ts';
import type { Handle, PluginInfo } from '../../src/plugins/plugin.ts';
import type { LinuxErrno } from '../../src/protocol/errno.ts';
import { FakeLog } from '../server/fake-log.ts';
import { FakePlugin } from '../server/fake-plugin.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const NO_HOLE = { mayPunch: false, isFast: false };
const bytes = new Uint8Array(8192);

async function guard(info: Partial<PluginInfo> = {}): Promise<{ plugin: FakePlugin; handle: Handle }> {
  const plugin = new FakePlugin('immediate', {
    size: 1024 * 1024,
    blockSize: { minimum: 512, preferred: 4096 },
    ...info,
  });
  return { plugin, handle: await withContract(plugin).open() };
}

test.each<[string, Partial<PluginInfo>, (handle: Handle) => unknown, string]>([
  ['past the end', {}, (handle) => handle.read(bytes, 0, 1024, 1024 * 1024 - 512), 'outside the export'],
  ['a negative offset', {}, (handle) => handle.read(bytes, 0, 512, -512), 'outside the export'],
  ['part of a byte', {}, (handle) => handle.trim(0.5, 512, false), 'outside the export'],
  ['an unaligned offset', {}, (handle) => handle.write(bytes, 0, 512, 100, false), 'no multiple of 512'],
  ['an unaligned length', {}, (handle) => handle.zero(0, 100, NO_HOLE, false), 'no multiple of 512'],
  [
    'more than the buffer has',
    {},
    (handle) => handle.read(bytes, 8000, 512, 0),
    'does not fit into a buffer of 8192 at 8000',
  ],
  [
    'a write to a read-only export',
    { isReadOnly: true },
    (handle) => handle.write(bytes, 0, 512, 0, false),
    'write is called, and the export does not offer it',
  ],
  [
    'a trim to a read-only export',
    { isReadOnly: true },
    (handle) => handle.trim(0, 512, false),
    'trim is called',
  ],
  ['a flush that is not offered', { canFlush: false }, (handle) => handle.flush(), 'flush is called'],
  [
    'a trim that is not offered',
    { canTrim: false },
    (handle) => handle.trim(0, 512, false),
    'trim is called',
  ],
  [
    'a zero that is not offered',
    { canZero: false },
    (handle) => handle.zero(0, 512, NO_HOLE, false),
    'zero is called',
  ],
  [
    'a fast zero that is not offered',
    { canFastZero: false },
    (handle) => handle.zero(0, 512, { mayPunch: true, isFast: true }, false),
    'fast zero is called',
  ],
  [
    'FUA that is not offered',
    { canFua: false },
    (handle) => handle.write(bytes, 0, 512, 0, true),
    'with FUA',
  ],
  ['a cache that is not offered', { canCache: false }, (handle) => handle.cache(0, 512), 'cache is called'],
])('refuses %s', async (_name, info, call, message) => {
  const { plugin, handle } = await guard(info);
  expect(() => call(handle)).toThrow(message);
  expect(plugin.handle.calls).toEqual([]);
});

test('refuses extents that are none, empty or outside', async () => {
  const { plugin, handle } = await guard();
  for (const extents of [
    [],
    [{ length: 0 }],
    [{ length: 1024 * 1024 }, { length: 512 }],
    [{ length: 0.5 }],
  ]) {
    plugin.handle.extentsFound = extents.map(({ length }) => ({ length, isHole: false, isZero: false }));
    await expect(handle.extents(0, 512, false)).rejects.toThrow('extents at 0');
  }
});

test('refuses an error that is no errno', async () => {
  const inner = new FakePlugin('controlled');
  const handle = await withContract(inner).open();
  const flushed = handle.flush();
  inner.handle.pending[0]?.reject(new BackendError(5000 as LinuxErrno, 'flush'));
  await expect(flushed).rejects.toThrow('flush failed with 5000, which is no errno');
});

test('refuses a handle that is closed too early, twice, or used afterwards', async () => {
  const inner = new FakePlugin('controlled');
  const handle = await withContract(inner).open();
  const flushed = handle.flush();
  expect(() => handle.close()).toThrow('closed with 1 calls in flight');
  inner.handle.pending[0]?.resolve();
  await flushed;
  await handle.close();
  expect(() => handle.close()).toThrow('closed twice');
  expect(() => handle.read(bytes, 0, 512, 0)).toThrow('closed handle');
  expect(() => handle.flush()).toThrow('closed handle');
});

test('the file plugin keeps it', async () => {
  await using directory = await temporaryDirectory();
  const path = directory.file('disk.img');
  const options = {
    path,
    isReadOnly: false,
    cache: 'default',
    windowCount: 8,
    windowBytes: 1024 * 1024,
    keepsResident: false,
    hasLock: false,
    createSize: 100_001,
    fadvise: 'normal',
    onLoss: () => {},
  } as const;
  const plugin = withContract(await FilePlugin.open(options, new FakeLog()));
  const handle = await plugin.open();
  const data = new Uint8Array(5000).fill(9);
  await handle.write(data, 0, 5000, 95_001, true);
  // A whole page: for a part of one, which is in no cache here, it could have to wait.
  expect(handle.writeNow?.(data, 0, 4096, 0)).toBe(true);
  await handle.flush();
  await handle.zero(96_000, 1000, { mayPunch: true, isFast: false }, true);
  await handle.trim(4096, 4096, false);
  const found = new Uint8Array(5000);
  await handle.read(found, 0, 5000, 95_001);
  expect([found[0], found[998], found[999], found[1998], found[1999], found[4999]]).toEqual([
    9, 9, 0, 0, 9, 9,
  ]);
  expect(handle.readNow?.(found, 0, 100, 0)).toBe(true);
  await handle.cache(0, 4096);
  const extents = await handle.extents(0, 100_001, false);
  expect(extents.reduce((sum, { length }) => sum + length, 0)).toBe(100_001);
  await handle.close();
  await plugin.close();
});
