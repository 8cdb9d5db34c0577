/** The residency map against a naive twin that looks at every page. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  ASCII_GLYPHS,
  cellCountFor,
  drawMap,
  glyphsFor,
  UNICODE_GLYPHS,
} from '../../src/cli/cachestat/draw-map.ts';
import { type CountedRange, mapResidency } from '../../src/cli/cachestat/residency-map.ts';
import { native } from '../../src/native/binding.ts';

const PAGE = native.page_size;

/** A page cache in which these pages of a file are resident, and how often it was asked. */
class FakeCache {
  asked = 0;
  readonly #pages: readonly boolean[];

  constructor(pages: readonly boolean[]) {
    this.#pages = pages;
  }

  readonly count = async (offset: number, length: number): Promise<number> => {
    this.asked += 1;
    return this.#pages.slice(offset / PAGE, (offset + length) / PAGE).filter(Boolean).length;
  };
}

function naiveRanges(pages: readonly boolean[], size: number): CountedRange[] {
  const ranges: { offset: number; length: number; residentPages: number }[] = [];
  for (const [index, isResident] of pages.entries()) {
    const last = ranges.at(-1);
    const length = Math.min(PAGE, size - index * PAGE);
    if (isResident && last !== undefined && last.offset + last.length === index * PAGE) {
      last.length += length;
      last.residentPages += 1;
    } else if (isResident) {
      ranges.push({ offset: index * PAGE, length, residentPages: 1 });
    }
  }
  return ranges;
}

test('finds the ranges that a look at every page finds', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.boolean(), { maxLength: 300 }),
      fc.integer({ min: 1, max: PAGE }),
      fc.integer({ min: 1, max: 80 }),
      async (pages, lastBytes, cellCount) => {
        const size = pages.length === 0 ? 0 : (pages.length - 1) * PAGE + lastBytes;
        const map = await mapResidency(size, cellCount, new FakeCache(pages).count);
        expect(map.ranges).toEqual(naiveRanges(pages, size));
        expect(map.cells.length).toBeLessThanOrEqual(cellCount);
        expect(sum(map.cells.map(({ length }) => length))).toBe(size);
        expect(sum(map.cells.map(({ residentPages }) => residentPages))).toBe(pages.filter(Boolean).length);
      },
    ),
  );
});

test('asks once for each cell of a huge empty file', async () => {
  let asked = 0;
  const map = await mapResidency(2 ** 50, 64, async () => {
    asked += 1;
    return 0;
  });
  expect({ asked, cells: map.cells.length, ranges: map.ranges }).toEqual({
    asked: 64,
    cells: 64,
    ranges: [],
  });
});

test('gives up halving at some point, and says how much of the rest is resident', async () => {
  const pages = Array.from({ length: 20_000 }, (_, index) => index % 2 === 0);
  const cache = new FakeCache(pages);
  const { ranges } = await mapResidency(pages.length * PAGE, 64, cache.count);
  expect(cache.asked).toBeLessThanOrEqual(64 + 4096);
  expect(sum(ranges.map(({ residentPages }) => residentPages))).toBe(10_000);
});

test('stays sane when pages come while it asks', async () => {
  let resident = 0;
  const { ranges } = await mapResidency(1024 * PAGE, 1, async (_offset, length) => {
    resident += 100;
    return Math.min(resident, length / PAGE);
  });
  for (const { length, residentPages } of ranges) {
    expect(residentPages).toBeGreaterThan(0);
    expect(residentPages).toBeLessThanOrEqual(length / PAGE);
  }
});

describe('the drawing', () => {
  test('has a glyph for none, all, and three steps between', async () => {
    const shares = [0, 1, 5, 8, 9];
    const pages = shares.flatMap((share) => Array.from({ length: 9 }, (_, index) => index < share));
    const map = await mapResidency(pages.length * PAGE, 5, new FakeCache(pages).count);
    expect(drawMap(map, ASCII_GLYPHS)).toContain('|.-+*#|\n');
    expect(drawMap(map, UNICODE_GLYPHS)).toContain('|·░▒▓█|\n');
  });

  test('lists 64 ranges and counts the others', async () => {
    const pages = Array.from({ length: 200 }, (_, index) => index % 2 === 0);
    const text = drawMap(await mapResidency(200 * PAGE, 64, new FakeCache(pages).count), ASCII_GLYPHS);
    expect(text.trimEnd().split('\n')).toHaveLength(3 + 64 + 1);
    expect(text).toContain('... and 36 more ranges');
  });

  test('of an empty file is an empty strip', async () => {
    const map = await mapResidency(0, 64, new FakeCache([]).count);
    expect(drawMap(map, ASCII_GLYPHS)).toContain('  ||\n');
  });

  test('is as wide as the terminal, or 64 cells without one', () => {
    expect([undefined, 5, 80, 10_000].map(cellCountFor)).toEqual([64, 16, 76, 512]);
  });

  test('is ASCII outside UTF-8 locales', () => {
    expect(glyphsFor({ LC_ALL: 'C', LANG: 'de_DE.UTF-8' })).toBe(ASCII_GLYPHS);
    expect(glyphsFor({ LC_ALL: '', LANG: 'de_DE.UTF-8' })).toBe(UNICODE_GLYPHS);
    expect(glyphsFor({ LC_CTYPE: 'C.utf8' })).toBe(UNICODE_GLYPHS);
    expect(glyphsFor({})).toBe(ASCII_GLYPHS);
  });
});

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
