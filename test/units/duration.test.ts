/** Times as people type them. */
import { expect, test } from 'vitest';
import { parseDuration } from '../../src/units/duration.ts';

test.each([
  ['0ms', 0],
  ['10ms', 10],
  ['1s', 1000],
  ['007s', 7000],
  ['2m', 120_000],
  ['9007199254740991ms', Number.MAX_SAFE_INTEGER],
  ['9007199254740992ms', Number.POSITIVE_INFINITY],
  [`${'9'.repeat(400)}s`, Number.POSITIVE_INFINITY],
])('%s is %d ms', (text, milliseconds) => {
  expect(parseDuration(text)).toBe(milliseconds);
});

test.each(['', '10', 'ms', '1 s', ' 1s', '1s ', '1.5s', '-1s', '1S', '1h', '1e3ms', '1ms2s'])(
  '"%s" is no time',
  (text) => {
    expect(parseDuration(text)).toBeUndefined();
  },
);
