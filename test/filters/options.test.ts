/** `--filter name[:options]` as text: what is taken, and what is refused in one line. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FilterError } from '../../src/filters/filter-error.ts';
import {
  duration,
  integer,
  listOf,
  oneOf,
  parseOptions,
  path,
  percentage,
  size,
} from '../../src/filters/options.ts';
import { FILTERS, parseFilter } from '../../src/filters/registry.ts';

const TABLE = {
  bytes: size(1, 2 ** 40),
  time: duration(60_000),
  count: integer(0, 9),
  part: percentage,
  file: path,
  mode: oneOf(['fast', 'slow']),
  words: listOf(['a', 'b', 'c']),
};

function parse(text: string | undefined): object {
  return parseOptions('test', TABLE, 'bytes', text);
}

test.each<[string | undefined, object]>([
  [undefined, {}],
  ['bytes=10M', { bytes: 10 * 1024 ** 2 }],
  ['1K', { bytes: 1024 }],
  ['1k,count=3', { bytes: 1024, count: 3 }],
  ['time=10ms', { time: 10 }],
  ['time=1s', { time: 1000 }],
  ['time=1m', { time: 60_000 }],
  ['time=0ms', { time: 0 }],
  ['part=10%', { part: 0.1 }],
  ['part=0.5%', { part: 0.005 }],
  ['part=100%', { part: 1 }],
  ['file=/a=b', { file: '/a=b' }],
  ['file=a,,b,mode=slow', { file: 'a,b', mode: 'slow' }],
  ['file=,,,count=1', { file: ',', count: 1 }],
  ['words=a', { words: ['a'] }],
  ['words=a,c,mode=fast', { words: ['a', 'c'], mode: 'fast' }],
])('%j is %j', (text, values) => {
  expect(parse(text)).toEqual(values);
});

test.each<[string, RegExp]>([
  ['', /"" is no size/],
  ['bytes', /"bytes" is no size/],
  ['bytes=', /"" is no size/],
  ['bytes=0', /from 1 to/],
  ['bytes=2T', /from 1 to 1099511627776 bytes/],
  ['bytes=-1', /"-1" is no size/],
  ['bytes=1.5M', /"1.5M" is no size/],
  ['bytes=1K,bytes=2K', /option "bytes" is given twice/],
  ['1K,bytes=2K', /option "bytes" is given twice/],
  ['1K,2K', /"2K" is no key=value; there are bytes, time, count, part, file, mode, words/],
  ['1K,', /"" is no key=value/],
  ['nope=1', /has no option "nope"; there are bytes, time/],
  ['=1', /has no option ""/],
  ['__proto__=1', /has no option "__proto__"/],
  ['constructor=1', /has no option "constructor"/],
  ['time=10', /"10" is no time up to 60s, such as 10ms or 1s/],
  ['time=1h', /is no time/],
  ['time=2m', /is no time/],
  ['time=99999999999999999999s', /is no time/],
  ['time=-1ms', /is no time/],
  ['count=10', /"10" is no whole number from 0 to 9/],
  ['count=1e0', /is no whole number/],
  ['part=10', /"10" is no percentage, such as 10% or 0.5%/],
  ['part=101%', /is no percentage/],
  ['part=-1%', /is no percentage/],
  ['part=%', /is no percentage/],
  ['file=', /Give a path/],
  ['mode=medium', /"medium" is none of fast, slow/],
  ['words=a,d', /"d" is none of a, b, c/],
  ['words=a,', /"" is none of a, b, c/],
])('%j is refused in one line', (text, reason) => {
  expect(() => parse(text)).toThrow(FilterError);
  expect(() => parse(text)).toThrow(reason);
  expect(() => parse(text)).toThrow(/^Filter "test"[^\n]+$/);
});

describe('the filters of the program', () => {
  test.each<[string, RegExp]>([
    ['', /^There is no filter ""; there are cow, delay, error, log, offset, partition, rate, readahead$/],
    ['Cow', /no filter "Cow"/],
    ['cow ', /no filter "cow "/],
    ['cow:', /"" is no key=value; there are overlay, cache/],
    ['cow:overlay=', /Give a path/],
    ['cow:cache=maybe', /none of default, none/],
    ['delay', /needs a command and a time, such as delay:read=10ms/],
    ['delay:read=2h', /is no time up to 3600s/],
    ['delay:open=1s', /has no option "open"; there are read, write, flush, trim, zero, cache, extents/],
    ['error', /needs rate=N%/],
    ['error:errno=EIO', /needs rate=N%/],
    ['error:rate=10%,errno=EINVAL', /none of EIO, EPERM, ENOMEM, ENOSPC, ESHUTDOWN/],
    ['error:rate=10%,commands=write,fsync', /"fsync" is none of read, write/],
    ['error:rate=10%,seed=4294967296', /no whole number from 0 to 4294967295/],
    ['log:level=info', /has no option "level"; there are file/],
    ['log:x', /"x" is no key=value; there are file/],
    ['offset', /needs offset=SIZE or range=SIZE/],
    ['offset:range=0', /from 1 to/],
    ['partition', /needs the number of one, such as partition:1/],
    ['partition:0', /no whole number from 1 to 65535/],
    ['partition:sda1', /no whole number/],
    ['rate', /needs rate=SIZE or connection-rate=SIZE/],
    ['rate:burst=1M', /needs rate=SIZE or connection-rate=SIZE/],
    ['rate:0', /from 1 to/],
    ['readahead:window=1K', /no size from 4096 to 33554432 bytes/],
    ['readahead:window=8M,memory=4M', /memory=4M does not hold a window of 8M/],
  ])('"%s" is refused', (text, reason) => {
    expect(() => parseFilter(text)).toThrow(FilterError);
    expect(() => parseFilter(text)).toThrow(reason);
  });

  test('whatever is typed is taken, or refused in one line', () => {
    const words = fc.constantFrom(
      ...FILTERS.map(({ name }) => name),
      'rate',
      'read',
      'file',
      'x',
      '10%',
      '1M',
      '1s',
    );
    const pieces = fc.array(fc.oneof(words, fc.constantFrom(':', ',', '=', ',,'), fc.string()), {
      maxLength: 8,
    });
    fc.assert(
      fc.property(pieces, (parts) => {
        try {
          expect(parseFilter(parts.join('')).name).not.toBe('');
        } catch (error) {
          expect(error).toBeInstanceOf(FilterError);
        }
      }),
      { numRuns: 500 },
    );
  });
});
