import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { META_QUERY_COUNT_MAX } from '../../../src/limits.ts';
import {
  decodeMetaContext,
  encodeMetaContext,
  listContexts,
  selectContexts,
} from '../../../src/protocol/options/meta-context.ts';
import { attemptParse, Cursor, digits, hex, join, toHex, u32, utf8 } from '../bytes.ts';
import { metaData } from '../naive-client.ts';

interface NaiveMetaContext {
  readonly exportName: string;
  readonly queries: string[];
}

function naiveMetaContext(data: Uint8Array): NaiveMetaContext | 'invalid' {
  const text = (cursor: Cursor): string => {
    const length = cursor.u32();
    if (length > 4096) throw new Error('String too long');
    return cursor.text(length);
  };
  const parsed = attemptParse(() => {
    const cursor = new Cursor(data);
    const exportName = text(cursor);
    const queries: string[] = [];
    for (let count = cursor.u32(); count > 0; count -= 1) queries.push(text(cursor));
    if (cursor.rest > 0) throw new Error('Trailing bytes');
    return { exportName, queries };
  });
  return parsed ?? 'invalid';
}

describe('meta context data', () => {
  // Export "a", queries "base:" and "x:y".
  const DATA = hex('00000001 61 00000002 00000005 626173653a 00000003 783a79');

  test('decodes whole', () => {
    expect(decodeMetaContext(DATA)).toEqual({ exportName: 'a', queries: ['base:', 'x:y'] });
  });

  test('decodes the default export without queries', () => {
    expect(decodeMetaContext(hex('00000000 00000000'))).toEqual({ exportName: '', queries: [] });
  });

  test('lengths that do not add up MUST be invalid, byte by byte', () => {
    for (let length = 0; length < DATA.length; length += 1) {
      expect(decodeMetaContext(DATA.subarray(0, length)), `${length} bytes`).toBe('invalid');
    }
    expect(decodeMetaContext(join(DATA, hex('00')))).toBe('invalid');
  });

  test.each([
    ['a name that reaches past the option', '00000002 61 00000000'],
    ['a name of 2^32-1 bytes', 'ffffffff 61 00000000'],
    ['a count of 2^32-1 queries', '00000000 ffffffff'],
    ['a count of 2^32-1 queries and one query', '00000000 ffffffff 00000001 61'],
    ['a query that reaches past the option', '00000000 00000001 00000002 61'],
    ['a query of 2^32-1 bytes', '00000000 00000001 ffffffff 61'],
    ['a count below the queries that are there', '00000000 00000001 00000000 00000000'],
    ['a NUL in the name', '00000001 00 00000000'],
    ['a query that is no UTF-8', '00000000 00000001 00000001 ff'],
  ])('refuses %s', (_, data) => {
    expect(decodeMetaContext(hex(data))).toBe('invalid');
  });

  test('a query is at most 4096 bytes long', () => {
    expect(decodeMetaContext(metaData('', ['x'.repeat(4096)]))).toMatchObject({ exportName: '' });
    expect(decodeMetaContext(metaData('', ['x'.repeat(4097)]))).toBe('invalid');
  });

  test('a flood of well-formed queries is too big', () => {
    const queries = Array.from({ length: META_QUERY_COUNT_MAX }, () => 'x:');
    expect(decodeMetaContext(metaData('', queries))).toEqual({ exportName: '', queries });
    expect(decodeMetaContext(metaData('', [...queries, 'x:']))).toBe('too-big');
  });

  test('a count above the limit that the data cannot hold MUST be invalid, not too big', () => {
    const count = META_QUERY_COUNT_MAX + 1;
    expect(decodeMetaContext(join(u32(0), u32(count), new Uint8Array(4 * count - 1)))).toBe('invalid');
  });

  test('agrees with a naive parser, also when bytes are changed or cut off', () => {
    const valid = fc
      .tuple(
        fc.string({ unit: 'grapheme', maxLength: 5 }),
        fc.array(fc.string({ unit: 'grapheme', maxLength: 5 }), { maxLength: 4 }),
      )
      .map(([name, queries]) => metaData(name, queries));
    const mutated = fc.tuple(valid, fc.nat(), fc.nat(255), fc.nat(60)).map(([data, index, byte, end]) => {
      const bytes = data.slice(0, end < 30 ? data.length : end);
      bytes[index % bytes.length] = byte;
      return bytes;
    });
    fc.assert(
      fc.property(fc.oneof(valid, mutated, fc.uint8Array({ maxLength: 24 })), (data) => {
        expect(decodeMetaContext(data)).toEqual(naiveMetaContext(data));
      }),
      { numRuns: 2000 },
    );
  });
});

describe('choice of contexts', () => {
  const OFFERED = ['base:allocation', 'qemu:dirty-bitmap:b0', 'qemu:allocation-depth'];
  const names = (queries: readonly string[]): string[] =>
    listContexts(queries, OFFERED).map(({ name }) => name);

  test('LIST without a query MUST return every context', () => {
    expect(names([])).toEqual(OFFERED);
  });

  test('LIST MUST treat `base:` as a wildcard for the namespace', () => {
    expect(names(['base:'])).toEqual(['base:allocation']);
    expect(names(['qemu:'])).toEqual(['qemu:dirty-bitmap:b0', 'qemu:allocation-depth']);
  });

  test('LIST returns the contexts that match any query, each once', () => {
    expect(names(['base:allocation', 'base:', 'base:allocation', 'x:y'])).toEqual(['base:allocation']);
    expect(names(['qemu:allocation-depth', 'base:'])).toEqual(['base:allocation', 'qemu:allocation-depth']);
  });

  test.each(['', 'base', 'base:alloc', ':', 'BASE:', 'base:allocation:', 'x-new:', 'bas:'])(
    'LIST finds nothing for the unknown query `%s`',
    (query) => {
      expect(names([query])).toEqual([]);
    },
  );

  test('ids in LIST replies SHOULD be 0', () => {
    expect(listContexts([], OFFERED).map(({ id }) => id)).toEqual([0, 0, 0]);
  });

  test('SET selects exact names only and MUST ignore `base:` and unknown leaves', () => {
    expect(selectContexts(['base:', 'base:unknown', 'x:y', '', 'base'], OFFERED)).toEqual([]);
    expect(selectContexts(['base:allocation'], OFFERED).map(({ name }) => name)).toEqual(['base:allocation']);
  });

  test('SET without a query MUST select nothing', () => {
    expect(selectContexts([], OFFERED)).toEqual([]);
  });

  test('SET gives each context one unique id, however often it is asked for', () => {
    const selected = selectContexts([...OFFERED, ...OFFERED], OFFERED);
    expect(selected.map(({ name }) => name)).toEqual(OFFERED);
    expect(new Set(selected.map(({ id }) => id)).size).toBe(OFFERED.length);
  });
});

test('META_CONTEXT is the id and the name as the rest', () => {
  expect(toHex(encodeMetaContext(10, { id: 0x01020304, name: 'base:allocation' }))).toBe(
    digits(`0003e889045565a9 0000000a 00000004 00000013 01020304 ${toHex(utf8('base:allocation'))}`),
  );
  expect(toHex(encodeMetaContext(9, { id: 0, name: 'x:' }))).toBe(
    digits(`0003e889045565a9 00000009 00000004 00000006 ${toHex(u32(0))} 783a`),
  );
});
