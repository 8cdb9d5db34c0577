/** What option values are refused, and that the refusal says what to give instead. */
import { InvalidArgumentError } from '@commander-js/extra-typings';
import { describe, expect, test } from 'vitest';
import { integerBetween, listOf, sizeBetween, wireString } from '../../src/cli/argument-parsers.ts';

/** The one line that the user gets to see. */
function refusalOf(parse: () => unknown): string {
  try {
    parse();
  } catch (error) {
    if (error instanceof InvalidArgumentError) return error.message;
    throw error;
  }
  throw new Error('It was accepted');
}

describe('sizeBetween', () => {
  const parse = sizeBetween(4096, 2 ** 30);

  test.each([
    ['4096', 4096],
    ['4K', 4096],
    ['1G', 2 ** 30],
  ])('takes %s', (text, bytes) => {
    expect(parse(text)).toBe(bytes);
  });

  test.each(['4095', '0', '1073741825', '8P', '1E'])('refuses %s and names the bounds', (text) => {
    expect(refusalOf(() => parse(text))).toBe('Give a size from 4096 to 1073741824 bytes.');
  });

  test.each(['', 'much', '-1', '1.5G'])('refuses %j and shows an example', (text) => {
    expect(refusalOf(() => parse(text))).toMatch(/^Give bytes or .* such as 512M\.$/);
  });

  test('goes up to the largest exact number unless told otherwise', () => {
    expect(sizeBetween(0)('9007199254740991')).toBe(Number.MAX_SAFE_INTEGER);
    expect(refusalOf(() => sizeBetween(0)('9007199254740993'))).toContain('9007199254740991');
  });
});

describe('integerBetween', () => {
  const parse = integerBetween(1, 65_535);

  test.each([
    ['1', 1],
    ['00010809', 10_809],
    ['65535', 65_535],
  ])('takes %s', (text, value) => {
    expect(parse(text)).toBe(value);
  });

  test.each(['', '0', '65536', '-1', '+1', '1.0', '1e3', '0x10', ' 1', '1K', 'NaN', '9'.repeat(400)])(
    'refuses %j',
    (text) => {
      expect(refusalOf(() => parse(text))).toBe('Give a whole number from 1 to 65535.');
    },
  );
});

describe('wireString', () => {
  test('counts bytes of UTF-8, not characters', () => {
    expect(wireString('ü'.repeat(2048))).toHaveLength(2048);
    expect(refusalOf(() => wireString(`${'ü'.repeat(2048)}x`))).toContain('4096');
  });

  test('takes the empty string and refuses NUL', () => {
    expect(wireString('')).toBe('');
    expect(() => wireString('a\0b')).toThrow(InvalidArgumentError);
  });
});

describe('listOf', () => {
  const parse = listOf(integerBetween(1, 100));

  test.each([
    ['7', [7]],
    ['16,2,8', [2, 8, 16]],
    ['2,2,1,02', [1, 2]],
  ])('takes %s, in order and each once', (text, numbers) => {
    expect(parse(text)).toEqual(numbers);
  });

  test.each(['', ',', '1,', ',1', '1,,2', '1, 2', '1;2', '101'])('refuses %j', (text) => {
    expect(refusalOf(() => parse(text))).toBe('Give a whole number from 1 to 100.');
  });
});
