/** Which blocks are here, against a set of numbers. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { BlockLocks } from '../../../src/filters/cow/block-locks.ts';
import { BlockMap } from '../../../src/filters/cow/block-map.ts';

const BLOCKS = 3 * 32_768;

const range = fc
  .tuple(fc.nat(BLOCKS - 1), fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: BLOCKS })))
  .map(([first, count]) => [first, Math.min(BLOCKS, first + count)] as const);

test('knows what was added, run by run, and hands changed pages over once', () => {
  fc.assert(
    fc.property(fc.array(range, { maxLength: 6 }), fc.array(range, { maxLength: 10 }), (added, asked) => {
      const map = new BlockMap();
      const copy = new BlockMap();
      const model = new Uint8Array(BLOCKS);
      for (const [first, end] of added) {
        map.add(first, end);
        model.fill(1, first, end);
        if (first % 2 === 0) for (const page of map.takeChanges()) copy.load(page);
      }
      for (const page of map.takeChanges()) copy.load(page);
      expect(map.hasChanges).toBe(false);
      for (const [first, end] of asked) {
        const next = model.subarray(first, end).findIndex((value) => value !== model[first]);
        for (const each of [map, copy]) {
          expect(each.has(first)).toBe(model[first] === 1);
          expect(each.runEnd(first, end)).toBe(next < 0 ? end : first + next);
          expect(each.hasAll(first, end)).toBe(model[first] === 1 && next < 0);
        }
      }
    }),
    { numRuns: 60 },
  );
});

test('pages that are given back are handed over again, as they are then', () => {
  const map = new BlockMap();
  map.add(0, 1);
  map.add(70_000, 70_001);
  const pages = map.takeChanges();
  expect(pages.map(({ index }) => index)).toEqual([0, 2]);
  map.add(1, 2);
  expect(pages[0]?.bytes[0], 'a copy').toBe(1);
  map.giveBack(pages);
  expect(map.takeChanges().map(({ index, bytes }) => [index, bytes[0]])).toEqual([
    [0, 3],
    [2, 0],
  ]);
});

test('locks are given in the order they were asked for, those of other blocks at once', async () => {
  const locks = new BlockLocks();
  const order: string[] = [];
  const take = async (name: string, first: number, end: number): Promise<() => void> => {
    const release = await locks.acquire(first, end);
    order.push(name);
    return release;
  };
  const one = await take('0-5', 0, 5);
  const wide = take('3-9', 3, 9);
  const late = take('8-9', 8, 9);
  const other = await take('9-10', 9, 10);
  expect(order).toEqual(['0-5', '9-10']);
  one();
  (await wide)();
  (await late)();
  other();
  expect(order).toEqual(['0-5', '9-10', '3-9', '8-9']);
});
