/** Copies between array buffers, and giving their memory back to the system. */
import { expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { EINVAL, MiB } from './support.ts';

function growable(length: number): Uint8Array {
  const buffer = new SharedArrayBuffer(0, { maxByteLength: length });
  buffer.grow(length);
  return new Uint8Array(buffer, 0, length);
}

test('copies what fits, in both directions and over itself, and nothing beside it', () => {
  const shared = growable(MiB);
  const pattern = Buffer.from(Array.from({ length: 300 }, (_, index) => index % 251));
  native.copy_memory(shared, 65_533, 300, pattern, 0, 300);
  expect(Buffer.from(shared.subarray(65_532, 65_834))).toEqual(Buffer.from([0, ...pattern, 0]));
  const back = new Uint8Array(302);
  native.copy_memory(back, 1, 301, shared, 65_533, 300);
  expect(Buffer.from(back)).toEqual(Buffer.from([0, ...pattern, 0]));
  native.copy_memory(back, 0, 3, shared, 65_534, 300);
  expect([...back.subarray(0, 4)]).toEqual([1, 2, 3, 2]);
  native.copy_memory(shared, 65_535, 298, shared, 65_533, 298);
  expect(Buffer.from(shared.subarray(65_535, 65_833))).toEqual(pattern.subarray(0, 298));
  native.copy_memory(shared, 0, 0, pattern, 300, 0);
  expect(() => native.copy_memory(shared, MiB - 1, 2, pattern, 0, 2)).toThrow(RangeError);
});

test('pages that are given back read as zeros, their neighbours stay', () => {
  const bytes = growable(MiB);
  const page = native.page_size;
  bytes.set(Buffer.alloc(MiB, 7));
  expect(native.discard_memory(bytes, page, 2 * page)).toBe(0);
  expect(bytes[page - 1]).toBe(7);
  expect(bytes.subarray(page, 3 * page).every((byte) => byte === 0)).toBe(true);
  expect(bytes[3 * page]).toBe(7);
  bytes[page] = 1;
  expect(bytes[page]).toBe(1);
});

test('the memory leaves the process', () => {
  const bytes = growable(64 * MiB);
  bytes.set(Buffer.alloc(64 * MiB, 7));
  const before = process.memoryUsage.rss();
  expect(native.discard_memory(bytes, 0, bytes.length)).toBe(0);
  expect(before - process.memoryUsage.rss()).toBeGreaterThan(32 * MiB);
});

test('parts of pages are refused, and nothing has changed', () => {
  const bytes = growable(MiB);
  const page = native.page_size;
  bytes.fill(7, 0, 2 * page);
  expect(native.discard_memory(bytes, 1, page)).toBe(-EINVAL);
  expect(native.discard_memory(bytes, 0, page - 1)).toBe(-EINVAL);
  expect(native.discard_memory(bytes, 0, 0)).toBe(0);
  expect(bytes.subarray(0, 2 * page).every((byte) => byte === 7)).toBe(true);
});

test('where a huge page begins, and that there is none', () => {
  const memory = Buffer.allocUnsafeSlow(4 * MiB);
  const begin = native.prefer_huge_page(memory, 0, 4 * MiB);
  expect(begin).toBeGreaterThanOrEqual(0);
  expect(begin).toBeLessThan(2 * MiB);
  expect(native.prefer_huge_page(memory, begin, 2 * MiB)).toBe(0);
  expect(native.prefer_huge_page(memory, begin, 2 * MiB - 1)).toBe(-EINVAL);
  if (begin > 0) expect(native.prefer_huge_page(memory, begin - 1, 2 * MiB + 1)).toBe(1);
});
