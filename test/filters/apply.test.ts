/** Filters on a plugin: their order, what they say of it, and who is told when something goes wrong. */
import { describe, expect, test } from 'vitest';
import { applyFilters, isInnerReadOnly } from '../../src/filters/apply.ts';
import type { FilterSpec } from '../../src/filters/filter.ts';
import { FilterError } from '../../src/filters/filter-error.ts';
import { parseFilter } from '../../src/filters/registry.ts';
import { EIO } from '../../src/native/errno.ts';
import { BackendError } from '../../src/plugins/backend-error.ts';
import { FakePlugin } from '../server/fake-plugin.ts';
import { BufferPlugin } from './buffer-plugin.ts';
import { readFrom } from './model.ts';
import { filterContext, filtered } from './stack.ts';

const MIB = 1024 * 1024;

/** One of each, that changes nothing of the contents. */
const HARMLESS = ['cow', 'delay:flush=0ms', 'error:0%', 'log', 'offset:0', 'rate:1G', 'readahead'];

test('the first one is nearest the client', async () => {
  const inner = new BufferPlugin(Buffer.from(Array.from({ length: 100 }, (_, index) => index)));
  const plugin = await filtered(inner, ['offset:offset=5,range=10', 'offset:offset=20,range=30']);
  const handle = await plugin.open();
  expect([...(await readFrom(handle, 0, 10))]).toEqual([25, 26, 27, 28, 29, 30, 31, 32, 33, 34]);
  await handle.close();
  await expect(filtered(inner, ['offset:offset=20,range=30', 'offset:offset=5,range=10'])).rejects.toThrow(
    'offset=20,range=30 ends at 50, past the end of the export, which has 10',
  );
});

test('what operators are told of losses and of the page cache comes through', async () => {
  const asked: number[] = [];
  const inner = Object.assign(new BufferPlugin(Buffer.alloc(100)), {
    lossCount: 2,
    residentBytes: async (offset: number) => {
      asked.push(offset);
      return 4096;
    },
  });
  const plugin = await filtered(inner, ['log', 'offset:offset=20,range=30', 'delay:flush=0ms']);
  expect(plugin.lossCount).toBe(2);
  expect(await plugin.residentBytes?.(1, 10)).toBe(4096);
  expect(asked).toEqual([21]);
  const silent = await filtered(new BufferPlugin(Buffer.alloc(100)), ['log']);
  expect(silent.lossCount).toBeUndefined();
  expect(silent.residentBytes).toBeUndefined();
});

test('a filter that cannot be put on abandons what is below, once', async () => {
  const inner = new BufferPlugin(Buffer.alloc(1000));
  await expect(filtered(inner, ['offset:2000', 'log', 'cow'])).rejects.toThrow(FilterError);
  expect(inner).toMatchObject({ abandonCount: 1, closeCount: 0, handleCount: 0 });
  const plain = new FakePlugin('immediate');
  await expect(filtered(plain, ['offset:2G'])).rejects.toThrow(FilterError);
  expect(plain.closeCount, 'a plugin that knows no abandon is closed').toBe(1);
});

describe.each(HARMLESS)('%s', (text) => {
  test('keeps what is true of the plugin', async () => {
    const info = {
      isRotational: true,
      canFlush: true,
      canFua: true,
      canTrim: true,
      canZero: true,
      canFastZero: true,
      canCache: false,
      canMultiConn: true,
      blockSize: { minimum: 512, preferred: 128 * 1024 },
    };
    const inner = new BufferPlugin(Buffer.alloc(MIB), 0, { ...info, isReadOnly: text === 'cow' });
    const plugin = await filtered(inner, [text]);
    expect(plugin.info).toMatchObject({ ...info, isReadOnly: false, size: MIB });
    await plugin.close();
  });

  test('hands the failure of the plugin on, and its close', async () => {
    const inner = new BufferPlugin(Buffer.alloc(MIB), 0, { isReadOnly: text === 'cow' });
    const plugin = await filtered(inner, [text]);
    const handle = await plugin.open();
    const failure = new BackendError(EIO, 'test', 0, 512);
    inner.failure = failure;
    await expect((async () => handle.read(Buffer.alloc(512), 0, 512, 0))()).rejects.toBe(failure);
    if (text !== 'cow') {
      for (const request of [
        () => handle.write(Buffer.alloc(512), 0, 512, 0, false),
        () => handle.flush(),
        () => handle.trim(0, 512, false),
        () => handle.zero(0, 512, { mayPunch: true, isFast: true }, false),
      ]) {
        inner.failure = failure;
        await expect((async () => request())()).rejects.toBe(failure);
      }
    }
    await handle.close();
    inner.closeFailure = new Error('Acknowledged data was lost');
    await expect(plugin.close()).rejects.toThrow('Acknowledged data was lost');
  });

  test('is abandoned with what is below', async () => {
    const inner = new BufferPlugin(Buffer.alloc(MIB), 0, { isReadOnly: text === 'cow' });
    const plugin = await filtered(inner, [text]);
    await plugin.abandon?.();
    expect(inner).toMatchObject({ abandonCount: 1, closeCount: 0, handleCount: 0 });
  });

  test('leaves no handle open when the inner one cannot be opened', async () => {
    const inner = new FakePlugin('immediate', { size: MIB });
    const plugin = await filtered(inner, [text]);
    inner.beforeOpen = () => {
      throw new Error('no more handles');
    };
    await expect((async () => plugin.open())()).rejects.toThrow('no more handles');
    await plugin.close();
    expect(inner.closeCount).toBe(1);
  });
});

test('meta contexts are shifted and cut with the range', async () => {
  const inner = new BufferPlugin(Buffer.alloc(1000), 0, { metaContexts: ['base:allocation', 'x:y'] });
  const plugin = await filtered(inner, ['log', 'offset:offset=100,range=50', 'readahead']);
  expect(plugin.info.metaContexts).toEqual(['base:allocation', 'x:y']);
  const handle = await plugin.open();
  expect(await handle.contextExtents?.('x:y', 10, 20, false)).toEqual([{ length: 40, status: 110 }]);
  await handle.close();
});

test('only cow leaves the plugin unwritten', () => {
  expect(isInnerReadOnly(['log', 'cow', 'rate:1'].map(parseFilter))).toBe(true);
  expect(isInnerReadOnly(['log', 'offset:1'].map(parseFilter))).toBe(false);
});

test('what a failing filter throws is told, whatever it is', async () => {
  const broken: FilterSpec = {
    name: 'broken',
    isInnerReadOnly: false,
    open: async () => {
      throw new Error('out of memory');
    },
  };
  const inner = new BufferPlugin(Buffer.alloc(10));
  await expect(applyFilters(inner, [broken], filterContext())).rejects.toThrow('out of memory');
  expect(inner.abandonCount).toBe(1);
});
