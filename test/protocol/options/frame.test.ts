import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  decodeOptionHeader,
  encodeGreeting,
  encodeOptionError,
  encodeOptionReply,
} from '../../../src/protocol/options/frame.ts';
import { Cursor, digits, hex, join, toHex, utf8 } from '../bytes.ts';
import { decodeOptionReplies } from '../naive-client.ts';

describe('greeting', () => {
  test('server hello is NBDMAGIC, IHAVEOPT and the flags FIXED_NEWSTYLE and NO_ZEROES, no others', () => {
    expect(toHex(encodeGreeting())).toBe(digits('4e42444d41474943 49484156454f5054 0003'));
  });
});

describe('option header', () => {
  const GO_HEADER = hex('49484156454f5054 00000007 00000012');

  test('decodes whole, at any position and with bytes behind', () => {
    const expected = { option: 7, length: 18 };
    expect(decodeOptionHeader(GO_HEADER, 0)).toEqual(expected);
    expect(decodeOptionHeader(join(hex('ffffff'), GO_HEADER, hex('ffff')), 3)).toEqual(expected);
  });

  test('option and length are unsigned', () => {
    expect(decodeOptionHeader(hex('49484156454f5054 fffffffe ffffffff'), 0)).toEqual({
      option: 0xfffffffe,
      length: 0xffffffff,
    });
  });

  test('a single wrong bit in the magic is noticed', () => {
    for (let bit = 0; bit < 64; bit += 1) {
      const bytes = GO_HEADER.slice();
      bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      expect(decodeOptionHeader(bytes, 0), `bit ${bit}`).toBeUndefined();
    }
  });

  test('agrees with a naive reader', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 8, maxLength: 8 }), (fields) => {
        const cursor = new Cursor(fields);
        const expected = { option: cursor.u32(), length: cursor.u32() };
        expect(decodeOptionHeader(join(utf8('IHAVEOPT'), fields), 0)).toEqual(expected);
      }),
    );
  });
});

describe('option reply', () => {
  test('ACK echoes the option and carries no data', () => {
    expect(toHex(encodeOptionReply(8, 1))).toBe(digits('0003e889045565a9 00000008 00000001 00000000'));
  });

  test('an error has bit 31 set and a message as its data', () => {
    expect(toHex(encodeOptionError(3, 0x80000001, 'No'))).toBe(
      digits('0003e889045565a9 00000003 80000001 00000002 4e6f'),
    );
  });

  test('decodes with a naive client', () => {
    fc.assert(
      fc.property(fc.nat(0xffffffff), fc.constantFrom(2, 3, 4), fc.uint8Array(), (option, type, data) => {
        expect(decodeOptionReplies(encodeOptionReply(option, type, data))).toEqual([{ option, type, data }]);
      }),
    );
  });

  test('an error message MUST not exceed 4096 bytes', () => {
    const [reply] = decodeOptionReplies(encodeOptionError(7, 0x80000006, 'x'.repeat(5000)));
    expect(reply?.data).toHaveLength(4096);
  });

  test('an error message that is cut at 4096 bytes MUST still be UTF-8', () => {
    for (const prefix of ['', 'x', 'xx', 'xxx']) {
      const [reply] = decodeOptionReplies(
        encodeOptionError(7, 0x80000006, prefix + '\u{1f4be}'.repeat(1200)),
      );
      expect(reply?.data.length).toBeGreaterThan(4092);
    }
  });
});
