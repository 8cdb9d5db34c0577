import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  decodeUtf8,
  encodeUtf8,
  getU16,
  getU32,
  getU64,
  putU16,
  putU32,
  putU64,
  UNREPRESENTABLE,
} from '../../src/protocol/wire.ts';
import { hex, join, toHex } from './bytes.ts';

const MARGIN = 3;

/** `bytes` with other bytes before and behind, so that only a read at the right position gives the value. */
function framed(bytes: Uint8Array): Uint8Array {
  return join(new Uint8Array(MARGIN).fill(0xa5), bytes, new Uint8Array(MARGIN).fill(0x5a));
}

describe('integers', () => {
  test('all integers are big-endian and unsigned', () => {
    expect(getU16(hex('ff01'), 0)).toBe(0xff01);
    expect(getU32(hex('ff020304'), 0)).toBe(0xff020304);
    expect(getU64(hex('0000 0001 8000 0002'), 0)).toBe(0x1_8000_0002);
  });

  test('a 64-bit value from 2^53 on is UNREPRESENTABLE, the one below is exact', () => {
    expect(getU64(hex('001f ffff ffff ffff'), 0)).toBe(Number.MAX_SAFE_INTEGER);
    expect(getU64(hex('0020 0000 0000 0000'), 0)).toBe(UNREPRESENTABLE);
    expect(getU64(hex('ffff ffff ffff ffff'), 0)).toBe(UNREPRESENTABLE);
    expect(UNREPRESENTABLE).toBeGreaterThan(Number.MAX_SAFE_INTEGER);
  });

  test('decoding agrees with DataView at any position', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 8, maxLength: 8 }), (bytes) => {
        const view = new DataView(bytes.buffer, bytes.byteOffset);
        const message = framed(bytes);
        const wide = view.getBigUint64(0);
        expect(getU16(message, MARGIN)).toBe(view.getUint16(0));
        expect(getU32(message, MARGIN)).toBe(view.getUint32(0));
        expect(getU64(message, MARGIN)).toBe(wide < 2n ** 53n ? Number(wide) : UNREPRESENTABLE);
      }),
    );
  });

  test('encoding agrees with DataView and touches no other byte', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        const view = new DataView(new ArrayBuffer(8));
        view.setBigUint64(0, BigInt(value));
        const expected = new Uint8Array(view.buffer);
        const put = (count: number, write: (bytes: Uint8Array) => void): void => {
          const bytes = framed(new Uint8Array(count));
          write(bytes);
          expect(toHex(bytes)).toBe(toHex(framed(expected.slice(8 - count))));
        };
        put(2, (bytes) => putU16(bytes, MARGIN, value % 0x1_0000));
        put(4, (bytes) => putU32(bytes, MARGIN, value % 0x1_0000_0000));
        put(8, (bytes) => putU64(bytes, MARGIN, value));
      }),
    );
  });
});

describe('strings', () => {
  test.each([
    ['a lone continuation byte', '80'],
    ['an overlong slash', 'c0af'],
    ['a surrogate', 'eda080'],
    ['a value above U+10FFFF', 'f4908080'],
    ['a sequence that is cut off', '61e282'],
    ['a NUL', '610062'],
    ['an overlong NUL', 'c080'],
  ])('a string MUST be UTF-8 without NUL: refuses %s', (_, bytes) => {
    expect(decodeUtf8(hex(bytes))).toBeUndefined();
  });

  test('a leading byte order mark is part of the string', () => {
    expect(decodeUtf8(hex('efbbbf61'))).toBe('\ufeffa');
  });

  test('what is encoded decodes to itself', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary' }), (text) => {
        fc.pre(!text.includes('\0'));
        expect(decodeUtf8(encodeUtf8(text))).toBe(text);
      }),
    );
  });

  test('random bytes decode only to text that encodes to the same bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 12 }), (bytes) => {
        const text = decodeUtf8(bytes);
        const isText = Buffer.from(Buffer.from(bytes).toString('utf8'), 'utf8').equals(bytes);
        expect(text !== undefined).toBe(isText && !bytes.includes(0));
        if (text !== undefined) expect(Buffer.from(text, 'utf8').equals(bytes)).toBe(true);
      }),
      { numRuns: 1000 },
    );
  });
});
