import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  decodeExtendedRequest,
  decodeRequest,
  decodeStatusFilter,
  describeRequest,
  EXTENDED_REQUEST_HEADER_BYTES,
  emptyRequest,
  REQUEST_HEADER_BYTES,
} from '../../src/protocol/request.ts';
import { UNREPRESENTABLE } from '../../src/protocol/wire.ts';
import { hex, join, u32, u64 } from './bytes.ts';
import { statusFilter } from './naive-client.ts';

// WRITE with FUA, cookie 0102030405060708, 512 bytes at 2^32 + 4096.
const HEADER = hex('25609513 0001 0001 0102030405060708 0000000100001000 00000200');
const DECODED = {
  flags: 1,
  type: 1,
  cookieHigh: 0x01020304,
  cookieLow: 0x05060708,
  offset: 2 ** 32 + 4096,
  offsetHigh: 1,
  offsetLow: 4096,
  length: 512,
  payloadLength: 512,
  contextIds: undefined,
  startTime: 0,
};

test('a request header is 28 bytes long and decodes whole', () => {
  const request = emptyRequest();
  expect(REQUEST_HEADER_BYTES).toBe(HEADER.length);
  expect(decodeRequest(HEADER, 0, request)).toBe(true);
  expect(request).toEqual(DECODED);
});

test('a request header decodes at any position and with bytes behind', () => {
  const request = emptyRequest();
  expect(decodeRequest(join(hex('256095'), HEADER, hex('ffffffff')), 3, request)).toBe(true);
  expect(request).toEqual(DECODED);
});

test('flags and type are two fields: a flag never changes the command', () => {
  const request = emptyRequest();
  decodeRequest(hex('25609513 ffff 0003 0000000000000000 0000000000000000 00000000'), 0, request);
  expect(request).toMatchObject({ flags: 0xffff, type: 3 });
});

test('a single wrong bit in the magic is noticed', () => {
  for (let bit = 0; bit < 32; bit += 1) {
    const bytes = HEADER.slice();
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    expect(decodeRequest(bytes, 0, emptyRequest()), `bit ${bit}`).toBe(false);
  }
});

test.each(['12560953', '96744668', '25609514', '21e41c71'])(
  'the historic or extended magic %s is wrong',
  (magic) => {
    expect(decodeRequest(join(hex(magic), HEADER.subarray(4)), 0, emptyRequest())).toBe(false);
  },
);

test('a request header agrees with DataView', () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 24, maxLength: 24 }), (fields) => {
      const bytes = join(hex('25609513'), fields);
      const view = new DataView(bytes.buffer);
      const offset = view.getBigUint64(16);
      const request = emptyRequest();
      expect(decodeRequest(bytes, 0, request)).toBe(true);
      expect(request).toEqual({
        flags: view.getUint16(4),
        type: view.getUint16(6),
        cookieHigh: view.getUint32(8),
        cookieLow: view.getUint32(12),
        offset: offset < 2n ** 53n ? Number(offset) : UNREPRESENTABLE,
        offsetHigh: view.getUint32(16),
        offsetLow: view.getUint32(20),
        length: view.getUint32(24),
        payloadLength: view.getUint16(6) === 1 ? view.getUint32(24) : 0,
        contextIds: undefined,
        startTime: 0,
      });
    }),
  );
});

// WRITE_ZEROES with NO_HOLE, cookie 0102030405060708, 2^40 + 512 bytes at 2^32 + 4096.
const EXTENDED = hex('21e41c71 0002 0006 0102030405060708 0000000100001000 0000010000000200');
const DECODED_EXTENDED = { ...DECODED, flags: 2, type: 6, length: 2 ** 40 + 512, payloadLength: 0 };

test('an extended request header is 32 bytes long and decodes whole, at any position and with bytes behind', () => {
  expect(EXTENDED_REQUEST_HEADER_BYTES).toBe(EXTENDED.length);
  for (const before of ['', '21e41c']) {
    const request = emptyRequest();
    const bytes = join(hex(before), EXTENDED, hex('ffffffff'));
    expect(decodeExtendedRequest(bytes, hex(before).length, request)).toBe(true);
    expect(request).toEqual(DECODED_EXTENDED);
  }
});

test('either decoder refuses the magic of the other, and every single wrong bit', () => {
  expect(decodeExtendedRequest(join(HEADER, hex('00000000')), 0, emptyRequest())).toBe(false);
  expect(decodeRequest(EXTENDED, 0, emptyRequest())).toBe(false);
  for (let bit = 0; bit < 32; bit += 1) {
    const bytes = EXTENDED.slice();
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    expect(decodeExtendedRequest(bytes, 0, emptyRequest()), `bit ${bit}`).toBe(false);
  }
});

test('PAYLOAD_LEN alone says that a payload follows an extended header, whatever the command', () => {
  const request = emptyRequest();
  for (const type of [0, 1, 3, 4, 5, 6, 7, 99]) {
    for (const flags of [0, 0x20, 0x21, 0xffdf, 0xffff]) {
      const bytes = EXTENDED.slice();
      bytes.set([flags >> 8, flags & 0xff, 0, type], 4);
      decodeExtendedRequest(bytes, 0, request);
      expect(request.payloadLength).toBe((flags & 0x20) === 0 ? 0 : 2 ** 40 + 512);
    }
  }
});

test('an extended request header agrees with DataView', () => {
  const edge = fc.constantFrom(0n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 64n - 1n);
  const word = fc.oneof(edge, fc.bigInt(0n, 2n ** 64n - 1n));
  fc.assert(
    fc.property(fc.nat(0xffff), fc.nat(0xffff), word, word, word, (flags, type, cookie, offset, length) => {
      const bytes = new Uint8Array(32);
      const view = new DataView(bytes.buffer);
      view.setUint32(0, 0x21e41c71);
      view.setUint16(4, flags);
      view.setUint16(6, type);
      for (const [index, value] of [cookie, offset, length].entries())
        view.setBigUint64(8 + 8 * index, value);
      const request = emptyRequest();
      expect(decodeExtendedRequest(bytes, 0, request)).toBe(true);
      const exact = (value: bigint): number => (value < 2n ** 53n ? Number(value) : UNREPRESENTABLE);
      expect(request).toEqual({
        flags,
        type,
        cookieHigh: view.getUint32(8),
        cookieLow: view.getUint32(12),
        offset: exact(offset),
        offsetHigh: view.getUint32(16),
        offsetLow: view.getUint32(20),
        length: exact(length),
        payloadLength: (flags & 0x20) === 0 ? 0 : exact(length),
        contextIds: undefined,
        startTime: 0,
      });
    }),
  );
});

test('the payload of BLOCK_STATUS gives length and contexts, and the next header forgets them', () => {
  const request = emptyRequest();
  decodeStatusFilter(statusFilter(2n ** 40n + 7n, [3, 1, 0xffffffff]), request);
  expect(request).toMatchObject({ length: 2 ** 40 + 7, contextIds: [3, 1, 0xffffffff] });
  decodeStatusFilter(join(u64(2n ** 53n), u32(9)), request);
  expect(request).toMatchObject({ length: UNREPRESENTABLE, contextIds: [9] });
  decodeExtendedRequest(EXTENDED, 0, request);
  expect(request).toEqual(DECODED_EXTENDED);
});

test('a request is described with its command and its exact range', () => {
  const request = emptyRequest();
  decodeRequest(HEADER, 0, request);
  expect(describeRequest(request)).toBe('WRITE of 512 bytes at 4294971392');
  decodeExtendedRequest(
    hex('21e41c71 0000 00ff 0000000000000000 ffffffffffffffff 0020000000000000'),
    0,
    request,
  );
  expect(describeRequest(request)).toBe('command 255 of at least 2^53 bytes at 18446744073709551615');
});
