import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  decodeExportName,
  decodeGo,
  encodeExportNameReply,
  encodeInfoReplies,
} from '../../../src/protocol/options/go.ts';
import { attemptParse, Cursor, digits, hex, join, pattern, toHex, u16, u32, utf8 } from '../bytes.ts';
import { DISK, DISK_FLAGS_SIMPLE } from '../exports.ts';
import { decodeOptionReplies, infoData, OPT, REP } from '../naive-client.ts';

interface NaiveGo {
  readonly exportName: string;
  readonly infoTypes: Set<number>;
}

/** The layout of proto.md, read front to back. */
function naiveGo(data: Uint8Array): NaiveGo | undefined {
  return attemptParse(() => {
    const cursor = new Cursor(data);
    const nameLength = cursor.u32();
    if (nameLength > 4096) throw new Error('Name too long');
    const exportName = cursor.text(nameLength);
    const infoTypes = new Set(Array.from({ length: cursor.u16() }, () => cursor.u16()));
    if (cursor.rest > 0) throw new Error('Trailing bytes');
    return { exportName, infoTypes };
  });
}

describe('INFO and GO data', () => {
  // "disk", asking for NAME and BLOCK_SIZE.
  const DATA = hex('00000004 6469736b 0002 0001 0003');

  test('decodes whole', () => {
    expect(decodeGo(DATA)).toEqual({ exportName: 'disk', infoTypes: new Set([1, 3]) });
  });

  test('decodes the default export without requests', () => {
    expect(decodeGo(hex('00000000 0000'))).toEqual({ exportName: '', infoTypes: new Set() });
  });

  test('an option length that does not match the inner lengths is malformed, byte by byte', () => {
    for (let length = 0; length < DATA.length; length += 1) {
      expect(decodeGo(DATA.subarray(0, length)), `${length} bytes`).toBeUndefined();
    }
    expect(decodeGo(join(DATA, hex('00')))).toBeUndefined();
    expect(decodeGo(join(DATA, hex('0003')))).toBeUndefined();
  });

  test.each([
    ['a name that reaches past the option', '00000005 6469736b 0000'],
    ['a name of 2^32-1 bytes', 'ffffffff 6469736b 0000'],
    ['more requests than data', '00000000 ffff 0001'],
    ['a NUL in the name', '00000001 00 0000'],
    ['a name that is no UTF-8', '00000001 ff 0000'],
  ])('refuses %s', (_, data) => {
    expect(decodeGo(hex(data))).toBeUndefined();
  });

  test('a request that is made twice counts once, unknown ones do no harm', () => {
    expect(decodeGo(infoData('', [3, 3, 0xffff]))?.infoTypes).toEqual(new Set([3, 0xffff]));
  });

  test('the largest legal GO (135172 bytes) decodes', () => {
    const data = infoData(
      'x'.repeat(4096),
      Array.from({ length: 65535 }, (_, index) => index),
    );
    expect(data).toHaveLength(135172);
    expect(decodeGo(data)?.infoTypes.size).toBe(65535);
  });

  test('agrees with a naive parser, also when bytes are changed or cut off', () => {
    const valid = fc
      .tuple(fc.string({ unit: 'grapheme', maxLength: 8 }), fc.array(fc.nat(0xffff), { maxLength: 6 }))
      .map(([name, infoTypes]) => infoData(name, infoTypes));
    const mutated = fc.tuple(valid, fc.nat(), fc.nat(255), fc.nat(40)).map(([data, index, byte, end]) => {
      const bytes = data.slice(0, 40 - end < data.length ? data.length : end);
      if (bytes.length > 0) bytes[index % bytes.length] = byte;
      return bytes;
    });
    fc.assert(
      fc.property(fc.oneof(valid, mutated, fc.uint8Array({ maxLength: 24 })), (data) => {
        expect(decodeGo(data)).toEqual(naiveGo(data));
      }),
      { numRuns: 2000 },
    );
  });
});

describe('export name', () => {
  test('is at most 4096 bytes long, counted in bytes and not in characters', () => {
    expect(decodeExportName(utf8('x'.repeat(4096)))).toHaveLength(4096);
    expect(decodeExportName(utf8('x'.repeat(4097)))).toBeUndefined();
    expect(decodeExportName(utf8('é'.repeat(2048)))).toHaveLength(2048);
    expect(decodeExportName(utf8('é'.repeat(2049)))).toBeUndefined();
  });

  test('refuses a NUL and what is no UTF-8', () => {
    expect(decodeExportName(hex('6400'))).toBeUndefined();
    expect(decodeExportName(hex('64ff'))).toBeUndefined();
  });
});

describe('INFO replies', () => {
  const infos = (infoTypes: readonly number[], info = DISK): string[] =>
    decodeOptionReplies(
      join(...encodeInfoReplies(OPT.INFO, info, new Set(infoTypes), DISK_FLAGS_SIMPLE)),
    ).map(({ option, type, data }) => {
      expect({ option, type }).toEqual({ option: OPT.INFO, type: REP.INFO });
      return toHex(data);
    });
  const EXPORT = digits('0000 0000000001000000 0d6d');

  test('EXPORT is sent although the client did not ask: 12 bytes, size and flags', () => {
    expect(infos([])).toEqual([EXPORT]);
    expect(infos([0])).toEqual([EXPORT]);
  });

  test('NAME, DESCRIPTION and BLOCK_SIZE (14 bytes) are sent when asked for, each once', () => {
    expect(infos([3, 2, 1, 0])).toEqual([
      EXPORT,
      `0001${toHex(utf8('disk'))}`,
      `0002${toHex(utf8('A disk'))}`,
      digits('0003 00000001 00001000 02000000'),
    ]);
  });

  test('unknown information types are ignored', () => {
    expect(infos([4, 0xffff])).toEqual([EXPORT]);
  });

  test('an export without description has no DESCRIPTION', () => {
    expect(infos([2], { ...DISK, description: '' })).toEqual([EXPORT]);
  });

  test('a size of 2^53-1 is sent exactly', () => {
    const size = Number.MAX_SAFE_INTEGER;
    expect(infos([], { ...DISK, size })).toEqual([digits('0000 001fffffffffffff 0d6d')]);
  });

  test('the transmission flags are sent as they are', () => {
    const [reply] = decodeOptionReplies(join(...encodeInfoReplies(OPT.GO, DISK, new Set(), 0xf00f)));
    expect(toHex(reply?.data.subarray(10) ?? hex(''))).toBe('f00f');
  });
});

describe('EXPORT_NAME reply', () => {
  const HEAD = digits('0000000001000000 0d6d');

  test('has no option reply header and MUST NOT have zeroes when the client declined them: 10 bytes', () => {
    expect(toHex(encodeExportNameReply(DISK, DISK_FLAGS_SIMPLE, false))).toBe(HEAD);
  });

  test('MUST have 124 zeroes when the client did not decline them: 134 bytes', () => {
    const reply = encodeExportNameReply(DISK, DISK_FLAGS_SIMPLE, true);
    expect(reply).toHaveLength(134);
    expect(toHex(reply)).toBe(`${HEAD}${'00'.repeat(124)}`);
  });
});

test('the tests of this file read what they write', () => {
  expect(naiveGo(join(u32(1), utf8('a'), u16(1), u16(3)))).toEqual({
    exportName: 'a',
    infoTypes: new Set([3]),
  });
  expect(naiveGo(pattern(9))).toBeUndefined();
});
