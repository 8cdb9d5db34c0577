/** Whole sessions, from the greeting to the last request, without sockets. */
import fc from 'fast-check';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { OPTION_BYTES_MAX } from '../../src/limits.ts';
import type { ExportInfo } from '../../src/protocol/export-info.ts';
import { digits, hex, join, pattern, toHex, u32, utf8 } from './bytes.ts';
import { DISK, MIB } from './exports.ts';
import {
  CMD,
  go,
  infoData,
  MODERN,
  metaData,
  OPT,
  option,
  REP,
  request,
  setMetaContext,
  write,
} from './naive-client.ts';
import { type DriverOptions, SessionDriver, split } from './session-driver.ts';

const ROM: ExportInfo = { ...DISK, name: 'rom', isReadOnly: true };
const DEFAULT: ExportInfo = { ...DISK, name: '', description: '' };
const EXPORTS = [DISK, ROM, DEFAULT];
const STRUCTURED = option(OPT.STRUCTURED_REPLY);
const EINVAL = 22;
const ENOSPC = 28;

function start(options: DriverOptions = {}): SessionDriver {
  return new SessionDriver({ exports: EXPORTS, ...options });
}

/** A driver past its handshake, with an empty log. */
function transmitting(...options: readonly Uint8Array[]): SessionDriver {
  const driver = start().feed(join(MODERN, ...options, go('disk')));
  expect(driver.session.negotiated).toBeDefined();
  driver.log.length = 0;
  return driver;
}

function transmittingReadOnly(): SessionDriver {
  const driver = start().feed(join(MODERN, go('rom')));
  driver.log.length = 0;
  return driver;
}

/** Contexts that are in force after `options` and a GO for `name`. */
function contextsAfter(options: readonly Uint8Array[], name = 'disk'): readonly string[] | undefined {
  const driver = start().feed(join(MODERN, STRUCTURED, ...options, go(name)));
  return driver.session.negotiated?.metaContexts.map((context) => context.name);
}

const cookieOf = (value: bigint): string => value.toString(16).padStart(16, '0');

describe('handshake', () => {
  test('session greets with 18 bytes before the client says anything', () => {
    const { session } = start();
    expect(toHex(session.greeting())).toBe(digits('4e42444d41474943 49484156454f5054 0003'));
    expect(session.next()).toBe('need-input');
    expect(session.negotiated).toBeUndefined();
  });

  test('session MUST send INFO EXPORT before ACK on GO and is in transmission at once, without padding', () => {
    const driver = start().feed(join(MODERN, go('disk')));
    expect(driver.log).toEqual([
      { step: 'find-export', exportName: 'disk', purpose: 'open' },
      {
        step: 'output',
        hex: [
          ...['0003e889045565a9', '00000007', '00000003', '0000000c', '0000', '0000000001000000', '0d6d'],
          ...['0003e889045565a9', '00000007', '00000001', '00000000'],
        ].join(''),
      },
    ]);
    expect(driver.session.negotiated?.info).toBe(DISK);
  });

  test('session describes an export on INFO and keeps haggling, and GO MUST return the same', () => {
    const infoTypes = [1, 2, 3];
    const driver = start().feed(join(MODERN, option(OPT.INFO, infoData('disk', infoTypes))));
    const { length } = driver.optionReplies;
    expect(driver.session.negotiated).toBeUndefined();
    driver.feed(go('disk', infoTypes));
    const data = driver.optionReplies.map((reply) => toHex(reply.data));
    expect(driver.replyTypes.slice(0, length)).toEqual([REP.INFO, REP.INFO, REP.INFO, REP.INFO, REP.ACK]);
    expect(data.slice(length)).toEqual(data.slice(0, length));
    expect(driver.log.filter(({ step }) => step === 'find-export')).toEqual([
      { step: 'find-export', exportName: 'disk', purpose: 'describe' },
      { step: 'find-export', exportName: 'disk', purpose: 'open' },
    ]);
  });

  test('session answers GO for an unknown export with ERR_UNKNOWN, without INFO, and the client may go on', () => {
    const driver = start().feed(join(MODERN, go('nothing'), go('disk')));
    expect(driver.replyTypes).toEqual([REP.ERR_UNKNOWN, REP.INFO, REP.ACK]);
    expect(driver.session.negotiated?.info).toBe(DISK);
  });

  test('session opens the default export for an empty name', () => {
    expect(start().feed(join(MODERN, go(''))).session.negotiated?.info).toBe(DEFAULT);
  });

  test('session lists every export and then acknowledges', () => {
    const driver = start({
      listed: [
        { name: 'a', description: 'An a' },
        { name: '', description: '' },
      ],
    });
    driver.feed(join(MODERN, option(OPT.LIST)));
    expect(driver.optionReplies.map(({ type, data }) => [type, toHex(data)])).toEqual([
      [REP.SERVER, `00000001${toHex(utf8('aAn a'))}`],
      [REP.SERVER, '00000000'],
      [REP.ACK, ''],
    ]);
  });

  test('session acknowledges LIST when there is nothing to list', () => {
    expect(start({ listed: [] }).feed(join(MODERN, option(OPT.LIST))).replyTypes).toEqual([REP.ACK]);
  });

  test('session MUST acknowledge ABORT, ignoring its data, and then disconnect', () => {
    const driver = start().feed(join(MODERN, option(OPT.ABORT, utf8('so long')), go('disk')));
    expect(driver.steps).toEqual(['output', 'disconnect']);
    expect(driver.replyTypes).toEqual([REP.ACK]);
    expect(driver.session.next()).toBe('disconnect');
  });

  test.each([
    ['MUST pad the reply to EXPORT_NAME to 134 bytes', u32(1), 134],
    ['MUST pad the reply to EXPORT_NAME to 134 bytes without fixed newstyle', u32(0), 134],
    ['MUST NOT pad the reply to EXPORT_NAME when both sides set NO_ZEROES: 10 bytes', u32(3), 10],
    ['MUST NOT pad the reply to EXPORT_NAME with NO_ZEROES alone: 10 bytes', u32(2), 10],
  ])('session %s', (_, flags, length) => {
    const driver = start().feed(join(flags, option(OPT.EXPORT_NAME, utf8('disk')), write(0, pattern(5))));
    expect(driver.steps).toEqual(['find-export', 'output', 'request']);
    expect(driver.outputHex).toBe(`${'0000000001000000'}0d6d${'00'.repeat(length - 10)}`);
  });

  test('session MUST end on EXPORT_NAME for an unknown export, without a reply', () => {
    const driver = start().feed(join(MODERN, option(OPT.EXPORT_NAME, utf8('nothing')), go('disk')));
    expect(driver.log.slice(1)).toEqual([{ step: 'violation', code: 'ERR_NBD_EXPORT_REFUSED' }]);
    expect(driver.session.next()).toBe('violation');
  });

  test('session stays in sync after options that are unknown, misused or malformed', () => {
    const driver = start().feed(
      join(
        MODERN,
        option(OPT.PEEK_EXPORT),
        option(0xabcd, utf8('IHAVEOPTIHAVEOPTIHAVEOPT')),
        option(OPT.LIST, utf8('data')),
        option(OPT.STARTTLS, utf8('data')),
        option(OPT.GO, hex('00000100 6469736b 0000')),
        option(OPT.GO, join(infoData('disk'), hex('00'))),
        option(OPT.INFO, hex('0000')),
        option(OPT.LIST_META_CONTEXT, hex('00000000 00000001 ffffffff')),
        option(OPT.GO, new Uint8Array(OPTION_BYTES_MAX + 1)),
        STRUCTURED,
        STRUCTURED,
        go('disk'),
        request({ type: CMD.FLUSH, cookie: 5n }),
      ),
    );
    expect(driver.replyTypes).toEqual([
      ...[REP.ERR_UNSUP, REP.ERR_UNSUP],
      ...[
        REP.ERR_INVALID,
        REP.ERR_INVALID,
        REP.ERR_INVALID,
        REP.ERR_INVALID,
        REP.ERR_INVALID,
        REP.ERR_INVALID,
      ],
      ...[REP.ERR_TOO_BIG, REP.ACK, REP.ERR_INVALID, REP.INFO, REP.ACK],
    ]);
    expect(driver.log.at(-1)).toMatchObject({ step: 'request', type: CMD.FLUSH, cookie: cookieOf(5n) });
  });

  test('session answers options that come in one chunk in order, each answer before the next question', () => {
    const driver = start().feed(join(MODERN, option(99), go('nothing'), option(OPT.LIST), go('disk')));
    expect(driver.steps).toEqual([
      ...['output', 'find-export', 'output', 'list-exports', 'output', 'find-export', 'output'],
    ]);
  });

  test('session waits for a late answer and then goes on with what has arrived', () => {
    const driver = start({ isAnsweringLater: true }).feed(
      join(MODERN, go('disk'), request({ type: CMD.FLUSH })),
    );
    expect(driver.log).toEqual([]);
    driver.answerExport(DISK);
    expect(driver.steps).toEqual(['output', 'request']);
  });

  test.each([
    ['client flags', hex('80000000'), 'ERR_NBD_CLIENT_FLAGS'],
    ['an option magic', join(MODERN, hex('0003e889045565a9 00000003 00000000')), 'ERR_NBD_BAD_MAGIC'],
    ['an oldstyle client', join(MODERN, hex('0000420281861253 00000003 00000000')), 'ERR_NBD_BAD_MAGIC'],
    ['an absurd option length', join(MODERN, option(OPT.GO, hex(''), 0xffffffff)), 'ERR_NBD_OPTION_FLOOD'],
    ['a request magic', join(MODERN, go('disk'), hex('96744668'), new Uint8Array(24)), 'ERR_NBD_BAD_MAGIC'],
  ])('session ends with a violation on %s', (_, bytes, code) => {
    const driver = start().feed(bytes, go('disk'));
    expect(driver.log.at(-1)).toEqual({ step: 'violation', code });
    expect(driver.session.violation?.message).toMatch(/^[A-Z].*[^.]$/);
    expect(driver.session.next()).toBe('violation');
  });
});

describe('meta contexts', () => {
  const SET = setMetaContext('disk', ['base:allocation']);

  test('session selects a context for the export of the GO that follows', () => {
    const driver = start().feed(join(MODERN, STRUCTURED, SET, go('disk')));
    expect(driver.replyTypes).toEqual([REP.ACK, REP.META_CONTEXT, REP.ACK, REP.INFO, REP.ACK]);
    const id = driver.session.negotiated?.metaContexts[0]?.id ?? -1;
    expect(driver.session.negotiated?.metaContexts).toEqual([{ id, name: 'base:allocation' }]);
    expect(toHex(driver.optionReplies[1]?.data ?? hex(''))).toBe(
      digits(`${toHex(u32(id))} ${toHex(utf8('base:allocation'))}`),
    );
  });

  test('session selects for EXPORT_NAME, too', () => {
    const driver = start().feed(join(MODERN, STRUCTURED, SET, option(OPT.EXPORT_NAME, utf8('disk'))));
    expect(driver.session.negotiated?.metaContexts).toHaveLength(1);
  });

  test('session drops the selection when another export is opened', () => {
    expect(contextsAfter([SET], 'rom')).toEqual([]);
    expect(contextsAfter([setMetaContext('', ['base:allocation'])], 'disk')).toEqual([]);
    expect(contextsAfter([setMetaContext('', ['base:allocation'])], '')).toEqual(['base:allocation']);
  });

  test('session keeps the selection through options that have nothing to do with it', () => {
    const others = [
      ...[go('nothing'), option(OPT.INFO, infoData('rom')), option(OPT.LIST), option(99)],
      option(OPT.LIST_META_CONTEXT, metaData('rom', [])),
    ];
    expect(contextsAfter([SET, ...others])).toEqual(['base:allocation']);
  });

  test.each([
    ['succeeds without a query', setMetaContext('disk', [])],
    ['finds nothing', setMetaContext('disk', ['x:unknown'])],
    ['fails for its lengths', option(OPT.SET_META_CONTEXT, hex('00000000 00000001'))],
    ['fails without data', option(OPT.SET_META_CONTEXT)],
    ['fails for an unknown export', setMetaContext('nothing', ['base:allocation'])],
    ['is for another export', setMetaContext('rom', ['base:allocation'])],
    [
      'is too big',
      setMetaContext(
        'disk',
        Array.from({ length: 2000 }, () => 'base:allocation'),
      ),
    ],
  ])('session replaces the selection also when the later SET %s', (_, later) => {
    expect(contextsAfter([SET, later])).toEqual([]);
    expect(contextsAfter([SET, later, SET])).toEqual(['base:allocation']);
  });

  test('session selects a context once, however often it is asked for', () => {
    expect(contextsAfter([setMetaContext('disk', ['base:allocation', 'base:allocation'])])).toEqual([
      'base:allocation',
    ]);
  });

  test('session MUST ignore `base:` and unknown leaves and namespaces in SET: ACK alone', () => {
    const driver = start().feed(
      join(MODERN, STRUCTURED, setMetaContext('disk', ['base:', 'base:x', 'qemu:dirty-bitmap:', 'y', ''])),
    );
    expect(driver.replyTypes).toEqual([REP.ACK, REP.ACK]);
  });

  test('session SHOULD refuse SET without structured replies, but answers LIST', () => {
    const driver = start().feed(join(MODERN, SET, option(OPT.LIST_META_CONTEXT, metaData('disk', []))));
    expect(driver.replyTypes).toEqual([REP.ERR_INVALID, REP.META_CONTEXT, REP.ACK]);
  });

  test.each([[[]], [['base:']], [['base:allocation', 'base:']]])(
    'session lists base:allocation with id 0, once, for the queries %j',
    (queries) => {
      const driver = start().feed(join(MODERN, option(OPT.LIST_META_CONTEXT, metaData('disk', queries))));
      expect(driver.optionReplies.map(({ type, data }) => [type, toHex(data)])).toEqual([
        [REP.META_CONTEXT, toHex(join(u32(0), utf8('base:allocation')))],
        [REP.ACK, ''],
      ]);
    },
  );

  test('session MUST send just ACK when LIST finds nothing, and never selects by it', () => {
    const driver = start().feed(join(MODERN, option(OPT.LIST_META_CONTEXT, metaData('disk', ['x:']))));
    expect(driver.replyTypes).toEqual([REP.ACK]);
    expect(contextsAfter([option(OPT.LIST_META_CONTEXT, metaData('disk', []))])).toEqual([]);
  });

  test('session answers both with ERR_UNKNOWN for an unknown export', () => {
    const driver = start().feed(
      join(
        ...[MODERN, STRUCTURED, setMetaContext('nothing', [])],
        option(OPT.LIST_META_CONTEXT, metaData('nothing', [])),
      ),
    );
    expect(driver.replyTypes).toEqual([REP.ACK, REP.ERR_UNKNOWN, REP.ERR_UNKNOWN]);
  });

  test('session SHOULD refuse BLOCK_STATUS without a usable context with EINVAL', () => {
    const status = request({ type: CMD.BLOCK_STATUS, length: 4096 });
    expect(transmitting(STRUCTURED, SET).feed(status).steps).toEqual(['request']);
    expect(transmitting(STRUCTURED).feed(status).log).toMatchObject([{ step: 'refused', errno: EINVAL }]);
    expect(transmitting(STRUCTURED, SET, setMetaContext('disk', [])).feed(status).steps).toEqual(['refused']);
  });
});

describe('transmission', () => {
  const FOLLOWER = request({ type: CMD.READ, cookie: 0xfedcba9876543210n, offset: 512, length: 1024 });
  const FOLLOWED = {
    step: 'request',
    type: CMD.READ,
    flags: 0,
    cookie: 'fedcba9876543210',
    offset: 512,
    length: 1024,
  };

  test.each([
    ['past the end with ENOSPC', transmitting, write(DISK.size - 99, pattern(100)), ENOSPC],
    [
      'at an offset of 2^64-1 with ENOSPC',
      transmitting,
      request({ type: 1, offset: 2n ** 64n - 1n, length: 9 }, pattern(9)),
      ENOSPC,
    ],
    ['to a read-only export with EPERM', transmittingReadOnly, write(0, pattern(100)), 1],
    ['with an unknown flag with EINVAL', transmitting, write(0, pattern(100), 0n, 0x8000), EINVAL],
    ['with NO_HOLE with EINVAL', transmitting, write(0, pattern(100), 0n, 2), EINVAL],
  ])('session refuses WRITE %s and skips its payload, whole and at every split', (_, begin, bytes, errno) => {
    const stream = join(bytes, FOLLOWER);
    const expected = [{ step: 'refused', errno }, FOLLOWED];
    expect(begin().feed(stream).log).toMatchObject(expected);
    for (let cut = 0; cut <= stream.length; cut += 1) {
      expect(begin().feed(...split(stream, [cut])).log, `split at ${cut}`).toMatchObject(expected);
    }
    expect(begin().feedByteByByte(stream).log).toMatchObject(expected);
  });

  test('session skips the payload of a WRITE above the maximum, without room for it, and stays in sync', () => {
    const driver = transmitting();
    const length = 32 * MIB + 1;
    driver.feed(request({ type: CMD.WRITE, length }));
    expect(driver.log).toEqual([]);
    const chunk = new Uint8Array(MIB);
    for (let sent = 0; sent < length; sent += chunk.length) {
      driver.feed(chunk.subarray(0, Math.min(chunk.length, length - sent)));
    }
    driver.feed(FOLLOWER);
    // The disk ends before that, which is found first.
    expect(driver.log).toMatchObject([{ step: 'refused', errno: ENOSPC }, FOLLOWED]);
  });

  test('session accepts a WRITE of 32 MiB, which every client may assume', () => {
    const big = { ...DISK, size: 64 * MIB };
    const driver = start({ exports: [big] }).feed(join(MODERN, go('disk')));
    const payload = new Uint8Array(32 * MIB).fill(7);
    driver.feed(request({ type: CMD.WRITE, offset: 1, length: payload.length }));
    for (const part of [payload.subarray(0, 5 * MIB), payload.subarray(5 * MIB)]) driver.feed(part);
    expect(driver.log.at(-1)).toMatchObject({ step: 'request', offset: 1, length: 32 * MIB });
  });

  test('session hands out the payload of a WRITE whole, at every split', () => {
    const payload = pattern(60);
    const stream = join(write(4096, payload, 1n), write(8192, payload.subarray(9), 2n, 1), FOLLOWER);
    const expected = [
      { step: 'request', offset: 4096, flags: 0, data: toHex(payload), cookie: cookieOf(1n) },
      { step: 'request', offset: 8192, flags: 1, data: toHex(payload.subarray(9)), cookie: cookieOf(2n) },
      FOLLOWED,
    ];
    const whole = transmitting().feed(stream);
    expect(whole.log).toMatchObject(expected);
    expect(whole.borrowedCount).toBe(2);
    for (let cut = 0; cut <= stream.length; cut += 1) {
      expect(transmitting().feed(...split(stream, [cut])).log, `split at ${cut}`).toMatchObject(expected);
    }
    const dribbled = transmitting().feedByteByByte(stream);
    expect(dribbled.log).toMatchObject(expected);
    expect(dribbled.borrowedCount).toBe(0);
  });

  test('session says that a WRITE of no bytes is a request', () => {
    expect(transmitting().feed(write(0, hex('')), FOLLOWER).log).toMatchObject([{ data: '' }, FOLLOWED]);
    expect(transmittingReadOnly().feed(write(0, hex('')), FOLLOWER).log).toMatchObject([
      { errno: 1 },
      FOLLOWED,
    ]);
  });

  test('session takes pipelined requests in one chunk one by one and in order', () => {
    const cookies = Array.from({ length: 500 }, (_, index) => BigInt(index) * 0x1_0000_0001n);
    const driver = transmitting().feed(
      join(
        ...cookies.map((cookie, index) =>
          index % 3 === 0
            ? write(0, pattern(index % 50), cookie)
            : request({ type: CMD.READ, cookie, length: 1 }),
        ),
      ),
    );
    expect(driver.log.map((entry) => ('cookie' in entry ? entry.cookie : ''))).toEqual(cookies.map(cookieOf));
  });

  test('session takes requests that come in the same chunk as the GO', () => {
    const driver = start().feed(join(MODERN, STRUCTURED, go('disk'), write(0, pattern(9), 3n), FOLLOWER));
    expect(driver.steps).toEqual(['output', 'find-export', 'output', 'request', 'request']);
  });

  test('session SHOULD refuse unknown commands with EINVAL and MUST NOT take their length for a payload', () => {
    const driver = transmitting();
    for (const type of [8, 9, 0xffff]) {
      driver.feed(request({ type, length: 0xffffffff, cookie: BigInt(type) }));
      expect(driver.log.at(-1)).toMatchObject({ step: 'refused', errno: EINVAL, type });
    }
    expect(driver.feed(FOLLOWER).log.at(-1)).toEqual(FOLLOWED);
  });

  test('session MUST accept FUA on every command', () => {
    const types = [CMD.READ, CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES];
    const driver = transmitting().feed(
      join(
        ...types.map((type) => request({ type, flags: 1, length: 512 })),
        request({ type: CMD.FLUSH, flags: 1 }),
      ),
    );
    expect(driver.steps).toEqual(Array.from({ length: 5 }, () => 'request'));
  });

  test('session allows DF only after structured replies were negotiated', () => {
    const read = request({ type: CMD.READ, flags: 4, length: 512 });
    expect(transmitting().feed(read).steps).toEqual(['refused']);
    expect(transmitting(STRUCTURED).feed(read).steps).toEqual(['request']);
  });

  test('session disconnects on DISC, whatever its fields say, and hears nothing behind it', () => {
    const driver = transmitting().feed(
      join(FOLLOWER, request({ type: CMD.DISC, flags: 9, offset: 7, length: 7 }), hex('ffffffff'), FOLLOWER),
    );
    expect(driver.steps).toEqual(['request', 'disconnect']);
    expect(driver.session.next()).toBe('disconnect');
  });
});

describe('shutdown', () => {
  test('session answers options ERR_SHUTDOWN and requests ESHUTDOWN', () => {
    const haggling = start().feed(MODERN);
    haggling.session.shutDown();
    expect(haggling.feed(join(go('disk'), option(OPT.ABORT))).replyTypes).toEqual([
      REP.ERR_SHUTDOWN,
      REP.ACK,
    ]);
    const driver = transmitting();
    driver.session.shutDown();
    driver.feed(join(write(0, pattern(10)), request({ type: CMD.FLUSH }), request({ type: CMD.DISC })));
    expect(driver.log).toMatchObject([
      { step: 'refused', errno: 108, type: CMD.WRITE },
      { step: 'refused', errno: 108, type: CMD.FLUSH },
      { step: 'disconnect' },
    ]);
  });

  test('session that was shut down while an export was opened refuses its requests with ESHUTDOWN', () => {
    const driver = start({ isAnsweringLater: true }).feed(join(MODERN, go('disk')));
    driver.session.shutDown();
    driver.answerExport(DISK);
    driver.feed(request({ type: CMD.FLUSH }));
    const last = driver.log.at(-1);
    // Either the GO itself is answered ERR_SHUTDOWN or the request is refused.
    if (driver.session.negotiated === undefined) expect(driver.replyTypes).toEqual([REP.ERR_SHUTDOWN]);
    else expect(last).toMatchObject({ step: 'refused', errno: 108 });
  });

  test('session that is shut down in the middle of a payload still finishes that WRITE', () => {
    const driver = transmitting();
    const bytes = write(0, pattern(100));
    driver.feed(bytes.subarray(0, 50));
    driver.session.shutDown();
    driver.feed(join(bytes.subarray(50), request({ type: CMD.FLUSH })));
    expect(driver.log).toMatchObject([{ step: 'request' }, { step: 'refused', errno: 108 }]);
  });
});

describe('any bytes', () => {
  const names = fc.constantFrom('disk', 'rom', '', 'nothing');
  const queries = fc.array(fc.constantFrom('base:', 'base:allocation', 'x:y', ''), { maxLength: 3 });
  const anOption = fc.oneof(
    fc
      .tuple(fc.constantFrom(0, 3, 4, 5, 8, 11, 99), fc.uint8Array({ maxLength: 20 }))
      .map(([number, data]) => option(number, data)),
    fc.constantFrom(STRUCTURED, option(OPT.LIST)),
    fc
      .tuple(fc.constantFrom(OPT.INFO, OPT.GO), names, fc.array(fc.nat(4), { maxLength: 4 }))
      .map(([number, name, infoTypes]) => option(number, infoData(name, infoTypes))),
    fc
      .tuple(fc.constantFrom(OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT), names, queries)
      .map(([number, name, asked]) => option(number, metaData(name, asked))),
  );
  const aRequest = fc
    .record({
      type: fc.oneof(
        { weight: 5, arbitrary: fc.constantFrom(0, 1, 1, 1, 3, 4, 5, 6, 7) },
        fc.integer({ min: 8, max: 0xffff }),
      ),
      flags: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.nat(0x3f)),
      cookie: fc.bigInt(0n, 2n ** 64n - 1n),
      offset: fc.oneof(fc.bigInt(0n, BigInt(DISK.size)), fc.bigInt(0n, 2n ** 64n - 1n)),
      length: fc.nat(80),
    })
    .map((fields) => request(fields, fields.type === CMD.WRITE ? pattern(fields.length) : hex('')));
  const stream = fc
    .record({
      flags: fc.constantFrom(0, 1, 2, 3, 3, 3),
      options: fc.array(anOption, { maxLength: 6 }),
      opening: fc.constantFrom(go('disk', [1, 3]), go('rom'), option(OPT.EXPORT_NAME, utf8('disk'))),
      requests: fc.array(aRequest, { maxLength: 8 }),
      end: fc.constantFrom(hex(''), request({ type: CMD.DISC })),
    })
    .map(({ flags, options, opening, requests, end }) =>
      join(u32(flags), ...options, opening, ...requests, end),
    );
  const cuts = fc.array(fc.nat(), { maxLength: 30 });

  test('session gives the same steps, outputs and requests for any split of the same bytes', () => {
    fc.assert(
      fc.property(stream, cuts, (bytes, where) => {
        const whole = start().feed(bytes);
        expect(start().feed(...split(bytes, where)).log).toEqual(whole.log);
        expect(start().feedByteByByte(bytes).log).toEqual(whole.log);
      }),
      { numRuns: 300 },
    );
  });

  test('session never throws, never loops and is in any split the same for mutated bytes', () => {
    const mutation = fc.record({ at: fc.nat(), byte: fc.nat(255), count: fc.integer({ min: 0, max: 8 }) });
    fc.assert(
      fc.property(
        stream,
        fc.array(mutation, { minLength: 1, maxLength: 4 }),
        cuts,
        (bytes, mutations, where) => {
          let mutated = bytes;
          for (const { at, byte, count } of mutations) {
            const position = at % (mutated.length + 1);
            // Replaces, inserts or removes a few bytes.
            const fresh = new Uint8Array(count % 3).fill(byte);
            mutated = join(mutated.subarray(0, position), fresh, mutated.subarray(position + (count >> 1)));
          }
          const whole = start().feed(mutated);
          expect(start().feed(...split(mutated, where)).log).toEqual(whole.log);
        },
      ),
      { numRuns: 1000 },
    );
  });

  test('session never throws and never loops for random bytes', () => {
    const opened = join(MODERN, go('disk'));
    const begun = fc.constantFrom(
      hex(''),
      MODERN,
      join(MODERN, utf8('IHAVEOPT')),
      opened,
      join(opened, hex('25609513')),
    );
    fc.assert(
      fc.property(begun, fc.uint8Array({ maxLength: 300 }), cuts, (beginning, bytes, where) => {
        const all = join(beginning, bytes);
        expect(start().feed(...split(all, where)).log).toEqual(start().feed(all).log);
      }),
      { numRuns: 1000 },
    );
  });
});

describe('memory', () => {
  afterEach(() => {
    vi.unstubAllGlobals();
  });

  /** The largest array that `act` made by giving a length. */
  function largestAllocation(act: () => void): number {
    let largest = 0;
    const Counting = new Proxy(Uint8Array, {
      construct(target, parameters: unknown[]) {
        const [length] = parameters;
        if (typeof length === 'number') largest = Math.max(largest, length);
        return Reflect.construct(target, parameters);
      },
    });
    vi.stubGlobal('Uint8Array', Counting);
    act();
    vi.unstubAllGlobals();
    return largest;
  }

  test('session never allocates by a claimed option length, only by what has arrived', () => {
    const bytes = join(MODERN, option(OPT.GO, pattern(100), OPTION_BYTES_MAX));
    const { session } = start();
    expect(
      largestAllocation(() => {
        session.receive(bytes, bytes.length);
        expect(session.next()).toBe('need-input');
      }),
    ).toBeLessThanOrEqual(200);
  });

  test('session never allocates for an option that it skips, nor for a refused payload', () => {
    const { session } = start();
    const skipped = join(MODERN, option(OPT.GO, pattern(100), OPTION_BYTES_MAX + 1));
    const driver = transmitting();
    const refused = request({ type: CMD.WRITE, length: 0xffffffff });
    expect(
      largestAllocation(() => {
        session.receive(skipped, skipped.length);
        expect(session.next()).toBe('need-input');
        driver.session.receive(refused, refused.length);
        expect(driver.session.next()).toBe('need-input');
      }),
    ).toBeLessThanOrEqual(200);
  });

  test('session never allocates by a claim inside an option', () => {
    const claims = ['ffffffff 00000000', '00000000 ffffffff', '00000000 00000001 ffffffff', '00000000 ffff'];
    const numbers = [OPT.GO, OPT.INFO, OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT];
    const bytes = join(
      ...[MODERN, STRUCTURED],
      ...numbers.flatMap((number) => claims.map((claim) => option(number, hex(claim)))),
    );
    const { session } = start();
    const run = (): void => {
      session.receive(bytes, bytes.length);
      for (let step = session.next(); step !== 'need-input'; step = session.next()) {
        expect(step).toBe('output');
        session.takeOutput();
      }
    };
    expect(largestAllocation(run)).toBeLessThanOrEqual(200);
  });

  test('session never allocates for a request on the fast path', () => {
    const driver = transmitting();
    const bytes = join(write(0, pattern(64)), request({ type: CMD.READ, length: 512 }));
    const { session } = driver;
    let count = 0;
    const act = (): void => {
      session.receive(bytes, bytes.length);
      while (session.next() === 'request') count += 1;
    };
    expect(largestAllocation(act)).toBe(0);
    expect(count).toBe(2);
  });
});
