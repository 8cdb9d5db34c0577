/** Sessions with extended headers (branch extension-ext-header of the specification), without sockets. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ExportInfo } from '../../src/protocol/export-info.ts';
import { UNREPRESENTABLE } from '../../src/protocol/wire.ts';
import { hex, join, pattern, toHex, u16, u32, u64, utf8 } from './bytes.ts';
import { DISK, DISK_FLAGS_EXTENDED, DISK_FLAGS_STRUCTURED, MIB } from './exports.ts';
import {
  CMD,
  extendedRequest,
  extendedWrite,
  go,
  infoData,
  MODERN,
  metaData,
  OPT,
  option,
  PAYLOAD_LEN,
  REP,
  request,
  setMetaContext,
  statusFilter,
} from './naive-client.ts';
import { SessionDriver, split } from './session-driver.ts';

const EINVAL = 22;
const ENOSPC = 28;
const STRUCTURED = option(OPT.STRUCTURED_REPLY);
const EXTENDED = option(OPT.EXTENDED_HEADERS);
const SET = setMetaContext('disk', ['base:allocation']);

/** The largest export there is. */
const HUGE: ExportInfo = { ...DISK, name: 'huge', size: Number.MAX_SAFE_INTEGER };
const EXPORTS = [DISK, HUGE];

function start(): SessionDriver {
  return new SessionDriver({ exports: EXPORTS });
}

function haggling(...options: readonly Uint8Array[]): SessionDriver {
  return start().feed(join(MODERN, ...options));
}

/** A driver past its handshake, with base:allocation selected and an empty log. */
function transmitting(name = 'disk'): SessionDriver {
  const set = setMetaContext(name, ['base:allocation']);
  const driver = haggling(EXTENDED, set, go(name));
  expect(driver.session.negotiated?.replyForm).toBe('extended');
  driver.log.length = 0;
  return driver;
}

function contextId(driver: SessionDriver): number {
  return driver.session.negotiated?.metaContexts[0]?.id ?? -1;
}

/** The transmission flags of the INFO EXPORT in the last reply but one. */
function flagsSent(driver: SessionDriver): string {
  return toHex(driver.optionReplies.at(-2)?.data.subarray(10) ?? hex(''));
}

describe('EXTENDED_HEADERS', () => {
  test('is acknowledged, without STRUCTURED_REPLY before', () => {
    const driver = haggling(EXTENDED, go('disk'));
    expect(driver.replyTypes).toEqual([REP.ACK, REP.INFO, REP.ACK]);
    expect(driver.session.negotiated?.replyForm).toBe('extended');
  });

  test('with data SHOULD be ERR_INVALID and negotiates nothing', () => {
    const driver = haggling(option(OPT.EXTENDED_HEADERS, utf8('x')), go('disk'));
    expect(driver.replyTypes).toEqual([REP.ERR_INVALID, REP.INFO, REP.ACK]);
    expect(driver.session.negotiated?.replyForm).toBe('simple');
  });

  test('takes precedence over structured replies', () => {
    const driver = haggling(STRUCTURED, EXTENDED, go('disk'));
    expect(driver.session.negotiated?.replyForm).toBe('extended');
  });

  test('a second time is ERR_INVALID, and the first stays in force', () => {
    const driver = haggling(EXTENDED, EXTENDED, go('disk'));
    expect(driver.replyTypes).toEqual([REP.ACK, REP.ERR_INVALID, REP.INFO, REP.ACK]);
    expect(driver.session.negotiated?.replyForm).toBe('extended');
  });

  test('makes a later STRUCTURED_REPLY ERR_EXT_HEADER_REQD', () => {
    const driver = haggling(EXTENDED, STRUCTURED, go('disk'));
    expect(driver.replyTypes).toEqual([REP.ACK, REP.ERR_EXT_HEADER_REQD, REP.INFO, REP.ACK]);
    expect(driver.session.negotiated?.replyForm).toBe('extended');
  });

  test('makes a later EXPORT_NAME a violation, which the client MUST NOT send', () => {
    const driver = haggling(EXTENDED, option(OPT.EXPORT_NAME, utf8('disk')));
    expect(driver.log.at(-1)).toEqual({ step: 'violation', code: 'ERR_NBD_EXPORT_REFUSED' });
    expect(driver.session.negotiated).toBeUndefined();
  });

  test('is not available to a client without fixed newstyle', () => {
    expect(start().feed(join(u32(0), EXTENDED)).replyTypes).toEqual([REP.ERR_INVALID]);
  });

  test('GO MUST NOT fail with ERR_UNSUP after it, and INFO returns the same', () => {
    const driver = haggling(EXTENDED, SET, option(OPT.INFO, infoData('disk', [0, 3])), go('disk', [0, 3]));
    const data = driver.optionReplies.map((reply) => toHex(reply.data));
    expect(driver.replyTypes.slice(3)).toEqual([
      ...[REP.INFO, REP.INFO, REP.ACK],
      ...[REP.INFO, REP.INFO, REP.ACK],
    ]);
    expect(data.slice(6)).toEqual(data.slice(3, 6));
  });

  test('DF is advertised; BLOCK_STATUS_PAYLOAD SHOULD be only when contexts are selected for the export', () => {
    expect(flagsSent(haggling(EXTENDED, SET, go('disk')))).toBe(toHex(u16(DISK_FLAGS_EXTENDED)));
    expect(flagsSent(haggling(EXTENDED, go('disk')))).toBe(toHex(u16(DISK_FLAGS_STRUCTURED)));
    expect(flagsSent(haggling(EXTENDED, SET, go('huge')))).toBe(toHex(u16(DISK_FLAGS_STRUCTURED)));
    expect(flagsSent(haggling(STRUCTURED, SET, go('disk')))).toBe(toHex(u16(DISK_FLAGS_STRUCTURED)));
  });
});

describe('meta contexts', () => {
  test('SET needs extended headers or structured replies, in either order with EXTENDED_HEADERS', () => {
    for (const options of [
      [EXTENDED, SET],
      [STRUCTURED, SET, EXTENDED],
      [STRUCTURED, EXTENDED, SET],
    ]) {
      expect(haggling(...options, go('disk')).session.negotiated?.metaContexts).toMatchObject([
        { name: 'base:allocation' },
      ]);
    }
  });

  test('are never ERR_EXT_HEADER_REQD: base: alone is on offer, and MUST NOT be', () => {
    const list = option(OPT.LIST_META_CONTEXT, metaData('disk', []));
    for (const options of [[], [STRUCTURED], [EXTENDED]]) {
      const driver = haggling(
        ...options,
        list,
        SET,
        setMetaContext('disk', ['base:', 'qemu:allocation-depth']),
      );
      expect(driver.replyTypes).not.toContain(REP.ERR_EXT_HEADER_REQD);
    }
  });
});

const FOLLOWER = extendedRequest({ type: CMD.READ, cookie: 0xfedcba9876543210n, offset: 512, length: 1024 });
const FOLLOWED = { step: 'request', type: CMD.READ, cookie: 'fedcba9876543210', offset: 512, length: 1024 };

describe('requests', () => {
  test('have 32 bytes, whole, at every split and byte by byte', () => {
    const stream = join(
      extendedRequest({ type: CMD.WRITE_ZEROES, flags: 2, cookie: 7n, offset: 4096, length: 8 * MIB }),
      extendedWrite(8192, pattern(40), 8n, 1),
      extendedRequest({ type: CMD.FLUSH, cookie: 9n }),
      FOLLOWER,
    );
    const expected = [
      { step: 'request', type: CMD.WRITE_ZEROES, flags: 2, offset: 4096, length: 8 * MIB },
      { step: 'request', type: CMD.WRITE, flags: 0x21, offset: 8192, length: 40, data: toHex(pattern(40)) },
      { step: 'request', type: CMD.FLUSH },
      FOLLOWED,
    ];
    expect(transmitting().feed(stream).log).toMatchObject(expected);
    for (let cut = 0; cut <= stream.length; cut += 1) {
      expect(transmitting().feed(...split(stream, [cut])).log, `split at ${cut}`).toMatchObject(expected);
    }
    expect(transmitting().feedByteByByte(stream).log).toMatchObject(expected);
  });

  test('a WRITE whose data has arrived is not copied', () => {
    expect(transmitting().feed(extendedWrite(0, pattern(100))).borrowedCount).toBe(1);
  });

  test('a compact request after EXTENDED_HEADERS is a violation, and the other way round', () => {
    const compact = request({ type: CMD.READ, length: 512 });
    expect(transmitting().feed(join(compact, hex('00000000'))).log).toEqual([
      { step: 'violation', code: 'ERR_NBD_BAD_MAGIC' },
    ]);
    const structured = haggling(STRUCTURED, go('disk')).feed(FOLLOWER);
    expect(structured.log.at(-1)).toEqual({ step: 'violation', code: 'ERR_NBD_BAD_MAGIC' });
  });

  test('is one as soon as its magic is there: whoever sends 28 bytes waits for the reply to them', () => {
    const violation = [{ step: 'violation', code: 'ERR_NBD_BAD_MAGIC' }];
    const compact = request({ type: CMD.READ, length: 512 });
    expect(transmitting().feed(compact).log).toEqual(violation);
    expect(transmitting().feed(extendedRequest({ type: CMD.FLUSH }), compact).log).toMatchObject([
      { step: 'request', type: CMD.FLUSH },
      ...violation,
    ]);
    const driver = transmitting().feedByteByByte(compact.subarray(0, 3));
    expect(driver.log).toEqual([]);
    expect(driver.feed(compact.subarray(3, 4)).log).toEqual(violation);
  });

  test.each([CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES, CMD.BLOCK_STATUS])(
    'command %i has a 64-bit effect length, up to an export of 2^53-1 bytes',
    (type) => {
      const driver = transmitting('huge').feed(
        join(
          extendedRequest({ type, length: HUGE.size }),
          extendedRequest({ type, offset: 2n ** 52n, length: 2n ** 52n - 1n }),
          extendedRequest({ type, offset: 1, length: HUGE.size }),
          extendedRequest({ type, length: 2n ** 64n - 1n }),
        ),
      );
      const pastEnd = type === CMD.WRITE_ZEROES ? ENOSPC : EINVAL;
      expect(driver.log).toMatchObject([
        { step: 'request', offset: 0, length: HUGE.size },
        { step: 'request', offset: 2 ** 52, length: 2 ** 52 - 1 },
        { step: 'refused', errno: pastEnd },
        { step: 'refused', errno: pastEnd, length: UNREPRESENTABLE },
      ]);
    },
  );

  test('the offset MUST be echoed exactly, also beyond 2^53: the words are kept', () => {
    const driver = transmitting().feed(
      extendedRequest({ type: CMD.READ, offset: 2n ** 64n - 2n, length: 1 }),
    );
    expect(driver.log).toMatchObject([{ step: 'refused', errno: EINVAL, offset: UNREPRESENTABLE }]);
    expect(driver.session.request).toMatchObject({ offsetHigh: 0xffffffff, offsetLow: 0xfffffffe });
  });

  test('DISC ends the session, whatever its flags and its length say', () => {
    const driver = transmitting().feed(
      join(extendedRequest({ type: CMD.DISC, flags: PAYLOAD_LEN, length: 2n ** 60n }), FOLLOWER),
    );
    expect(driver.steps).toEqual(['disconnect']);
  });
});

describe('PAYLOAD_LEN', () => {
  test.each([
    ['READ', CMD.READ],
    ['FLUSH', CMD.FLUSH],
    ['TRIM', CMD.TRIM],
    ['CACHE', CMD.CACHE],
    ['WRITE_ZEROES', CMD.WRITE_ZEROES],
    ['an unknown command', 99],
  ])('on %s SHOULD be drained and EINVAL, at every split', (_, type) => {
    const stream = join(extendedRequest({ type }, pattern(30)), FOLLOWER);
    const expected = [{ step: 'refused', errno: EINVAL, type }, FOLLOWED];
    for (let cut = 0; cut <= stream.length; cut += 1) {
      expect(transmitting().feed(...split(stream, [cut])).log, `split at ${cut}`).toMatchObject(expected);
    }
    expect(transmitting().feedByteByByte(stream).log).toMatchObject(expected);
  });

  test('is missing on a WRITE: EINVAL, and nothing is drained', () => {
    const driver = transmitting().feed(join(extendedRequest({ type: CMD.WRITE, length: 512 }), FOLLOWER));
    expect(driver.log).toMatchObject([{ step: 'refused', errno: EINVAL }, FOLLOWED]);
  });

  test('with length 0 is EINVAL, and nothing is drained', () => {
    for (const type of [CMD.WRITE, CMD.READ, CMD.BLOCK_STATUS, 99]) {
      const driver = transmitting().feed(join(extendedRequest({ type }, hex('')), FOLLOWER));
      expect(driver.log).toMatchObject([{ step: 'refused', errno: EINVAL }, FOLLOWED]);
    }
  });

  test.each([CMD.READ, CMD.WRITE, CMD.BLOCK_STATUS, 99])(
    'with more than the maximum payload SHOULD disconnect at once (command %i)',
    (type) => {
      for (const length of [32n * BigInt(MIB) + 1n, 2n ** 32n, 2n ** 53n, 2n ** 64n - 1n]) {
        const driver = transmitting().feed(extendedRequest({ type, flags: PAYLOAD_LEN, length }));
        expect(driver.log).toEqual([{ step: 'violation', code: 'ERR_NBD_PAYLOAD_FLOOD' }]);
      }
    },
  );

  test('of 32 MiB on a WRITE is taken, every client may assume it', () => {
    const driver = transmitting('huge');
    driver.feed(extendedRequest({ type: CMD.WRITE, flags: PAYLOAD_LEN, offset: 1, length: 32 * MIB }));
    driver.feed(new Uint8Array(32 * MIB));
    expect(driver.log).toMatchObject([{ step: 'request', offset: 1, length: 32 * MIB }]);
  });

  test('belongs to a payload that is drained when the WRITE is refused', () => {
    const driver = transmitting().feed(join(extendedWrite(DISK.size, pattern(30)), FOLLOWER));
    expect(driver.log).toMatchObject([{ step: 'refused', errno: ENOSPC }, FOLLOWED]);
    const late = transmitting();
    late.session.shutDown();
    late.feed(join(extendedWrite(0, pattern(30)), extendedRequest({ type: 7 }, statusFilter(1, [1]))));
    expect(late.log).toMatchObject([{ errno: 108 }, { errno: 108 }]);
  });
});

describe('BLOCK_STATUS with a payload', () => {
  const ask = (payload: Uint8Array, flags = 0): Uint8Array =>
    extendedRequest({ type: CMD.BLOCK_STATUS, flags, offset: 4096, cookie: 5n }, payload);

  test('asks for the contexts in it, for the effect length in it, at every split', () => {
    const id = contextId(transmitting());
    const stream = join(ask(statusFilter(8192, [id]), 8), FOLLOWER);
    const expected = [
      { step: 'request', type: CMD.BLOCK_STATUS, flags: 0x28, offset: 4096, length: 8192 },
      FOLLOWED,
    ];
    expect(transmitting().feed(stream).log).toMatchObject(expected);
    for (let cut = 0; cut <= stream.length; cut += 1) {
      expect(transmitting().feed(...split(stream, [cut])).log, `split at ${cut}`).toMatchObject(expected);
    }
    expect(transmitting().feedByteByByte(stream).log).toMatchObject(expected);
    const driver = transmitting().feed(ask(statusFilter(8192, [id])));
    expect(driver.session.request.contextIds).toEqual([id]);
  });

  test('without a payload asks for all contexts', () => {
    const driver = transmitting().feed(extendedRequest({ type: CMD.BLOCK_STATUS, length: 512 }));
    expect(driver.steps).toEqual(['request']);
    expect(driver.session.request.contextIds).toBeUndefined();
  });

  test('may have a 64-bit effect length', () => {
    const driver = transmitting('huge');
    driver.feed(extendedRequest({ type: CMD.BLOCK_STATUS }, statusFilter(HUGE.size, [contextId(driver)])));
    expect(driver.log).toMatchObject([{ step: 'request', length: HUGE.size }]);
  });

  const ID = 1;
  test.each([
    ['no context', statusFilter(512, [])],
    ['an unknown context', statusFilter(512, [99])],
    ['a context twice', statusFilter(512, [ID, ID])],
    ['more contexts than there are', statusFilter(512, [ID, 2, 3, 4])],
    ['half an id', join(statusFilter(512, [ID]), hex('00'))],
    ['less than an effect length', hex('00000000000002')],
    ['an effect length past the end', statusFilter(DISK.size, [ID])],
    ['an effect length of 2^64-1', statusFilter(2n ** 64n - 1n, [ID])],
    ['no effect length', statusFilter(0, [ID])],
    ['a megabyte', new Uint8Array(MIB)],
  ])('MUST be drained and EINVAL with %s', (_, payload) => {
    const driver = transmitting();
    expect(contextId(driver)).toBe(ID);
    const stream = join(ask(payload), FOLLOWER);
    const expected = [{ step: 'refused', errno: EINVAL, type: CMD.BLOCK_STATUS }, FOLLOWED];
    expect(driver.feed(stream).log).toMatchObject(expected);
    const cuts = [0, 31, 32, 33, 39, 40, 41, stream.length - 33, stream.length - 32, stream.length - 1];
    for (const cut of cuts) {
      expect(transmitting().feed(...split(stream, [cut])).log, `split at ${cut}`).toMatchObject(expected);
    }
  });

  test('MUST be drained and EINVAL when the feature was not advertised', () => {
    const driver = haggling(EXTENDED, go('disk'));
    driver.log.length = 0;
    driver.feed(join(ask(statusFilter(512, [ID])), FOLLOWER));
    expect(driver.log).toMatchObject([{ step: 'refused', errno: EINVAL }, FOLLOWED]);
  });
});

describe('any requests', () => {
  /** A request as the test means it, and its bytes. */
  const aRequest = fc
    .record({
      type: fc.oneof({ weight: 9, arbitrary: fc.constantFrom(0, 1, 3, 4, 5, 6, 7) }, fc.nat(0xffff)),
      flags: fc.oneof({ weight: 2, arbitrary: fc.constant(0) }, fc.nat(0x1f), fc.nat(0xffff)),
      cookie: fc.bigInt(0n, 2n ** 64n - 1n),
      offset: fc.oneof(fc.bigInt(0n, BigInt(DISK.size)), fc.bigInt(0n, 2n ** 64n - 1n)),
      length: fc.oneof(fc.bigInt(0n, 4096n), fc.bigInt(0n, 2n ** 64n - 1n)),
      payload: fc.option(
        fc.oneof(
          fc.uint8Array({ maxLength: 40 }),
          fc
            .tuple(fc.bigInt(0n, 8192n), fc.array(fc.integer({ min: 1, max: 2 }), { maxLength: 3 }))
            .map(([length, ids]) => statusFilter(length, ids)),
        ),
      ),
    })
    .filter(({ type }) => type !== CMD.DISC);
  const cuts = fc.array(fc.nat(), { maxLength: 20 });

  test('come out as they went in, in sync, as a naive reader reads them', () => {
    fc.assert(
      fc.property(fc.array(aRequest, { maxLength: 8 }), cuts, (requests, where) => {
        const stream = join(
          ...requests.map(({ payload, flags, ...fields }) =>
            extendedRequest({ ...fields, flags: flags & ~PAYLOAD_LEN }, payload ?? undefined),
          ),
          FOLLOWER,
        );
        const driver = transmitting().feed(...split(stream, where));
        const exact = (value: bigint): number => (value < 2n ** 53n ? Number(value) : UNREPRESENTABLE);
        expect(driver.log).toHaveLength(requests.length + 1);
        requests.forEach(({ type, flags, cookie, offset, length, payload }, index) => {
          const entry = driver.log[index];
          expect(entry).toMatchObject({
            type,
            flags: payload === null ? flags & ~PAYLOAD_LEN : flags | PAYLOAD_LEN,
            cookie: cookie.toString(16).padStart(16, '0'),
            offset: exact(offset),
          });
          if (entry?.step === 'request' && type === CMD.BLOCK_STATUS && payload !== null) {
            expect(u64(BigInt(entry.length))).toEqual(payload.slice(0, 8));
            expect(payload).toHaveLength(12);
          } else if (entry?.step === 'request') {
            expect(entry.length).toBe(payload === null ? exact(length) : payload.length);
            if (type === CMD.WRITE) expect(entry.data).toBe(toHex(payload ?? hex('')));
          }
        });
        expect(driver.log.at(-1)).toMatchObject(FOLLOWED);
        expect(transmitting().feedByteByByte(stream).log).toEqual(driver.log);
      }),
      { numRuns: 300 },
    );
  });

  test('give the same steps for any split when bytes are changed, removed or inserted', () => {
    const mutation = fc.record({ at: fc.nat(), byte: fc.nat(255), count: fc.integer({ min: 0, max: 8 }) });
    const opening = fc.constantFrom(
      join(MODERN, EXTENDED, SET, go('disk')),
      join(MODERN, STRUCTURED, SET, EXTENDED, go('huge')),
    );
    fc.assert(
      fc.property(
        opening,
        fc.array(aRequest, { maxLength: 5 }),
        fc.array(mutation, { minLength: 1, maxLength: 4 }),
        cuts,
        (open, requests, mutations, where) => {
          let bytes = join(
            open,
            ...requests.map(({ payload, ...fields }) => extendedRequest(fields, payload ?? undefined)),
          );
          for (const { at, byte, count } of mutations) {
            const position = at % (bytes.length + 1);
            const fresh = new Uint8Array(count % 3).fill(byte);
            bytes = join(bytes.subarray(0, position), fresh, bytes.subarray(position + (count >> 1)));
          }
          const whole = start().feed(bytes);
          expect(start().feed(...split(bytes, where)).log).toEqual(whole.log);
          expect(start().feedByteByByte(bytes).log).toEqual(whole.log);
        },
      ),
      { numRuns: 1000 },
    );
  });
});
