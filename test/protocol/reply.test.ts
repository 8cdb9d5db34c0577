import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  type ChunkForm,
  type ContextStatus,
  dataHeaderBytes,
  type Echo,
  EMPTY_REPLY_BYTES_MAX,
  encodeBlockStatus,
  encodeError,
  holeBytes,
  putDataHeader,
  putDone,
  putHole,
  type StatusExtent,
} from '../../src/protocol/reply.ts';
import { Cursor, digits, join, pattern, toHex } from './bytes.ts';
import { decodeReplyChunks } from './naive-client.ts';

// An offset beyond 2^53, which only the raw words can echo.
const COOKIE: Echo = {
  cookieHigh: 0xf1f2f3f4,
  cookieLow: 0x05060708,
  offsetHigh: 0xfedcba98,
  offsetLow: 0x76543211,
};
const ECHOED_HEX = 'fedcba9876543211';
const ECHOED = 0xfedcba9876543211n;
const COOKIE_HEX = 'f1f2f3f405060708';
const COOKIE_VALUE = 0xf1f2f3f405060708n;

/** What `put` wrote at position 3 of a larger buffer; fails when it touched other bytes. */
function written(room: number, put: (bytes: Uint8Array, position: number) => number): Uint8Array {
  const bytes = new Uint8Array(3 + room + 3).fill(0xa5);
  const end = put(bytes, 3);
  expect(end).toBeLessThanOrEqual(3 + room);
  expect(toHex(bytes.subarray(0, 3))).toBe('a5a5a5');
  expect(bytes.subarray(end).every((byte) => byte === 0xa5)).toBe(true);
  return bytes.subarray(3, end);
}

describe('simple replies', () => {
  test('success is magic, error 0 and the cookie unchanged: 16 bytes', () => {
    expect(toHex(written(EMPTY_REPLY_BYTES_MAX, (bytes, at) => putDone(bytes, at, 'simple', COOKIE)))).toBe(
      digits(`67446698 00000000 ${COOKIE_HEX}`),
    );
  });

  test('the data of a READ follows the same header', () => {
    const header = written(dataHeaderBytes('simple'), (bytes, at) =>
      putDataHeader(bytes, at, 'simple', COOKIE, 4096, 512),
    );
    expect(toHex(header)).toBe(digits(`67446698 00000000 ${COOKIE_HEX}`));
    expect(header).toHaveLength(dataHeaderBytes('simple'));
  });

  test('an error carries its value and no message', () => {
    expect(toHex(encodeError('simple', COOKIE, 28, 'Full'))).toBe(digits(`67446698 0000001c ${COOKIE_HEX}`));
  });
});

describe('structured replies', () => {
  test('success without data is a NONE chunk with DONE: 20 bytes', () => {
    const reply = written(EMPTY_REPLY_BYTES_MAX, (bytes, at) => putDone(bytes, at, 'structured', COOKIE));
    expect(toHex(reply)).toBe(digits(`668e33ef 0001 0000 ${COOKIE_HEX} 00000000`));
  });

  test('the data of a READ is one OFFSET_DATA chunk with DONE', () => {
    const header = written(dataHeaderBytes('structured'), (bytes, at) =>
      putDataHeader(bytes, at, 'structured', COOKIE, 2 ** 32 + 5, 512),
    );
    expect(toHex(header)).toBe(digits(`668e33ef 0001 0001 ${COOKIE_HEX} 00000208 0000000100000005`));
    expect(header).toHaveLength(dataHeaderBytes('structured'));
  });

  test('an error is an ERROR chunk with value, length and message', () => {
    expect(toHex(encodeError('structured', COOKIE, 22, 'No'))).toBe(
      digits(`668e33ef 0001 8001 ${COOKIE_HEX} 00000008 00000016 0002 4e6f`),
    );
    expect(toHex(encodeError('structured', COOKIE, 5, ''))).toBe(
      digits(`668e33ef 0001 8001 ${COOKIE_HEX} 00000006 00000005 0000`),
    );
  });

  test('an error message MUST not exceed 4096 bytes', () => {
    const [chunk] = decodeReplyChunks(encodeError('structured', COOKIE, 5, 'x'.repeat(5000)));
    expect(chunk).toMatchObject({ kind: 'error', errno: 5, message: 'x'.repeat(4096) });
  });

  test('an error message that is cut at 4096 bytes MUST still be UTF-8', () => {
    for (const prefix of ['', 'x', 'xx', 'xxx']) {
      const message = prefix + '\u{1f4be}'.repeat(1200);
      const [chunk] = decodeReplyChunks(encodeError('structured', COOKIE, 5, message));
      expect(chunk).toMatchObject({
        kind: 'error',
        message: message.slice(0, prefix.length + 2 * 1024 - (prefix === '' ? 0 : 2)),
      });
    }
  });

  test('every reply decodes with a naive client and echoes the cookie', () => {
    const word = fc.nat(0xffffffff);
    const errno = fc.constantFrom(1, 5, 12, 22, 28, 75, 95, 108);
    fc.assert(
      fc.property(
        fc.record({ cookieHigh: word, cookieLow: word, offsetHigh: word, offsetLow: word }),
        fc.maxSafeNat(),
        fc.integer({ min: 1, max: 64 }),
        errno,
        fc.string({ unit: 'grapheme' }),
        (cookie, offset, length, error, message) => {
          const value = (BigInt(cookie.cookieHigh) << 32n) | BigInt(cookie.cookieLow);
          const data = pattern(length);
          const echoed = (BigInt(cookie.offsetHigh) << 32n) | BigInt(cookie.offsetLow);
          for (const form of ['structured', 'extended'] as const) {
            const common = { cookie: value, isDone: true, ...(form === 'extended' ? { echoed } : {}) };
            const header = new Uint8Array(dataHeaderBytes(form));
            putDataHeader(header, 0, form, cookie, offset, length);
            expect(decodeReplyChunks(join(header, data))).toEqual([
              { ...common, kind: 'data', offset: BigInt(offset), data },
            ]);
            expect(decodeReplyChunks(encodeError(form, cookie, error, message))).toEqual([
              { ...common, kind: 'error', errno: error, message },
            ]);
          }
          const simple = new Cursor(encodeError('simple', cookie, error, message));
          expect([simple.u32(), simple.u32(), simple.u64(), simple.rest]).toEqual([
            0x67446698,
            error,
            value,
            0,
          ]);
        },
      ),
    );
  });
});

describe('extended replies', () => {
  test('success without data is a NONE chunk with DONE that echoes the offset of the request: 32 bytes', () => {
    const reply = written(EMPTY_REPLY_BYTES_MAX, (bytes, at) => putDone(bytes, at, 'extended', COOKIE));
    expect(toHex(reply)).toBe(digits(`6e8a278c 0001 0000 ${COOKIE_HEX} ${ECHOED_HEX} 0000000000000000`));
  });

  test('the data of a READ is an OFFSET_DATA chunk with its own offset behind the echoed one', () => {
    const header = written(dataHeaderBytes('extended'), (bytes, at) =>
      putDataHeader(bytes, at, 'extended', COOKIE, 2 ** 32 + 5, 512),
    );
    expect(toHex(header)).toBe(
      digits(`6e8a278c 0001 0001 ${COOKIE_HEX} ${ECHOED_HEX} 0000000000000208 0000000100000005`),
    );
    expect(header).toHaveLength(dataHeaderBytes('extended'));
  });

  test('an error is an ERROR chunk with value, length and message, for an offset beyond 2^53, too', () => {
    const bytes = encodeError('extended', COOKIE, 22, 'No');
    expect(toHex(bytes)).toBe(
      digits(`6e8a278c 0001 8001 ${COOKIE_HEX} ${ECHOED_HEX} 0000000000000008 00000016 0002 4e6f`),
    );
    expect(decodeReplyChunks(bytes)).toMatchObject([{ kind: 'error', errno: 22, echoed: ECHOED }]);
  });

  test('an error message MUST not exceed 4096 bytes', () => {
    const [chunk] = decodeReplyChunks(encodeError('extended', COOKIE, 5, 'x'.repeat(5000)));
    expect(chunk).toMatchObject({ message: 'x'.repeat(4096) });
  });
});

describe('a READ in several chunks', () => {
  test('a hole is an OFFSET_HOLE chunk of 12 bytes of payload: offset and length', () => {
    const structured = written(holeBytes('structured'), (bytes, at) =>
      putHole(bytes, at, 'structured', COOKIE, 2 ** 40 + 512, 2 ** 32 - 512, true),
    );
    expect(toHex(structured)).toBe(
      digits(`668e33ef 0001 0002 ${COOKIE_HEX} 0000000c 0000010000000200 fffffe00`),
    );
    expect(structured).toHaveLength(holeBytes('structured'));
    const extended = written(holeBytes('extended'), (bytes, at) =>
      putHole(bytes, at, 'extended', COOKIE, 512, 4096, false),
    );
    expect(toHex(extended)).toBe(
      digits(`6e8a278c 0000 0002 ${COOKIE_HEX} ${ECHOED_HEX} 000000000000000c 0000000000000200 00001000`),
    );
    expect(extended).toHaveLength(holeBytes('extended'));
  });

  test.each(['structured', 'extended'] as const)('%s: DONE is on the last chunk only', (form) => {
    const bytes = new Uint8Array(2 * dataHeaderBytes(form) + holeBytes(form) + 5);
    let position = putDataHeader(bytes, 0, form, COOKIE, 0, 2, false);
    bytes.set([7, 8], position);
    position = putHole(bytes, position + 2, form, COOKIE, 2, 512, false);
    position = putDataHeader(bytes, position, form, COOKIE, 514, 3);
    bytes.set([1, 2, 3], position);
    expect(position + 3).toBe(bytes.length);
    expect(decodeReplyChunks(bytes)).toMatchObject([
      { kind: 'data', offset: 0n, data: Uint8Array.of(7, 8) },
      { kind: 'hole', offset: 2n, length: 512 },
      { kind: 'data', offset: 514n, data: Uint8Array.of(1, 2, 3) },
    ]);
  });

  test.each(['structured', 'extended'] as const)('%s: an error may follow chunks that were sent', (form) => {
    const hole = new Uint8Array(holeBytes(form));
    putHole(hole, 0, form, COOKIE, 0, 512, false);
    const chunks = decodeReplyChunks(join(hole, encodeError(form, COOKIE, 5, 'Lost')));
    expect(chunks.map(({ kind }) => kind)).toEqual(['hole', 'error']);
  });
});

describe('BLOCK_STATUS', () => {
  const GIB = 2 ** 30;
  const statusOf = (
    contexts: readonly ContextStatus[],
    requestLength: number,
    isRequestOne = false,
    form: ChunkForm = 'structured',
  ): { id: number; extents: [number, number][] }[] =>
    decodeReplyChunks(encodeBlockStatus(form, COOKIE, contexts, requestLength, isRequestOne)).map((chunk) => {
      expect(chunk.cookie).toBe(COOKIE_VALUE);
      if (chunk.kind !== 'status') throw new Error(`A chunk of kind ${chunk.kind}`);
      return { id: chunk.id, extents: chunk.extents };
    });
  const extentsOf = (
    extents: readonly StatusExtent[],
    requestLength: number,
    isRequestOne = false,
    form: ChunkForm = 'structured',
  ) => statusOf([{ id: 1, extents }], requestLength, isRequestOne, form)[0]?.extents;

  test('one context is one chunk: id, then length and status of each extent', () => {
    const extents = [
      { length: 4096, status: 0 },
      { length: 8192, status: 3 },
    ];
    expect(toHex(encodeBlockStatus('structured', COOKIE, [{ id: 7, extents }], 12288, false))).toBe(
      digits(`668e33ef 0001 0005 ${COOKIE_HEX} 00000014 00000007 0000100000000000 0000200000000003`),
    );
  });

  test('one context in an extended reply is one chunk of type 6: id, count, then 64-bit length and status', () => {
    const extents = [
      { length: 4096, status: 0 },
      { length: 2 ** 40, status: 3 },
    ];
    const bytes = encodeBlockStatus('extended', COOKIE, [{ id: 7, extents }], 2 ** 41, false);
    expect(toHex(bytes)).toBe(
      digits(
        `6e8a278c 0001 0006 ${COOKIE_HEX} ${ECHOED_HEX} 0000000000000028 00000007 00000002
         0000000000001000 0000000000000000 0000010000000000 0000000000000003`,
      ),
    );
  });

  test('an extended reply MUST use type 6 also for small lengths, and one chunk for each context', () => {
    const contexts = [3, 1].map((id) => ({ id, extents: [{ length: 512, status: id }] }));
    expect(statusOf(contexts, 512, false, 'extended')).toEqual(
      contexts.map(({ id }) => ({ id, extents: [[512, id]] })),
    );
  });

  test('an extended reply covers a whole export of 8 PiB in one extent', () => {
    const extents = [{ length: 2 ** 53 - 1, status: 3 }];
    expect(extentsOf(extents, 2 ** 53 - 1, false, 'extended')).toEqual([[2 ** 53 - 1, 3]]);
    expect(extentsOf(extents, 2 ** 40, true, 'extended')).toEqual([[2 ** 40, 3]]);
  });

  test('success MUST be exactly one chunk for each context, DONE on the last only', () => {
    const contexts = [3, 1, 2].map((id) => ({ id, extents: [{ length: 512, status: id }] }));
    expect(statusOf(contexts, 512)).toEqual(contexts.map(({ id }) => ({ id, extents: [[512, id]] })));
  });

  test('neighbours of equal status SHOULD be merged', () => {
    const extents = [0, 0, 3, 3, 3, 0].map((status) => ({ length: 512, status }));
    expect(extentsOf(extents, 3072)).toEqual([
      [1024, 0],
      [1536, 3],
      [512, 0],
    ]);
  });

  test('what lies past the end of the request is cut off', () => {
    const extents = [
      { length: 4096, status: 0 },
      { length: 2 ** 50, status: 3 },
    ];
    expect(extentsOf(extents, 5000)).toEqual([
      [4096, 0],
      [904, 3],
    ]);
    expect(extentsOf(extents, 4096)).toEqual([[4096, 0]]);
    expect(extentsOf(extents, 1)).toEqual([[1, 0]]);
  });

  test('less than the request asks for may be answered', () => {
    expect(extentsOf([{ length: 512, status: 1 }], 4096)).toEqual([[512, 1]]);
  });

  test('REQ_ONE MUST give exactly one extent, no longer than the request', () => {
    const extents = [
      { length: 512, status: 3 },
      { length: 512, status: 3 },
      { length: 512, status: 0 },
    ];
    expect(extentsOf(extents, 4096, true)).toEqual([[1024, 3]]);
    expect(extentsOf(extents, 700, true)).toEqual([[700, 3]]);
  });

  test.each([2 ** 32 - 1, 2 ** 32 - 512, 2 ** 32 - 4096, 2 ** 32 - 65536, 2 ** 32 - 65537])(
    'an extent of 8 PiB is clamped to a request of %i bytes, below 2^32',
    (requestLength) => {
      const extents = [{ length: 2 ** 53 - 1, status: 3 }];
      const answered = extentsOf(extents, requestLength) ?? [];
      expect(answered.reduce((sum, [length]) => sum + length, 0)).toBe(requestLength);
      expect(answered.every(([, status]) => status === 3)).toBe(true);
      expect(extentsOf(extents, requestLength, true)).toHaveLength(1);
    },
  );

  test('many extents whose sum passes 2^32 are cut at the request', () => {
    const extents = Array.from({ length: 10 }, (_, index) => ({ length: GIB, status: index % 2 }));
    expect(extentsOf(extents, 2 ** 32 - 1)).toEqual([
      [GIB, 0],
      [GIB, 1],
      [GIB, 0],
      [GIB - 1, 1],
    ]);
    const merged = extents.map(({ length }) => ({ length, status: 0 }));
    expect(extentsOf(merged, 2 ** 32 - 1)?.reduce((sum, [length]) => sum + length, 0)).toBe(2 ** 32 - 1);
  });

  test('extents are consecutive, never zero, and tell the truth about every byte that they cover', () => {
    const extent = fc.record({
      length: fc.oneof(fc.integer({ min: 1, max: 2048 }), fc.integer({ min: 1, max: 2 ** 33 })),
      status: fc.nat(3),
    });
    const requestLength = fc.oneof(
      fc.integer({ min: 1, max: 8192 }),
      fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    );
    const asked = fc.oneof(
      fc.record({ form: fc.constant('structured' as const), length: requestLength }),
      fc.record({
        form: fc.constant('extended' as const),
        length: fc.oneof(requestLength, fc.integer({ min: 1, max: 2 ** 40 })),
      }),
    );
    fc.assert(
      fc.property(
        fc.array(extent, { minLength: 1, maxLength: 12 }),
        asked,
        fc.boolean(),
        (extents, { form, length }, isRequestOne) => {
          const answered = extentsOf(extents, length, isRequestOne, form) ?? [];
          const total = extents.reduce((sum, each) => sum + each.length, 0);
          const covered = answered.reduce((sum, [each]) => sum + each, 0);
          if (isRequestOne) expect(answered).toHaveLength(1);
          else expect(covered).toBe(Math.min(total, length));
          expect(covered).toBeLessThanOrEqual(length);
          const statusAt = (runs: readonly (readonly [number, number])[], at: number): number | undefined => {
            let end = 0;
            return runs.find(([each]) => {
              end += each;
              return at < end;
            })?.[1];
          };
          let start = 0;
          for (const [each] of answered) {
            for (const at of [start, start + each - 1]) {
              expect(statusAt(answered, at)).toBe(
                statusAt(
                  extents.map((given) => [given.length, given.status] as const),
                  at,
                ),
              );
            }
            start += each;
          }
        },
      ),
      { numRuns: 500 },
    );
  });
});
