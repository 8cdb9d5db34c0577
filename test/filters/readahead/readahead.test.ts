/** What is read ahead, how much of it, and that it is never older than what was acknowledged. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Prefetched } from '../../../src/filters/readahead/prefetched.ts';
import { EIO } from '../../../src/native/errno.ts';
import { BackendError } from '../../../src/plugins/backend-error.ts';
import { FakePlugin } from '../../server/fake-plugin.ts';
import { noise } from '../../support/image.ts';
import { BufferPlugin } from '../buffer-plugin.ts';
import { readFrom, writeTo } from '../model.ts';
import { filtered } from '../stack.ts';

const KIB = 1024;

async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn += 1) await nextTurn();
}

test('sequential reads are read ahead in windows, and then found', async () => {
  const inner = new FakePlugin('immediate', { size: 100 * KIB });
  const plugin = await filtered(inner, ['readahead:window=8K']);
  const handle = await plugin.open();
  for (let offset = 0; offset < 64 * KIB; offset += KIB) {
    await readFrom(handle, offset, KIB);
    await turns(1);
  }
  const reads = inner.handle.calls.filter(({ operation }) => operation === 'read');
  expect(reads.map(({ offset, length }) => [offset / KIB, length / KIB])).toEqual([
    // The first two, which nobody could foresee, and then every window once.
    [0, 1],
    ...[0, 8].map((offset) => [offset, 8]),
    [1, 1],
    ...[16, 24, 32, 40, 48, 56, 64, 72].map((offset) => [offset, 8]),
  ]);
  await handle.close();
  await plugin.close();
});

test('reads in no order are left alone', async () => {
  const inner = new FakePlugin('immediate', { size: 100 * KIB });
  const plugin = await filtered(inner, ['readahead:window=8K']);
  const handle = await plugin.open();
  for (const offset of [50, 10, 12, 90, 0, 2]) await readFrom(handle, offset * KIB, KIB);
  expect(inner.handle.calls).toHaveLength(6);
  await handle.close();
});

test('reads that need not wait are left to the plugin', async () => {
  const inner = new BufferPlugin(noise(100 * KIB, 1));
  const plugin = await filtered(inner, ['readahead:window=8K']);
  const handle = await plugin.open();
  for (let offset = 0; offset < 100 * KIB; offset += KIB) {
    const buffer = Buffer.alloc(KIB);
    while (handle.readNow?.(buffer, 0, KIB, offset) !== true);
    expect(buffer.equals(inner.bytes.subarray(offset, offset + KIB))).toBe(true);
  }
  expect(inner.calls).not.toContain('read');
  await handle.close();
});

test('a window that cannot be read is an error of the read that needs it, and of no other', async () => {
  const inner = new BufferPlugin(noise(100 * KIB, 1));
  inner.canReadNow = false;
  const plugin = await filtered(inner, ['readahead:window=8K']);
  const handle = await plugin.open();
  await readFrom(handle, 0, KIB);
  inner.failure = new BackendError(EIO, 'test');
  expect((await readFrom(handle, KIB, KIB)).equals(inner.bytes.subarray(KIB, 2 * KIB))).toBe(true);
  await turns(10);
  expect((await readFrom(handle, 2 * KIB, KIB)).equals(inner.bytes.subarray(2 * KIB, 3 * KIB))).toBe(true);
  await handle.close();
  await plugin.close();
});

test('a handle is closed when what it reads ahead has come', async () => {
  const inner = new FakePlugin('controlled', { size: 100 * KIB });
  const plugin = await filtered(inner, ['readahead:window=8K']);
  const handle = await plugin.open();
  const first = handle.read(Buffer.alloc(KIB), 0, KIB, 0);
  inner.handle.pending[0]?.resolve();
  await first;
  const second = handle.read(Buffer.alloc(KIB), 0, KIB, KIB);
  await turns(1);
  inner.handle.pending.find(({ length }) => length === KIB)?.resolve();
  await second;
  const closed = handle.close();
  await turns(2);
  expect(inner.handle.closeCount).toBe(0);
  for (const pending of [...inner.handle.pending]) pending.resolve();
  await closed;
  expect(inner.handle).toMatchObject({ closeCount: 1, pendingAtClose: 0 });
});

test('the memory is bounded, also for what is dropped while it is filled', async () => {
  const prefetched = new Prefetched(4 * KIB, 4, 1024 * KIB);
  const fills: (() => void)[] = [];
  const fill = (): Promise<void> =>
    new Promise((resolve) => {
      fills.push(resolve);
    });
  prefetched.prefetch(0, 3, fill);
  expect(prefetched.count).toBe(3);
  prefetched.invalidate(0, 1024 * KIB);
  expect(prefetched.find(0, 1)).toBeUndefined();
  expect(prefetched.count, 'still being filled').toBe(3);
  prefetched.prefetch(0, 3, fill);
  expect(prefetched.count).toBe(4);
  for (const end of fills) end();
  await turns(1);
  expect(prefetched.count).toBe(1);
  prefetched.prefetch(100 * KIB, 10, fill);
  expect(prefetched.count).toBe(4);
  expect(prefetched.find(0, 1), 'the oldest makes room').toBeUndefined();
});

interface Step {
  readonly kind: 'read' | 'write' | 'writeFar' | 'trim' | 'zero';
  readonly length: number;
  readonly back: number;
}

const step: fc.Arbitrary<Step> = fc.record({
  kind: fc.constantFrom('read', 'read', 'read', 'read', 'write', 'writeFar', 'trim', 'zero'),
  length: fc.integer({ min: 1, max: 6000 }),
  back: fc.integer({ min: -9000, max: 3000 }),
});

test('what a client reads after an acknowledgement is never older than it', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), fc.nat(2 ** 31), async (steps, seed) => {
      const size = 100_003;
      const model = noise(size, 1);
      const inner = new BufferPlugin(Buffer.from(model), seed);
      inner.canReadNow = seed % 2 === 0;
      const plugin = await filtered(inner, ['readahead:window=4K,memory=20K']);
      const [reader, other] = [await plugin.open(), await plugin.open()];
      let next = 0;
      for (const { kind, length, back } of steps) {
        if (kind === 'read') {
          const count = Math.min(length, size - next);
          const found = await readFrom(reader, next, count);
          expect(found.equals(model.subarray(next, next + count)), `read of ${count} at ${next}`).toBe(true);
          next = (next + count) % size;
        } else {
          // Mostly just ahead of the reader, where windows are being filled.
          const offset = Math.min(Math.max(0, next - back), size - 1);
          const count = Math.min(length, size - offset);
          const handle = kind === 'write' ? reader : other;
          if (kind === 'trim') await other.trim(offset, count, false);
          if (kind === 'zero') await other.zero(offset, count, { mayPunch: true, isFast: false }, false);
          if (kind === 'trim' || kind === 'zero') {
            model.fill(0, offset, offset + count);
          } else {
            const data = noise(count, back + 10_000);
            await writeTo(handle, offset, data, false);
            data.copy(model, offset);
          }
        }
      }
      await reader.close();
      await other.close();
      await plugin.close();
    }),
    { numRuns: 150 },
  );
});
