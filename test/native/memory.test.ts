/** Giving the memory of array buffers back to the system. */
import { expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { EINVAL, MiB } from './support.ts';

function growable(length: number): Uint8Array {
  const buffer = new SharedArrayBuffer(0, { maxByteLength: length });
  buffer.grow(length);
  return new Uint8Array(buffer, 0, length);
}

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
