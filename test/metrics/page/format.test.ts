import { expect, test } from 'vitest';
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatRate,
  formatSeconds,
  formatShare,
} from '../../../src/metrics/page/format.ts';

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '0.98 KiB'],
  [1024, '1.00 KiB'],
  [10_239, '10.0 KiB'],
  [1_048_575, '1.00 MiB'],
  [340 * 1024 ** 2, '340 MiB'],
  [2 ** 53 - 1, '8.00 PiB'],
])('%d bytes are %s', (bytes, text) => {
  expect(formatBytes(bytes)).toBe(text);
});

test.each([
  [0, '0'],
  [999, '999'],
  [1000, '1\u202f000'],
  [99_999, '99\u202f999'],
  [100_000, '100 k'],
  [999_499, '999 k'],
  [999_500, '1.00 M'],
  [1_234_567, '1.23 M'],
  [2e13, '20.0 T'],
])('a count of %d is %s', (count, text) => {
  expect(formatCount(count)).toBe(text);
});

test.each([
  [0, '0'],
  [0.25, '0.3'],
  [9.94, '9.9'],
  [9.96, '10'],
  [1500, '1\u202f500'],
])('%d per second are %s', (rate, text) => {
  expect(formatRate(rate)).toBe(text);
});

test.each([
  [0, '0 µs'],
  [3.2e-6, '3.20 µs'],
  [999.4e-6, '999 µs'],
  [999.6e-6, '1.00 ms'],
  [0.015, '15.0 ms'],
  [0.9996, '1.00 s'],
  [120, '120 s'],
])('a latency of %d s is %s', (seconds, text) => {
  expect(formatSeconds(seconds)).toBe(text);
});

test.each([
  [0.9, '0 s'],
  [59.9, '59 s'],
  [200, '3 min 20 s'],
  [18_600, '5 h 10 min'],
  [86_400 * 12 + 3 * 3600, '12 d 3 h'],
])('%d s are %s', (seconds, text) => {
  expect(formatDuration(seconds)).toBe(text);
});

test.each([
  [0, '0 %'],
  [1e-9, 'under 0.1 %'],
  [0.001, '0.1 %'],
  [0.003, '0.3 %'],
  [0.0996, '10 %'],
  [0.45, '45 %'],
  [0.9999, '99 %'],
  [1, '100 %'],
])('a share of %d is %s', (share, text) => {
  expect(formatShare(share)).toBe(text);
});
