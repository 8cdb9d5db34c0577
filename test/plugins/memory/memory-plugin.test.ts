/** The RAM disk as a plugin: what is done at once, what takes turns, and a second thread's way to it. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { BUSY, type Directory, HOLE } from '../../../src/plugins/memory/directory.ts';
import { NO_LOANS } from '../../../src/plugins/memory/loans.ts';
import { MemoryHandle } from '../../../src/plugins/memory/memory-handle.ts';
import { attachPlugin, MemoryPlugin } from '../../../src/plugins/memory/memory-plugin.ts';
import { SlotMemory } from '../../../src/plugins/memory/slot-memory.ts';
import { SparseArray } from '../../../src/plugins/memory/sparse-array.ts';
import type { Handle, Plugin } from '../../../src/plugins/plugin.ts';

const MiB = 1024 * 1024;
const GiB = 1024 * MiB;

function create(size = GiB, limit = GiB): MemoryPlugin {
  return MemoryPlugin.create({ size, limit, isReadOnly: false });
}

async function open(plugin: Plugin): Promise<Handle> {
  return plugin.open();
}

/** Turns of the event loop until it is done. */
async function turnsOf(work: void | Promise<void>): Promise<number> {
  let isDone = false;
  void Promise.resolve(work).then(() => {
    isDone = true;
  });
  let turns = 0;
  for (; !isDone; turns += 1) {
    await nextTurn();
  }
  return turns;
}

test('1 MiB is read and written at once', async () => {
  const handle = await open(create());
  const data = Buffer.alloc(MiB + 5, 3);
  expect(handle.writeNow?.(data, 5, MiB, 777)).toBe(true);
  const back = Buffer.alloc(MiB + 5);
  expect(handle.readNow?.(back, 5, MiB, 777)).toBe(true);
  expect(back.subarray(5).equals(data.subarray(5))).toBe(true);
  expect(handle.write(data, 0, MiB, 0, true)).toBeUndefined();
  expect(handle.read(back, 0, MiB, 0)).toBeUndefined();
  expect(handle.trim(0, MiB, false)).toBeUndefined();
  expect(handle.flush()).toBeUndefined();
  expect(handle.cache(0, MiB)).toBeUndefined();
});

test('32 MiB take turns of the event loop', async () => {
  const handle = await open(create());
  const data = Buffer.alloc(32 * MiB, 'not all the same');
  const back = Buffer.alloc(data.length);
  expect(handle.writeNow?.(data, 0, data.length, 1)).toBe(false);
  expect(await turnsOf(handle.write(data, 0, data.length, 1, false))).toBeGreaterThan(4);
  expect(await turnsOf(handle.read(back, 0, back.length, 1))).toBeGreaterThan(4);
  expect(back.equals(data)).toBe(true);
  await handle.zero(0, GiB, { mayPunch: true, isFast: true }, false);
  expect(await handle.extents(0, GiB, false)).toEqual([{ length: GiB, isHole: true, isZero: true }]);
});

test('the data of `sharing`, copied to another thread, is a way to the same disk', async () => {
  const plugin = create();
  const other = attachPlugin(structuredClone(plugin.sharing.data));
  expect(other.info).toEqual(plugin.info);
  const handle = await open(plugin);
  const otherHandle = await open(other);
  await handle.write(Buffer.from('hello'), 0, 5, 100, false);
  const back = Buffer.alloc(5);
  await otherHandle.read(back, 0, 5, 100);
  expect(back.toString()).toBe('hello');
  await otherHandle.trim(0, GiB, false);
  await handle.read(back, 0, 5, 100);
  expect(back).toEqual(Buffer.alloc(5));
  expect(plugin.sharing.module).toMatch(/memory-plugin\.[jt]s$/);
});

test('a page that another thread is changing is tried again in later turns', async () => {
  let tries = 0;
  const directory: Pick<Directory, 'pin'> = {
    pin: () => {
      tries += 1;
      return tries < 4 ? BUSY : HOLE;
    },
  };
  const handle = new MemoryHandle(new SparseArray(100, directory as Directory, new SlotMemory([]), NO_LOANS));
  const back = Buffer.alloc(10, 1);
  expect(handle.readNow(back, 0, 10, 0)).toBe(false);
  await handle.read(back, 0, 10, 0);
  expect(tries).toBe(4);
  expect(back).toEqual(Buffer.alloc(10));
});

test('disks of nothing and of one byte', async () => {
  expect(create(0).info.size).toBe(0);
  const handle = await open(create(1));
  await handle.write(Buffer.from([9]), 0, 1, 0, false);
  expect(await handle.extents(0, 1, true)).toEqual([{ length: 1, isHole: false, isZero: false }]);
});
