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
  lent.giveBack();
  const back = lend(other, offset, length, 'read');
  expect(Buffer.concat(partsOf(back)).equals(data)).toBe(true);
  back.giveBack();
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
  hole.giveBack();
  expect(used()).toBe(0);
  const lent = lend(array, 10, PAGE, 'write');
  expect(Buffer.concat(partsOf(lent)).equals(Buffer.alloc(PAGE))).toBe(true);
  expect(used()).toBe(3);
  lent.giveBack();
  expect(array.extents(0, GiB, 10, FOREVER)[0]).toEqual({ length: 2 * PAGE, isHole: false, isZero: false });
});

test('what is set aside and never filled stays, as what others were told of it does', () => {
  const { array, other, used } = scene();
  const lent = lend(array, 0, 2 * PAGE, 'write');
  expect(other.zero(PAGE, PAGE, false, FOREVER)).toBe(PAGE);
  lent.giveBack();
  expect(used()).toBe(3);
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
  forReading.giveBack();
  forWriting.giveBack();
  expect(read(array, 0, PAGE).equals(Buffer.alloc(PAGE, 'new'))).toBe(true);
  array.zero(0, PAGE, true, FOREVER);
  expect(used()).toBe(0);
});

test('at the memory limit nothing is lent to be written to', () => {
  const { array, used } = scene(4 * MiB);
  array.write(pattern(60 * PAGE), 0, 60 * PAGE, 0);
  expect(array.lend(60 * PAGE, 4 * PAGE, 'write')).toBeUndefined();
  expect(used()).toBe(64);
  lend(array, 0, 8 * PAGE, 'read').giveBack();
  array.zero(0, 64 * PAGE, true, FOREVER);
  expect(used()).toBe(0);
});

test('an eighth of the memory is lent at a time, by all threads together', () => {
  const { array, other } = scene(4 * MiB);
  const first = lend(array, 0, 5 * PAGE, 'read');
  expect(other.lend(0, 4 * PAGE, 'read')).toBeUndefined();
  const second = lend(other, 0, 3 * PAGE, 'write');
  expect(array.lend(0, 1, 'read')).toBeUndefined();
  first.giveBack();
  lend(array, 0, 5 * PAGE, 'read').giveBack();
  second.giveBack();
  lend(array, 0, 8 * PAGE, 'read').giveBack();
});

test.each([1, 7, 16, 100, 256])(
  'a disk of %i pages can be trimmed and written while as much is lent as can be',
  (pageCount) => {
    const { array, other, used } = scene(GiB, pageCount * PAGE);
    const all = pageCount * PAGE;
    const data = pattern(all);
    array.write(data, 0, all, 0);
    const lent: LentMemory[] = [];
    for (let page = 0; page < pageCount; page += 1) {
      const one = array.lend(page * PAGE, PAGE, 'read');
      if (one === undefined) break;
      lent.push(one);
    }
    other.zero(0, all, true, FOREVER);
    expect(other.write(data, 0, all, 0)).toBe(all);
    expect(used()).toBe(pageCount + 1 + lent.length);
    for (const one of lent) one.giveBack();
    expect(read(array, 0, all).equals(data)).toBe(true);
    expect(used()).toBe(pageCount + 1);
  },
);

test('the last page of a disk, and 2^53-1 bytes', () => {
  const { array } = scene(GiB, Number.MAX_SAFE_INTEGER);
  const offset = Number.MAX_SAFE_INTEGER - 5;
  const lent = lend(array, offset, 5, 'write');
  fill(lent, Buffer.from('final'));
  lent.giveBack();
  expect(read(array, offset, 5).toString()).toBe('final');
});

test('a client that announces 32 MiB is lent 1 MiB at a time, and all of what it wants to read', () => {
  const { array } = scene();
  const handle = new MemoryHandle(array);
  const forWriting = handle.lend(5, 32 * MiB, 'write');
  expect(forWriting?.length).toBe(MiB);
  forWriting?.giveBack();
  const forReading = handle.lend(5, 32 * MiB, 'read');
  expect(forReading?.length).toBe(32 * MiB);
  forReading?.giveBack();
});
