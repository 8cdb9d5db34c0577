/** The disk against a model, one thread: any operations, anywhere. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { attachDisk, createDisk, type DiskData } from '../../../src/plugins/memory/disk.ts';
import type { SparseArray } from '../../../src/plugins/memory/sparse-array.ts';

const PAGE = 64 * 1024;
const MAX = Number.MAX_SAFE_INTEGER;
const FOREVER = Number.POSITIVE_INFINITY;
const GiB = 2 ** 30;

function open(size: number, limit = GiB): { array: SparseArray; data: DiskData; used: () => number } {
  const data = createDisk(size, limit);
  return { array: attachDisk(data), data, used: () => Atomics.load(new Int32Array(data.budget.used), 0) };
}

function read(array: SparseArray, offset: number, length: number): Buffer {
  const buffer = Buffer.alloc(length, 0xaa);
  expect(array.read(buffer, 0, length, offset)).toBe(length);
  return buffer;
}

describe('against a plain buffer', { timeout: 120_000 }, () => {
  const WINDOW = 6 * PAGE;

  const operation = fc.record({
    kind: fc.constantFrom('write', 'trim', 'zero', 'keep'),
    from: fc.integer({ min: 0, max: WINDOW - 1 }),
    length: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.integer({ min: 1, max: 3 * PAGE })),
    isAligned: fc.boolean(),
    value: fc.integer({ min: 0, max: 255 }),
  });

  test.each([
    ['at the start', WINDOW, 0],
    ['over the end of a table', 4 * GiB, GiB - 3 * PAGE],
    ['at the end of 2^53-1 bytes', MAX, MAX - WINDOW],
    ['at an odd place', 2 ** 45 + 77, 2 ** 44 + 12_345],
  ])('%s', (_name, size, base) => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 20 }), (operations) => {
        const { array, used } = open(size);
        const model = Buffer.alloc(WINDOW);
        for (const { kind, from, length, isAligned, value } of operations) {
          const start = isAligned ? from - (from % PAGE) : from;
          const count = Math.min(length, WINDOW - start);
          if (kind === 'write') {
            model.fill(value, start, start + count);
            const data = Buffer.alloc(count + 3, value);
            expect(array.write(data, 3, count, base + start)).toBe(count);
          } else {
            model.fill(0, start, start + count);
            expect(array.zero(base + start, count, kind !== 'keep', FOREVER)).toBe(count);
          }
        }
        expect(read(array, base, WINDOW).equals(model)).toBe(true);
        let position = 0;
        for (const { length, isHole, isZero } of array.extents(base, WINDOW, 100, FOREVER)) {
          expect(isZero).toBe(isHole);
          if (isHole) {
            expect(model.subarray(position, position + length).every((byte) => byte === 0)).toBe(true);
          }
          position += length;
        }
        expect(position).toBe(WINDOW);
        // All of it goes back, tables too.
        expect(array.zero(0, size, true, FOREVER)).toBe(size);
        expect(used()).toBe(0);
      }),
      { numRuns: 60 },
    );
  });
});

describe('memory', () => {
  test('nothing is taken for reading, for zeroing a hole, or by a disk of 2^53-1 bytes', () => {
    const { array, used } = open(MAX);
    expect(read(array, MAX - 100, 100).every((byte) => byte === 0)).toBe(true);
    expect(array.zero(0, MAX, true, FOREVER)).toBe(MAX);
    expect(used()).toBe(0);
  });

  test('a page goes back when its last byte becomes zero', () => {
    const { array, used } = open(10 * PAGE);
    array.write(Buffer.alloc(100, 1), 0, 100, 1000);
    expect(used()).toBe(2);
    array.zero(1000, 99, true, FOREVER);
    expect(used()).toBe(2);
    array.zero(1099, 1, true, FOREVER);
    expect(used()).toBe(0);
  });

  test('the last page goes back when it is zeroed up to the end of the disk', () => {
    const { array, used } = open(PAGE + 5);
    array.write(Buffer.alloc(PAGE + 5, 1), 0, PAGE + 5, 0);
    expect(used()).toBe(3);
    array.zero(PAGE, 5, true, FOREVER);
    expect(used()).toBe(2);
  });

  test('a slot that was used before shows nothing of it', () => {
    const { array } = open(10 * PAGE);
    array.write(Buffer.alloc(PAGE, 7), 0, PAGE, 0);
    array.zero(0, PAGE, true, FOREVER);
    array.write(Buffer.from([1]), 0, 1, 5 * PAGE + 100);
    const page = read(array, 5 * PAGE, PAGE);
    expect(page[100]).toBe(1);
    page[100] = 0;
    expect(page.every((byte) => byte === 0)).toBe(true);
  });

  test('more slots than a thread keeps go back to the system, and come again as zeros', () => {
    const { array, used } = open(GiB);
    const data = Buffer.alloc(PAGE, 9);
    for (let round = 0; round < 2; round += 1) {
      for (let page = 0; page < 300; page += 1) {
        array.write(data, 0, 10, page * PAGE + 7);
        expect(read(array, page * PAGE, 8)).toEqual(Buffer.from([0, 0, 0, 0, 0, 0, 0, 9]));
        array.write(data, 0, PAGE, page * PAGE);
      }
      array.zero(0, GiB, true, FOREVER);
      expect(used()).toBe(0);
    }
  });

  test('without mayPunch memory is set aside, and stays when it is zeroed', () => {
    const { array, used } = open(10 * PAGE);
    expect(array.zero(PAGE - 1, 2, false, FOREVER)).toBe(2);
    expect(used()).toBe(3);
    expect(array.extents(0, 10 * PAGE, 10, FOREVER)).toEqual([
      { length: 2 * PAGE, isHole: false, isZero: false },
      { length: 8 * PAGE, isHole: true, isZero: true },
    ]);
    array.zero(0, 2 * PAGE, false, FOREVER);
    expect(used()).toBe(3);
  });

  test('at the limit a write fails with ENOSPC, what is there can be written, and a TRIM makes room', () => {
    const { array, used } = open(GiB, 4 * PAGE);
    const data = Buffer.alloc(PAGE, 3);
    // Three pages and their table.
    expect(array.write(Buffer.concat([data, data, data]), 0, 3 * PAGE, 0)).toBe(3 * PAGE);
    expect(() => array.write(data, 0, PAGE, 3 * PAGE)).toThrow(expect.objectContaining({ errno: 28 }));
    expect(() => array.zero(3 * PAGE, 1, false, FOREVER)).toThrow(expect.objectContaining({ errno: 28 }));
    expect(() => array.write(data, 0, PAGE, GiB - PAGE)).toThrow(expect.objectContaining({ errno: 28 }));
    expect(used()).toBe(4);
    expect(array.write(data, 0, PAGE, PAGE)).toBe(PAGE);
    array.zero(0, PAGE, true, FOREVER);
    expect(array.write(data, 0, PAGE, 3 * PAGE)).toBe(PAGE);
    expect(used()).toBe(4);
  });

  test('a table that has no memory for its first page goes back', () => {
    const { array, used } = open(4 * GiB, 3 * PAGE);
    const data = Buffer.alloc(PAGE, 3);
    array.write(Buffer.concat([data, data]), 0, 2 * PAGE, 0);
    expect(() => array.write(data, 0, PAGE, 2 * GiB)).toThrow(expect.objectContaining({ errno: 28 }));
    array.zero(0, 4 * GiB, true, FOREVER);
    expect(used()).toBe(0);
  });
});

describe('extents', () => {
  test('8 PiB of nothing is one extent', () => {
    const { array } = open(MAX);
    expect(array.extents(0, MAX, 10, FOREVER)).toEqual([{ length: MAX, isHole: true, isZero: true }]);
    expect(array.extents(12_345, MAX - 12_345, 10, FOREVER)).toEqual([
      { length: MAX - 12_345, isHole: true, isZero: true },
    ]);
  });

  test('single pages are found in 8 PiB', () => {
    const { array } = open(MAX);
    const places = [0, 5 * GiB, 2 ** 41 + 3 * PAGE, 2 ** 52 + 7 * GiB];
    for (const place of places) {
      array.write(Buffer.from([1]), 0, 1, place);
    }
    array.write(Buffer.from([1]), 0, 1, MAX - 1);
    const data: number[] = [];
    let position = 0;
    for (const { length, isHole } of array.extents(0, MAX, 100, FOREVER)) {
      if (!isHole) {
        data.push(position);
      }
      position += length;
    }
    expect(position).toBe(MAX);
    expect(data).toEqual([...places, 2 ** 53 - PAGE]);
  });

  test('no more than were asked for', () => {
    const { array } = open(GiB);
    for (let page = 0; page < 10; page += 2) {
      array.write(Buffer.from([1]), 0, 1, page * PAGE);
    }
    expect(array.extents(0, GiB, 3, FOREVER)).toHaveLength(3);
    expect(array.extents(10, GiB - 10, 1, FOREVER)).toEqual([
      { length: PAGE - 10, isHole: false, isZero: false },
    ]);
  });

  test('a search that takes long ends early', () => {
    const { array } = open(GiB);
    array.write(Buffer.from([1]), 0, 1, 0);
    expect(array.extents(0, GiB, 10, 0)).toEqual([{ length: PAGE, isHole: false, isZero: false }]);
  });
});
