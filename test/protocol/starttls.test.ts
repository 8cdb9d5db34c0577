/** STARTTLS in the session: the table of "TLS" in proto.md, for each mode, before TLS and after. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { TlsMode } from '../../src/protocol/handshake.ts';
import { hex, join, pattern, u32, utf8 } from './bytes.ts';
import { DISK } from './exports.ts';
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
import { SessionDriver, split } from './session-driver.ts';

const STARTTLS = option(OPT.STARTTLS);
const STRUCTURED = option(OPT.STRUCTURED_REPLY);
const MODES: readonly TlsMode[] = ['off', 'allow', 'require'];

function start(tls: TlsMode, isAnsweringLater = false): SessionDriver {
  return new SessionDriver({ exports: [DISK], tls, isAnsweringLater });
}

/** A driver whose client has started TLS, with an empty log. */
function encrypted(tls: TlsMode, ...before: readonly Uint8Array[]): SessionDriver {
  const driver = start(tls).feed(join(MODERN, ...before, STARTTLS));
  expect(driver.steps.at(-1)).toBe('start-tls');
  driver.startTls();
  driver.log.length = 0;
  return driver;
}

/** Every option but ABORT, EXPORT_NAME and STARTTLS; the unknown ones, too. */
const OPTIONS: readonly [string, Uint8Array][] = [
  ['LIST', option(OPT.LIST)],
  ['LIST with data', option(OPT.LIST, utf8('x'))],
  ['PEEK_EXPORT', option(OPT.PEEK_EXPORT)],
  ['INFO', option(OPT.INFO, infoData('disk', [0, 3]))],
  ['INFO of an unknown export', option(OPT.INFO, infoData('nothing'))],
  ['GO', go('disk', [0, 1, 2, 3])],
  ['GO for an unknown export', go('nothing')],
  ['malformed GO', option(OPT.GO, hex('ffffffff'))],
  ['STRUCTURED_REPLY', STRUCTURED],
  ['EXTENDED_HEADERS', option(OPT.EXTENDED_HEADERS)],
  ['LIST_META_CONTEXT', option(OPT.LIST_META_CONTEXT, metaData('disk', []))],
  ['SET_META_CONTEXT', setMetaContext('disk', ['base:allocation'])],
  ['an unknown option', option(0xabcd, utf8('data'))],
];

describe('before TLS, when it is off', () => {
  test('STARTTLS MUST be an error: ERR_POLICY, and the session goes on', () => {
    const driver = start('off').feed(join(MODERN, STARTTLS, go('disk')));
    expect(driver.replyTypes).toEqual([REP.ERR_POLICY, REP.INFO, REP.ACK]);
    expect(driver.steps).not.toContain('start-tls');
  });

  test('off is the default', () => {
    const driver = new SessionDriver({ exports: [DISK] }).feed(join(MODERN, STARTTLS));
    expect(driver.replyTypes).toEqual([REP.ERR_POLICY]);
  });

  test.each(OPTIONS)('%s MUST NOT be answered ERR_TLS_REQD', (_, bytes) => {
    expect(start('off').feed(join(MODERN, bytes)).replyTypes).not.toContain(REP.ERR_TLS_REQD);
  });
});

describe('before TLS, when it is allowed', () => {
  test.each(OPTIONS)('%s is answered as without TLS, and MUST NOT be ERR_TLS_REQD', (_, bytes) => {
    expect(start('allow').feed(join(MODERN, bytes)).log).toEqual(start('off').feed(join(MODERN, bytes)).log);
  });

  test('EXPORT_NAME opens the export', () => {
    const driver = start('allow').feed(join(MODERN, option(OPT.EXPORT_NAME, utf8('disk'))));
    expect(driver.session.negotiated?.info).toBe(DISK);
  });
});

describe('before TLS, when it is required', () => {
  test.each(OPTIONS)(
    '%s MUST be answered ERR_TLS_REQD, without INFO and without a question, in sync',
    (_, bytes) => {
      const driver = start('require').feed(join(MODERN, bytes, bytes));
      expect(driver.replyTypes).toEqual([REP.ERR_TLS_REQD, REP.ERR_TLS_REQD]);
      expect(new Set(driver.steps)).toEqual(new Set(['output']));
      driver.feed(STARTTLS);
      expect(driver.replyTypes.at(-1)).toBe(REP.ACK);
      expect(driver.steps.at(-1)).toBe('start-tls');
    },
  );

  test.each([
    ['a known', 'disk'],
    ['an unknown', 'nothing'],
  ])('EXPORT_NAME MUST terminate the session, for %s export', (_, name) => {
    const driver = start('require').feed(join(MODERN, option(OPT.EXPORT_NAME, utf8(name))));
    expect(driver.log).toEqual([{ step: 'violation', code: 'ERR_NBD_EXPORT_REFUSED' }]);
  });

  test('ERR_TLS_REQD also hides a shutdown, and STARTTLS is answered ERR_SHUTDOWN then', () => {
    const driver = start('require').feed(MODERN);
    driver.session.shutDown();
    expect(driver.feed(join(go('disk'), STARTTLS)).replyTypes).toEqual([REP.ERR_TLS_REQD, REP.ERR_SHUTDOWN]);
  });
});

describe('before TLS, in every mode', () => {
  test.each(MODES)('%s: ABORT MUST be acknowledged', (tls) => {
    const driver = start(tls).feed(join(MODERN, option(OPT.ABORT)));
    expect(driver.replyTypes).toEqual([REP.ACK]);
    expect(driver.steps).toEqual(['output', 'disconnect']);
  });

  test.each(MODES)('%s: STARTTLS with data SHOULD be ERR_INVALID, drained, and starts nothing', (tls) => {
    const driver = start(tls).feed(join(MODERN, option(OPT.STARTTLS, utf8('now')), option(OPT.ABORT)));
    expect(driver.replyTypes).toEqual([REP.ERR_INVALID, REP.ACK]);
    expect(driver.steps).not.toContain('start-tls');
  });

  test.each(MODES)('%s: a client without fixed newstyle MUST NOT get TLS, nor ERR_TLS_REQD', (tls) => {
    const driver = start(tls).feed(join(u32(0), STARTTLS, option(OPT.LIST), go('disk')));
    expect(driver.replyTypes).toEqual([REP.ERR_INVALID, REP.ERR_INVALID, REP.ERR_INVALID]);
    expect(driver.steps).not.toContain('start-tls');
  });

  test.each(MODES)('%s: a client without fixed newstyle gets an export unless TLS is required', (tls) => {
    const driver = start(tls).feed(join(u32(0), option(OPT.EXPORT_NAME, utf8('disk'))));
    expect(driver.session.negotiated?.info).toBe(tls === 'require' ? undefined : DISK);
    expect(driver.isOver).toBe(tls === 'require');
  });
});

describe.each(['allow', 'require'] as const)('STARTTLS, mode %s', (tls) => {
  test('MUST be acknowledged in plaintext, and only then TLS starts', () => {
    const driver = start(tls).feed(join(MODERN, STARTTLS));
    expect(driver.steps).toEqual(['output', 'start-tls']);
    expect(driver.optionReplies).toMatchObject([{ option: OPT.STARTTLS, type: REP.ACK }]);
  });

  test('is asked for again and again until the driver has done it', () => {
    const driver = start(tls).feed(join(MODERN, STARTTLS));
    expect(driver.session.next()).toBe('start-tls');
    driver.session.tlsStarted();
    expect(driver.session.next()).toBe('need-input');
    expect(() => {
      driver.session.tlsStarted();
    }).toThrow('Bug');
  });

  test('is noticed byte by byte', () => {
    expect(start(tls).feedByteByByte(join(MODERN, STARTTLS)).steps).toEqual(['output', 'start-tls']);
  });

  test('opens every option: the session goes on to GO and requests', () => {
    const driver = encrypted(tls).feed(join(go('disk'), write(0, pattern(9))));
    expect(driver.replyTypes).toEqual([REP.INFO, REP.ACK]);
    expect(driver.steps).toEqual(['find-export', 'output', 'request']);
  });

  test.each(OPTIONS)('after TLS: %s is answered as without TLS, and MUST NOT be ERR_TLS_REQD', (_, bytes) => {
    expect(encrypted(tls).feed(bytes).log).toEqual(start('off').feed(join(MODERN, bytes)).log);
  });

  test('after TLS: a second STARTTLS MUST be ERR_INVALID, and the session goes on', () => {
    const driver = encrypted(tls).feed(join(STARTTLS, option(OPT.STARTTLS, utf8('x')), go('disk')));
    expect(driver.replyTypes).toEqual([REP.ERR_INVALID, REP.ERR_INVALID, REP.INFO, REP.ACK]);
  });

  test('after TLS: EXPORT_NAME and ABORT work', () => {
    const named = encrypted(tls).feed(option(OPT.EXPORT_NAME, utf8('disk')));
    expect(named.session.negotiated?.info).toBe(DISK);
    expect(encrypted(tls).feed(option(OPT.ABORT)).steps).toEqual(['output', 'disconnect']);
  });

  test('after TLS: NO_ZEROES of the client flags still counts, they are not sent again', () => {
    const driver = encrypted(tls).feed(option(OPT.EXPORT_NAME, utf8('disk')));
    expect(driver.outputHex).toHaveLength(20);
  });

  test.each([1, 15, 16, 100])('%i bytes of plaintext behind it are an attack: no ACK, no TLS', (count) => {
    const driver = start(tls).feed(join(MODERN, STARTTLS, go('disk').subarray(0, count)));
    expect(driver.log).toEqual([{ step: 'violation', code: 'ERR_NBD_PLAINTEXT_AFTER_STARTTLS' }]);
    expect(driver.session.next()).toBe('violation');
  });

  test('bytes that the driver hands over before TLS is up are an attack, too', () => {
    const driver = start(tls).feed(join(MODERN, STARTTLS));
    driver.session.receive(utf8('IHAVEOPT'), 8);
    expect(driver.session.next()).toBe('violation');
    expect(driver.session.violation?.code).toBe('ERR_NBD_PLAINTEXT_AFTER_STARTTLS');
  });

  test('a second STARTTLS in the same segment is plaintext behind the first', () => {
    const driver = start(tls).feed(join(MODERN, STARTTLS, STARTTLS));
    expect(driver.log).toEqual([{ step: 'violation', code: 'ERR_NBD_PLAINTEXT_AFTER_STARTTLS' }]);
  });
});

describe('what was negotiated in plaintext MUST be dropped when TLS starts (CVE-2021-3716)', () => {
  const SET = setMetaContext('disk', ['base:allocation']);

  test('structured replies', () => {
    const driver = encrypted('allow', STRUCTURED).feed(go('disk'));
    expect(driver.session.negotiated?.replyForm).toBe('simple');
    const again = encrypted('allow', STRUCTURED).feed(join(STRUCTURED, go('disk')));
    expect(again.replyTypes).toEqual([REP.ACK, REP.INFO, REP.ACK]);
    expect(again.session.negotiated?.replyForm).toBe('structured');
  });

  test('extended headers', () => {
    const EXTENDED = option(OPT.EXTENDED_HEADERS);
    const driver = encrypted('allow', EXTENDED).feed(go('disk'));
    expect(driver.session.negotiated?.replyForm).toBe('simple');
    const again = encrypted('allow', EXTENDED).feed(join(STRUCTURED, EXTENDED, go('disk')));
    expect(again.replyTypes).toEqual([REP.ACK, REP.ACK, REP.INFO, REP.ACK]);
    expect(again.session.negotiated?.replyForm).toBe('extended');
    const named = encrypted('allow', EXTENDED).feed(option(OPT.EXPORT_NAME, utf8('disk')));
    expect(named.session.negotiated?.info).toBe(DISK);
  });

  test('meta contexts', () => {
    const driver = encrypted('allow', STRUCTURED, SET).feed(join(STRUCTURED, go('disk')));
    expect(driver.session.negotiated?.metaContexts).toEqual([]);
    const status = request({ type: CMD.BLOCK_STATUS, length: 512 });
    expect(driver.feed(status).log.at(-1)).toMatchObject({ step: 'refused', errno: 22 });
  });

  test('SET needs structured replies again', () => {
    expect(encrypted('allow', STRUCTURED).feed(SET).replyTypes).toEqual([REP.ERR_INVALID]);
  });

  test('nothing of it, whatever it was', () => {
    const some = fc.array(
      fc.constantFrom(...OPTIONS.map(([, bytes]) => bytes).filter((each) => each[11] !== 7)),
    );
    fc.assert(
      fc.property(some, some, (before, after) => {
        const tail = join(...after, go('disk'), request({ type: CMD.READ, flags: 4, length: 512 }));
        expect(encrypted('allow', ...before).feed(tail).log).toEqual(encrypted('allow').feed(tail).log);
      }),
    );
  });
});

test('session gives the same steps for any split of plaintext and of what TLS decrypts', () => {
  const options = fc.array(
    fc.constantFrom(...OPTIONS.map(([, bytes]) => bytes).filter((each) => each[11] !== 7 && each[11] !== 11)),
    {
      maxLength: 5,
    },
  );
  const cuts = fc.array(fc.nat(), { maxLength: 20 });
  fc.assert(
    fc.property(fc.constantFrom('allow', 'require'), options, options, cuts, (tls, before, after, where) => {
      const plain = join(MODERN, ...before, STARTTLS);
      const secret = join(...after, go('disk'), write(0, pattern(20)));
      const whole = start(tls).feed(plain).startTls().feed(secret);
      expect(whole.steps.at(-1)).toBe('request');
      const parts = start(tls)
        .feed(...split(plain, where).filter(({ length }) => length > 0))
        .startTls()
        .feed(...split(secret, where));
      expect(parts.log).toEqual(whole.log);
      expect(start(tls).feedByteByByte(plain).startTls().feedByteByByte(secret).log).toEqual(whole.log);
    }),
  );
});
