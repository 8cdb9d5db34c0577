import { expect, test } from 'vitest';
import { geometricMean, median, pairedRatio, spread, table } from './statistics.ts';

test('the median of an even count lies between the two in the middle', () => {
  expect([median([3, 1, 2]), median([4, 1, 3, 2]), median([7])]).toEqual([2, 2.5, 7]);
  expect(median([])).toBeNaN();
});

test('the spread is a part of the median', () => {
  expect(spread([8, 10, 13])).toBe(0.5);
});

test('the geometric mean of a ratio and its inverse is 1', () => {
  expect(geometricMean([4, 0.25])).toBeCloseTo(1);
  expect(geometricMean([])).toBeNaN();
});

test('a slow minute that hits both of a pair goes out of the ratio', () => {
  expect(pairedRatio([200, 20, 200], [100, 10, 100])).toBe(2);
});

test('a table is Markdown', () => {
  expect(table(['a', 'b'], [['1', '2']])).toBe('| a | b |\n| --- | --- |\n| 1 | 2 |');
});
