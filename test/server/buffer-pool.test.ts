/** Buffers by size class: large enough, reused, never two owners, and a bound on what is kept. */
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { BufferPool } from '../../src/server/buffer-pool.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

/** More than a reply's header, which comes on top of the usual powers of two. */
const HEADER_BYTES = 28;

test('every length up to 64 MiB gets a buffer that is long enough, and at most about twice as long', () => {
  const pool = new BufferPool();
  const length = fc.oneof(
    fc.nat({ max: 64 * MiB }),
    // Around the limits of the classes.
    fc
      .tuple(fc.integer({ min: 12, max: 25 }), fc.integer({ min: -66, max: 66 }))
      .map(([power, delta]) => 2 ** power + delta),
  );
  fc.assert(
    fc.property(length, (wanted) => {
      const buffer = pool.acquire(wanted);
      expect(buffer.length).toBeGreaterThanOrEqual(wanted);
      expect(buffer.length).toBeLessThanOrEqual(Math.max(2 * wanted + 128, 4 * KiB + 128));
      pool.release(buffer);
    }),
  );
});

test.each([4 * KiB, 64 * KiB, 1 * MiB, 32 * MiB])(
  'a buffer of %d bytes has room for a header without moving up a class',
  (length) => {
    expect(new BufferPool().acquire(length + HEADER_BYTES).length).toBeLessThan(length + 4 * KiB);
  },
);

test('a buffer that came back is given out again, to whoever asks for its class', () => {
  const pool = new BufferPool();
  const buffer = pool.acquire(100_000);
  pool.release(buffer);
  expect(pool.acquire(80_000)).toBe(buffer);
  expect(pool.acquire(80_000)).not.toBe(buffer);
});

test('a buffer that came back is not given out for more bytes than it has', () => {
  const pool = new BufferPool();
  pool.release(pool.acquire(4 * KiB));
  expect(pool.acquire(8 * KiB).length).toBeGreaterThanOrEqual(8 * KiB);
});

test('no two owners share memory', () => {
  const pool = new BufferPool();
  const [one, other] = [pool.acquire(1000), pool.acquire(1000)];
  expect(one.buffer).not.toBe(other.buffer);
});

describe('a payload of a power of two of 256 KiB to 2 MiB', () => {
  const lengths = [256 * KiB, 512 * KiB, MiB, 2 * MiB];

  test.each(lengths)('gets a buffer of exactly its length, aligned to pages: %d', (length) => {
    const pool = new BufferPool();
    const buffer = pool.acquire(length);
    expect(buffer.length).toBe(length);
    // Where a huge page begins is where nothing is left to skip.
    const skipped = native.prefer_huge_page(new Uint8Array(buffer.buffer), 0, buffer.buffer.byteLength);
    expect((buffer.byteOffset - skipped) % length).toBe(0);
  });

  test('shares huge pages and no byte with others', () => {
    const pool = new BufferPool();
    const buffers = lengths.flatMap((length) => Array.from({ length: 9 }, () => pool.acquire(length)));
    for (const [index, buffer] of buffers.entries()) {
      buffer.fill(index);
    }
    for (const [index, buffer] of buffers.entries()) {
      expect(buffer.every((byte) => byte === index)).toBe(true);
    }
    expect(new Set(buffers.map(({ buffer }) => buffer)).size).toBe(2 + 3 + 5 + 9);
    const [last] = buffers.slice(-1);
    pool.release(last as Uint8Array);
    expect(pool.acquire(2 * MiB).buffer).toBe(last?.buffer);
  });

  test('keeps no more when idle than others do', () => {
    vi.useFakeTimers();
    const pool = new BufferPool();
    const buffers = Array.from({ length: 100 }, () => pool.acquire(MiB));
    for (const buffer of buffers) {
      pool.release(buffer);
    }
    vi.advanceTimersByTime(60_000);
    const again = Array.from({ length: 100 }, () => pool.acquire(MiB));
    const memories = new Set(buffers.map(({ buffer }) => buffer));
    expect(again.filter(({ buffer }) => memories.has(buffer)).length).toBe(64);
    vi.useRealTimers();
  });

  test('leaves no huge page behind for the sake of a part, in whatever order and sizes they come back', () => {
    vi.useFakeTimers();
    const pool = new BufferPool();
    const buffers = Array.from({ length: 400 }, (_, index) => pool.acquire(lengths[index % 2] ?? 0));
    for (let step = 0; step < 7; step += 1) {
      for (let index = step; index < buffers.length; index += 7) {
        pool.release(buffers[index] as Uint8Array);
      }
    }
    vi.advanceTimersByTime(60_000);
    const memories = new Set(buffers.map(({ buffer }) => buffer));
    const kept = Array.from({ length: 100 }, () => pool.acquire(2 * MiB)).filter(({ buffer }) =>
      memories.has(buffer),
    );
    expect(kept.length).toBe(32);
    vi.useRealTimers();
  });
});

describe('of ten buffers of 32 MiB that came back', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  function reusedAfter(milliseconds: number): number {
    const pool = new BufferPool();
    const buffers = Array.from({ length: 10 }, () => pool.acquire(32 * MiB));
    for (const buffer of buffers) {
      pool.release(buffer);
    }
    vi.advanceTimersByTime(milliseconds);
    const again = Array.from({ length: 10 }, () => pool.acquire(32 * MiB));
    return again.filter((buffer) => buffers.includes(buffer)).length;
  }

  test('as many are given out again as may be in flight', () => {
    expect(reusedAfter(0)).toBe(7);
  });

  test('only 64 MiB lie idle after a while', () => {
    expect(reusedAfter(60_000)).toBe(1);
  });
});

test('more than any reply can have is a bug of the caller', () => {
  expect(() => new BufferPool().acquire(65 * MiB)).toThrow(/Bug/);
});
