/** What an overlay holds after the power failed at any moment. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CowHandle } from '../../../src/filters/cow/cow-handle.ts';
import { BLOCK_BYTES, geometryOf } from '../../../src/filters/cow/layout.ts';
import { Overlay } from '../../../src/filters/cow/overlay.ts';
import { EIO } from '../../../src/native/errno.ts';
import { BackendError } from '../../../src/plugins/backend-error.ts';
import { noise } from '../../support/image.ts';
import { randomNumbers } from '../../support/random.ts';
import { BufferPlugin } from '../buffer-plugin.ts';
import { readFrom } from '../model.ts';
import { CrashDisk } from './crash-disk.ts';

const SIZE = BLOCK_BYTES + 20_001;
const geometry = geometryOf(SIZE);

async function openOn(disk: CrashDisk, base: BufferPlugin): Promise<{ overlay: Overlay; handle: CowHandle }> {
  const overlay = await Overlay.start(geometry, disk, '/overlay', false);
  return { overlay, handle: new CowHandle(base.open(), await overlay.openHandle(), overlay) };
}

const operation = fc.record({
  kind: fc.constantFrom('write', 'write', 'write', 'fua', 'zero', 'flush', 'crash', 'crashInFlush'),
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  span: fc.oneof(fc.double({ min: 0, max: 0.1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true })),
  seed: fc.nat(2 ** 31),
  isAwaited: fc.boolean(),
});

test('every byte is as it was at the last flush, or as it was written since', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { maxLength: 25 }), async (operations) => {
      const base = new BufferPlugin(noise(SIZE, 1), 1, { isReadOnly: true });
      let disk = new CrashDisk(Buffer.alloc(geometry.fileBytes));
      let { handle } = await openOn(disk, base);
      /** What each byte may be after a crash: the last promised contents, and all that was written since. */
      let promised = Buffer.from(base.bytes);
      let since: Buffer[] = [];
      let latest = Buffer.from(promised);
      let pending: Promise<void>[] = [];
      for (const { kind, at, span, seed, isAwaited } of operations) {
        const offset = Math.min(Math.floor(at * SIZE), SIZE - 1);
        const length = Math.max(1, Math.floor(span * (SIZE - offset)));
        if (kind === 'flush') {
          // With writes under way: it promises those that have been answered.
          const promise = Buffer.from(latest);
          const stillUnderWay = pending.length > 0;
          await handle.flush();
          await Promise.all(pending);
          if (!stillUnderWay) {
            promised = promise;
            since = [];
          }
          pending = [];
        } else if (kind === 'crash' || kind === 'crashInFlush') {
          if (kind === 'crashInFlush') {
            // Not answered: it promises nothing, and must not harm what was promised before.
            pending.push(handle.flush());
            for (let turn = seed % 8; turn > 0; turn -= 1) await nextTurn();
          }
          disk = disk.crash(randomNumbers(seed));
          await Promise.all(pending);
          pending = [];
          ({ handle } = await openOn(disk, base));
          const found = await readFrom(handle, 0, SIZE);
          const wrong = found.findIndex(
            (byte, index) => byte !== promised[index] && since.every((state) => state[index] !== byte),
          );
          expect(wrong, 'the first byte that it never was').toBe(-1);
          // What survived is in the overlay now, but nobody has promised it anew.
          since.push(found);
          latest = Buffer.from(found);
        } else {
          await Promise.all(isAwaited ? pending : []);
          pending = isAwaited ? [] : pending;
          const data = kind === 'zero' ? Buffer.alloc(length) : noise(length, seed);
          data.copy(latest, offset);
          since.push(Buffer.from(latest));
          if (pending.length > 0) {
            // It overlaps with what is under way: either may come first.
            const other = Buffer.from(since.at(-2) ?? promised);
            since.push(other);
          }
          const work =
            kind === 'zero'
              ? handle.zero(offset, length, { mayPunch: true, isFast: false }, false)
              : handle.write(data, 0, length, offset, kind === 'fua');
          if (isAwaited || kind === 'fua') {
            await work;
            if (kind === 'fua' && pending.length === 0) {
              promised = Buffer.from(latest);
              since = [];
            }
          } else {
            // One at a time is left under way, so that the model knows the order of all others.
            await Promise.all(pending);
            pending = [work];
          }
        }
      }
      await Promise.all(pending);
    }),
    { numRuns: 100 },
  );
});

test('flushes run one at a time, whenever they come', async () => {
  const base = new BufferPlugin(noise(SIZE, 1), 1, { isReadOnly: true });
  const disk = new CrashDisk(Buffer.alloc(geometry.fileBytes));
  const inner = disk.open();
  let [running, most] = [0, 0];
  disk.open = () => ({
    ...inner,
    flush: async () => {
      running += 1;
      most = Math.max(most, running);
      await inner.flush();
      running -= 1;
    },
  });
  const { handle } = await openOn(disk, base);
  const flushes: Promise<void>[] = [];
  for (let round = 0; round < 40; round += 1) {
    flushes.push(handle.flush());
    // Also between the end of one and the beginning of the next.
    void flushes.at(-1)?.then(() => flushes.push(handle.flush()));
    for (let step = 0; step < round % 7; step += 1) await Promise.resolve();
    if (round % 3 === 0) await nextTurn();
  }
  await Promise.all(flushes);
  expect(most).toBe(1);
});

test('the map is found where a file system has smaller blocks than it has pages', async () => {
  const base = new BufferPlugin(noise(SIZE, 1), 1, { isReadOnly: true });
  const disk = new CrashDisk(Buffer.alloc(geometry.fileBytes));
  const first = await openOn(disk, base);
  await first.handle.write(Buffer.alloc(10, 7), 0, 10, 5, true);
  const inner = disk.open();
  const sizes = [512, 1024, 3000];
  for (const holeBytes of sizes) {
    disk.open = () => ({ ...inner, extents: () => [{ length: holeBytes, isHole: true, isZero: true }] });
    const again = await openOn(disk, base);
    expect(again.overlay.map.has(0), `a hole of ${holeBytes} bytes`).toBe(true);
  }
});

test('flushes that come while one is under way share the next one', async () => {
  const base = new BufferPlugin(noise(SIZE, 1), 1, { isReadOnly: true });
  const disk = new CrashDisk(Buffer.alloc(geometry.fileBytes));
  const { handle } = await openOn(disk, base);
  let flushes = 0;
  const inner = disk.open();
  disk.open = () => ({
    ...inner,
    flush: async () => {
      flushes += 1;
      await inner.flush();
    },
  });
  const counted = await openOn(disk, base);
  const first = counted.handle.flush();
  await nextTurn();
  await Promise.all([first, ...Array.from({ length: 10 }, () => counted.handle.flush())]);
  expect(flushes).toBe(2);
  await handle.close();
});

test('a flush that fails promises nothing, and the next one does all of it again', async () => {
  const base = new BufferPlugin(noise(SIZE, 1), 1, { isReadOnly: true });
  const disk = new CrashDisk(Buffer.alloc(geometry.fileBytes));
  const inner = disk.open();
  let failures = 1;
  disk.open = () => ({
    ...inner,
    write: async (buffer, start, length, offset, isFua) => {
      if (offset < geometry.dataOffset && failures > 0) {
        failures -= 1;
        throw new BackendError(EIO, 'test', offset, length);
      }
      await inner.write(buffer, start, length, offset, isFua);
    },
  });
  const { overlay, handle } = await openOn(disk, base);
  await handle.write(Buffer.alloc(10, 7), 0, 10, 5, false);
  await expect(handle.flush()).rejects.toThrow(BackendError);
  expect(overlay.map.hasChanges).toBe(true);
  await handle.flush();
  expect(overlay.map.hasChanges).toBe(false);
  const after = await openOn(
    disk.crash(() => 1),
    base,
  );
  expect([...(await readFrom(after.handle, 5, 10))]).toEqual(Array.from({ length: 10 }, () => 7));
});
