/** The handshake on its own: one option at a time. Whole sessions are in session.test.ts. */
import { describe, expect, test } from 'vitest';
import { OPTION_BYTES_MAX, OPTION_COUNT_MAX, OPTION_SKIP_BYTES_MAX } from '../../src/limits.ts';
import { Handshake } from '../../src/protocol/handshake.ts';
import { Input } from '../../src/protocol/input.ts';
import { hex, join, u32, utf8 } from './bytes.ts';
import { DISK } from './exports.ts';
import {
  decodeOptionReplies,
  go,
  infoData,
  MODERN,
  metaData,
  OPT,
  option,
  REP,
  setMetaContext,
} from './naive-client.ts';

/** A handshake that is fed whole messages and answers every export question with DISK. */
class Client {
  readonly #input = new Input(28);
  readonly handshake = new Handshake(this.#input, 'off');

  /** The step at which the handshake stops once it has used up `bytes`. */
  say(...messages: readonly Uint8Array[]): string {
    const bytes = join(...messages);
    this.#input.receive(bytes, bytes.length);
    for (let count = 0; count < 3 * bytes.length + 10; count += 1) {
      if (this.handshake.negotiated !== undefined) return 'negotiated';
      const step = this.handshake.advance();
      if (step === 'find-export') this.handshake.answerExport(DISK);
      else if (step === 'list-exports') this.handshake.answerList([DISK]);
      else if (step !== undefined) return step;
    }
    throw new Error('The handshake does not come to rest');
  }

  /** Option and type of each reply since the last call. */
  heard(): [option: number, type: number][] {
    return decodeOptionReplies(join(...this.handshake.takeOutput())).map((reply) => [
      reply.option,
      reply.type,
    ]);
  }
}

function modern(): Client {
  const client = new Client();
  expect(client.say(MODERN)).toBe('need-input');
  return client;
}

describe('client flags', () => {
  test.each([0, 1, 2, 3])('flags %i are legal', (flags) => {
    expect(new Client().say(u32(flags))).toBe('need-input');
  });

  test.each([4, 5, 0x100, 0x8000_0000, 0xffff_ffff])('MUST close on unknown client flags %i', (flags) => {
    const client = new Client();
    expect(client.say(u32(flags))).toBe('violation');
    expect(client.handshake.violation?.code).toBe('ERR_NBD_CLIENT_FLAGS');
    expect(client.heard()).toEqual([]);
  });

  test('a client without fixed newstyle may only use EXPORT_NAME', () => {
    const client = new Client();
    client.say(u32(0), option(OPT.LIST), go('disk'), option(99));
    expect(client.heard().map(([, type]) => type)).toEqual([
      REP.ERR_INVALID,
      REP.ERR_INVALID,
      REP.ERR_INVALID,
    ]);
    expect(client.say(option(OPT.EXPORT_NAME, utf8('disk')))).toBe('negotiated');
  });
});

describe('options', () => {
  test.each([0, OPT.PEEK_EXPORT, 12, 0x1234, 0xffff_ffff])(
    'MUST answer unknown option %i with ERR_UNSUP, with data or without, and go on',
    (number) => {
      const client = modern();
      expect(client.say(option(number), option(number, utf8('IHAVEOPT')), option(OPT.LIST))).toBe(
        'need-input',
      );
      expect(client.heard()).toEqual([
        [number, REP.ERR_UNSUP],
        [number, REP.ERR_UNSUP],
        [OPT.LIST, REP.SERVER],
        [OPT.LIST, REP.ACK],
      ]);
    },
  );

  test.each([OPT.LIST, OPT.STARTTLS, OPT.STRUCTURED_REPLY, OPT.EXTENDED_HEADERS])(
    'option %i takes no data: SHOULD answer ERR_INVALID and drain',
    (number) => {
      const client = modern();
      client.say(option(number, hex('00')), option(OPT.INFO, infoData('disk')));
      expect(client.heard()).toEqual([
        [number, REP.ERR_INVALID],
        [OPT.INFO, REP.INFO],
        [OPT.INFO, REP.ACK],
      ]);
    },
  );

  test('ABORT MUST be acknowledged, and its data SHOULD be ignored', () => {
    for (const data of [hex(''), utf8('bye')]) {
      const client = modern();
      expect(client.say(option(OPT.ABORT, data), go('disk'))).toBe('disconnect');
      expect(client.heard()).toEqual([[OPT.ABORT, REP.ACK]]);
    }
  });

  test('STARTTLS MUST be an error while TLS is off', () => {
    const client = modern();
    client.say(option(OPT.STARTTLS));
    expect(client.heard()).toEqual([[OPT.STARTTLS, REP.ERR_POLICY]]);
  });

  test('a second STRUCTURED_REPLY is ERR_INVALID, and the first stays in force', () => {
    const client = modern();
    client.say(option(OPT.STRUCTURED_REPLY), option(OPT.STRUCTURED_REPLY), go('disk'));
    expect(client.heard().slice(0, 2)).toEqual([
      [OPT.STRUCTURED_REPLY, REP.ACK],
      [OPT.STRUCTURED_REPLY, REP.ERR_INVALID],
    ]);
    expect(client.handshake.negotiated?.replyForm).toBe('structured');
  });

  test('a STRUCTURED_REPLY that was refused for its data negotiates nothing', () => {
    const client = modern();
    client.say(option(OPT.STRUCTURED_REPLY, hex('00')), go('disk'));
    expect(client.handshake.negotiated?.replyForm).toBe('simple');
  });

  test.each([
    ['GO', OPT.GO],
    ['INFO', OPT.INFO],
    ['LIST_META_CONTEXT', OPT.LIST_META_CONTEXT],
  ])('%s with lengths that do not add up is ERR_INVALID and the next option is in sync', (_, number) => {
    const client = modern();
    client.say(option(number, hex('ffffffff 0000')), option(number), option(OPT.STRUCTURED_REPLY));
    expect(client.heard()).toEqual([
      [number, REP.ERR_INVALID],
      [number, REP.ERR_INVALID],
      [OPT.STRUCTURED_REPLY, REP.ACK],
    ]);
  });

  test.each([
    ['too long', utf8('x'.repeat(4097))],
    ['with a NUL', hex('6400')],
    ['no UTF-8', hex('ff')],
  ])('MUST end the session on an EXPORT_NAME that is %s: there is no error reply', (_, name) => {
    const client = modern();
    expect(client.say(option(OPT.EXPORT_NAME, name))).toBe('violation');
    expect(client.handshake.violation?.code).toBe('ERR_NBD_EXPORT_REFUSED');
    expect(client.heard()).toEqual([]);
  });

  test('a wrong option magic is a violation', () => {
    const client = modern();
    expect(client.say(hex('49484156454f5053'), u32(OPT.LIST), u32(0))).toBe('violation');
    expect(client.handshake.violation?.code).toBe('ERR_NBD_BAD_MAGIC');
  });

  test('a flood of options is cut off', () => {
    const client = modern();
    for (let count = 0; count < OPTION_COUNT_MAX; count += 1) {
      expect(client.say(option(99))).toBe('need-input');
    }
    expect(client.heard()).toHaveLength(OPTION_COUNT_MAX);
    expect(client.say(option(99))).toBe('violation');
    expect(client.handshake.violation?.code).toBe('ERR_NBD_OPTION_FLOOD');
  });
});

describe('long options', () => {
  const long = new Uint8Array(OPTION_BYTES_MAX + 1);

  test('an option above the limit is skipped and answered ERR_TOO_BIG, in sync', () => {
    const client = modern();
    client.say(option(OPT.GO, long), option(OPT.STRUCTURED_REPLY));
    expect(client.heard()).toEqual([
      [OPT.GO, REP.ERR_TOO_BIG],
      [OPT.STRUCTURED_REPLY, REP.ACK],
    ]);
  });

  test('an option of exactly the limit is read', () => {
    const client = modern();
    client.say(option(OPT.GO, long.subarray(1)));
    expect(client.heard()).toEqual([[OPT.GO, REP.ERR_INVALID]]);
  });

  test('the longest option that is skipped does not end the session', () => {
    expect(modern().say(option(OPT.GO, hex(''), OPTION_SKIP_BYTES_MAX))).toBe('need-input');
  });

  test('an absurd option length is cut off as soon as it is claimed', () => {
    for (const length of [OPTION_SKIP_BYTES_MAX + 1, 0x7fff_ffff, 0xffff_ffff]) {
      const client = modern();
      expect(client.say(option(OPT.GO, hex(''), length))).toBe('violation');
      expect(client.handshake.violation?.code).toBe('ERR_NBD_OPTION_FLOOD');
    }
  });

  test('MUST end the session on an EXPORT_NAME of any illegal length: there is no error reply', () => {
    const client = modern();
    expect(client.say(option(OPT.EXPORT_NAME, long))).toBe('violation');
    expect(client.heard()).toEqual([]);
  });

  test('ABORT MUST be acknowledged, however much data it has', () => {
    const client = modern();
    expect(client.say(option(OPT.ABORT, long))).toBe('disconnect');
    expect(client.heard()).toEqual([[OPT.ABORT, REP.ACK]]);
  });

  test('MUST answer an unknown option with ERR_UNSUP, however much data it has', () => {
    const client = modern();
    client.say(option(99, long));
    expect(client.heard()).toEqual([[99, REP.ERR_UNSUP]]);
  });

  test('a SET_META_CONTEXT that is too big replaces the selection, too', () => {
    const client = modern();
    client.say(
      option(OPT.STRUCTURED_REPLY),
      setMetaContext('disk', ['base:allocation']),
      option(OPT.SET_META_CONTEXT, long),
      go('disk'),
    );
    expect(client.handshake.negotiated?.metaContexts).toEqual([]);
  });

  test('SHOULD answer ERR_SHUTDOWN during a shutdown, however much data the option has', () => {
    const client = modern();
    client.handshake.shutDown();
    client.say(option(OPT.GO, long));
    expect(client.heard()).toEqual([[OPT.GO, REP.ERR_SHUTDOWN]]);
  });
});

describe('shutdown', () => {
  test('SHOULD answer every option ERR_SHUTDOWN except ABORT', () => {
    const client = modern();
    client.handshake.shutDown();
    client.say(option(OPT.LIST), go('disk'), option(99), option(OPT.LIST_META_CONTEXT, metaData('', [])));
    expect(client.heard().map(([, type]) => type)).toEqual(Array.from({ length: 4 }, () => REP.ERR_SHUTDOWN));
    expect(client.say(option(OPT.ABORT))).toBe('disconnect');
    expect(client.heard()).toEqual([[OPT.ABORT, REP.ACK]]);
  });

  test('ends the session on EXPORT_NAME', () => {
    const client = modern();
    client.handshake.shutDown();
    expect(client.say(option(OPT.EXPORT_NAME, utf8('disk')))).toBe('violation');
  });
});

describe('LIST', () => {
  test('MUST reply one SERVER per export and ACK, also for a directory of 200,000 files', () => {
    const client = modern();
    const input = option(OPT.LIST);
    const listed = Array.from({ length: 200_000 }, (_, index) => ({ name: `${index}`, description: '' }));
    client.handshake.answerList = Handshake.prototype.answerList.bind(client.handshake, listed, true);
    expect(client.say(input)).toBe('need-input');
    expect(client.handshake.takeOutput()).toHaveLength(listed.length + 1);
  });

  test('may be answered in pieces, which it asks for until the last', () => {
    const client = modern();
    const answer = Handshake.prototype.answerList.bind(client.handshake);
    const pieces = [[DISK, DISK], [DISK], []];
    let count = 0;
    client.handshake.answerList = () => {
      count += 1;
      answer(pieces[count - 1] ?? [], count === pieces.length);
    };
    expect(client.say(option(OPT.LIST))).toBe('need-input');
    expect(count).toBe(3);
    expect(client.heard().map(([, type]) => type)).toEqual([2, 2, 2, 1]);
  });
});
