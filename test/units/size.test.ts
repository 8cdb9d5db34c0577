/** Sizes as people type them. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatSize, parseSize } from '../../src/units/size.ts';

const TOO_LARGE = Number.POSITIVE_INFINITY;

test.each([
  ['0', 0],
  ['1', 1],
  ['007', 7],
  ['1K', 1024],
  ['1k', 1024],
  ['3M', 3 * 2 ** 20],
  ['2g', 2 ** 31],
  ['1T', 2 ** 40],
  ['1P', 2 ** 50],
  ['7P', 7 * 2 ** 50],
  ['0E', 0],
  ['8P', TOO_LARGE],
  ['1E', TOO_LARGE],
  ['9007199254740991', 9007199254740991],
  ['9007199254740992', TOO_LARGE],
  ['9007199254740993', TOO_LARGE],
  ['8796093022207K', 8796093022207 * 1024],
  ['8796093022208K', TOO_LARGE],
  [`1${'0'.repeat(400)}`, TOO_LARGE],
])('%j is %d bytes', (text, bytes) => {
  expect(parseSize(text)).toBe(bytes);
});

test.each([
  '',
  'K',
  '-1',
  '+1',
  '1.5G',
  '1KB',
  '1KiB',
  '1kb',
  '1B',
  '0x10',
  '1e3',
  ' 1',
  '1 ',
  '1 K',
  '1\n',
  '\n1',
  '1_000',
  'Infinity',
  'NaN',
  '١',
  '1Z',
  // The Kelvin sign: its lower case is an ordinary k.
  '1\u212a',
])('%j is no size', (text) => {
  expect(parseSize(text)).toBeUndefined();
});

test('every exact size comes back exactly, with any suffix that fits', () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.integer({ min: 0, max: 5 }), fc.boolean(), (bytes, exponent, isLower) => {
      const unit = 1024 ** exponent;
      const count = Math.floor(bytes / unit);
      const suffix = ['', 'K', 'M', 'G', 'T', 'P'][exponent] ?? '';
      const text = `${count}${isLower ? suffix.toLowerCase() : suffix}`;
      expect(parseSize(text)).toBe(count * unit);
    }),
  );
});

test.each([
  [0, '0'],
  [1023, '1023'],
  [4096, '4K'],
  [1536 * 1024, '1536K'],
  [2 ** 50, '1P'],
])('%d bytes are written as %s', (bytes, text) => {
  expect(formatSize(bytes)).toBe(text);
});

test('every size is read back as it was written', () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), (bytes) => {
      expect(parseSize(formatSize(bytes))).toBe(bytes);
    }),
  );
});
