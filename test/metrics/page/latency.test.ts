import { expect, test } from 'vitest';
import { bucketsBetween, quantile } from '../../../src/metrics/page/latency.ts';

const BOUNDS = [1, 2, 4, 8];

test('no quantile of nothing', () => {
  expect(quantile(BOUNDS, [0, 0, 0, 0, 0], 0.5)).toBeUndefined();
});

test.each([
  [[0, 4, 0, 0, 0], 0.5, Math.SQRT2],
  [[0, 4, 0, 0, 0], 1, 2],
  [[2, 0, 2, 0, 0], 0.5, 1],
  [[2, 0, 2, 0, 0], 0.75, Math.sqrt(8)],
  [[99, 0, 0, 1, 0], 0.99, 1],
  [[98, 0, 0, 2, 0], 0.99, Math.sqrt(32)],
  // Beyond the last bound there is nothing to tell but that bound.
  [[0, 0, 0, 0, 3], 0.5, 8],
])('of the buckets %j the quantile %d is %d', (buckets, share, latency) => {
  expect(quantile(BOUNDS, buckets, share)).toBeCloseTo(latency, 12);
});

test('what happened in between is the difference, or all of it since the start', () => {
  expect(bucketsBetween([3, 5, 9], [1, 5, 2])).toEqual([2, 0, 7]);
  expect(bucketsBetween([3, 5, 9], undefined)).toEqual([3, 5, 9]);
});
