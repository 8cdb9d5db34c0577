/** Pages that are lent: where they are, what is made for them, and what is left when they are given back. */
import { expect, test } from 'vitest';
import { attachDisk, createDisk } from '../../../src/plugins/memory/disk.ts';
import { MemoryHandle } from '../../../src/plugins/memory/memory-handle.ts';
import type { SparseArray } from '../../../src/plugins/memory/sparse-array.ts';
import type { LentMemory } from '../../../src/plugins/plugin.ts';
import { pattern } from '../../protocol/bytes.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const PAGE = 64 * KiB;
const GiB = 1024 * MiB;
const FOREVER = Number.POSITIVE_INFINITY;

interface Scene {
  readonly array: SparseArray;
  /** Another thread's way to the disk. */
  readonly other: SparseArray;
  used(): number;
}

function scene(limit = GiB, size = GiB): Scene {
  const data = createDisk(size, limit);
  const used = new Int32Array(data.budget.used);
  return { array: attachDisk(data), other: attachDisk(data), used: () => Atomics.load(used, 0) };
}

function partsOf({ arrays, ranges }: LentMemory): Uint8Array[] {
  return arrays.map((array, index) => {
    const start = ranges[2 * index] ?? 0;
    return array.subarray(start, start + (ranges[2 * index + 1] ?? 0));
  });
}

function fill(lent: LentMemory, data: Uint8Array): void {
  let position = 0;
  for (const part of partsOf(lent)) {
    part.set(data.subarray(position, position + part.length));
    position += part.length;
  }
  expect(position).toBe(data.length);
}

function read(array: SparseArray, offset: number, length: number): Buffer {
  const buffer = Buffer.alloc(length, 0xaa);
  expect(array.read(buffer, 0, length, offset)).toBe(length);
  return buffer;
}

function lend(array: SparseArray, offset: number, length: number, purpose: 'read' | 'write'): LentMemory {
  const lent = array.lend(offset, length, purpose);
  if (lent === undefined) throw new Error(`nothing is lent at ${offset}`);
  expect(partsOf(lent).reduce((sum, part) => sum + part.length, 0)).toBe(length);
  expect(lent.length).toBe(length);
  return lent;
}

test.each([
  ['a part of a page', 100, 500],
  ['a page', PAGE, PAGE],
  ['the end of one and the beginning of the next', PAGE - 1, 2],
  ['several from an odd place to an odd place', 3 * PAGE + 77, 5 * PAGE + 3],
  ['over the end of a table', GiB - PAGE - 5, 2 * PAGE],
])('%s: what is put into it is the disk, and what is on the disk is in it', (_what, offset, length) => {
  const { array, other } = scene(GiB, 2 * GiB);
  const data = pattern(length);
  const lent = lend(array, offset, length, 'write');
  fill(lent, data);
  expect(read(other, offset, length).equals(data)).toBe(true);
  lent.giveBack(true);
  const back = lend(other, offset, length, 'read');
  expect(Buffer.concat(partsOf(back)).equals(data)).toBe(true);
  back.giveBack(true);
  expect(read(other, offset - 50, 50).equals(Buffer.alloc(50))).toBe(true);
  expect(read(other, offset + length, 50).equals(Buffer.alloc(50))).toBe(true);
});

test('a hole is read as zeros and stays a hole; to be written, it gets memory that is zeros', () => {
  const { array, used } = scene();
  // What a thread keeps has old bytes.
  array.write(pattern(2 * PAGE), 0, 2 * PAGE, 0);
  array.zero(0, 2 * PAGE, true, FOREVER);
  const hole = lend(array, 10, 3 * PAGE, 'read');
  expect(Buffer.concat(partsOf(hole)).equals(Buffer.alloc(3 * PAGE))).toBe(true);
  hole.giveBack(true);
  expect(used()).toBe(0);
  const lent = lend(array, 10, PAGE, 'write');
  expect(Buffer.concat(partsOf(lent)).equals(Buffer.alloc(PAGE))).toBe(true);
  expect(used()).toBe(3);
  lent.giveBack(true);
  expect(array.extents(0, GiB, 10, FOREVER)[0]).toEqual({ length: 2 * PAGE, isHole: false, isZero: false });
});

test('what was made and not filled is a hole again, but for what others have written to', () => {
  const { array, other, used } = scene();
  array.write(Buffer.alloc(PAGE), 0, PAGE, 0);
  const lent = lend(array, 0, 3 * PAGE, 'write');
  other.write(Buffer.from('kept'), 0, 4, PAGE + 5);
  lent.giveBack(false);
  expect(used()).toBe(3);
  expect(read(other, PAGE, 9).equals(Buffer.from('\0\0\0\0\0kept'))).toBe(true);
  expect(array.extents(0, GiB, 1, FOREVER)).toEqual([{ length: 2 * PAGE, isHole: false, isZero: false }]);
});

test('a page that is trimmed while it is lent keeps its bytes for whoever has it, and its memory comes back', () => {
  const { array, other, used } = scene();
  const data = pattern(PAGE);
  array.write(data, 0, PAGE, 0);
  const forReading = lend(array, 0, PAGE, 'read');
  const forWriting = lend(array, 0, PAGE, 'write');
  expect(other.zero(0, PAGE, true, FOREVER)).toBe(PAGE);
  // Whoever writes the page anew does not get the memory that is still lent.
  other.write(Buffer.alloc(PAGE, 'new'), 0, PAGE, 0);
  expect(Buffer.concat(partsOf(forReading)).equals(data)).toBe(true);
  fill(forWriting, Buffer.alloc(PAGE, 'late'));
  forReading.giveBack(true);
  forWriting.giveBack(true);
  expect(read(array, 0, PAGE).equals(Buffer.alloc(PAGE, 'new'))).toBe(true);
  array.zero(0, PAGE, true, FOREVER);
  expect(used()).toBe(0);
});

test('at the memory limit nothing is lent to be written to, and nothing is left behind', () => {
  const { array, used } = scene(MiB);
  expect(array.lend(0, 16 * PAGE, 'write')).toBeUndefined();
  expect(used()).toBe(0);
  const lent = lend(array, 0, 15 * PAGE, 'write');
  expect(used()).toBe(16);
  expect(array.lend(15 * PAGE, 1, 'write')).toBeUndefined();
  lend(array, 0, MiB, 'read').giveBack(true);
  lent.giveBack(false);
  expect(used()).toBe(0);
});

test('the last page of a disk, and 2^53-1 bytes', () => {
  const { array } = scene(GiB, Number.MAX_SAFE_INTEGER);
  const offset = Number.MAX_SAFE_INTEGER - 5;
  const lent = lend(array, offset, 5, 'write');
  fill(lent, Buffer.from('final'));
  lent.giveBack(true);
  expect(read(array, offset, 5).toString()).toBe('final');
});

test('a client that announces 32 MiB is lent 1 MiB at a time, and all of what it wants to read', () => {
  const { array } = scene();
  const handle = new MemoryHandle(array);
  const forWriting = handle.lend(5, 32 * MiB, 'write');
  expect(forWriting?.length).toBe(MiB);
  forWriting?.giveBack(false);
  const forReading = handle.lend(5, 32 * MiB, 'read');
  expect(forReading?.length).toBe(32 * MiB);
  forReading?.giveBack(true);
});
