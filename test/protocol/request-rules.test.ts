import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { emptyRequest, type Request } from '../../src/protocol/request.ts';
import {
  judgeRequest,
  judgeStatusFilter,
  type RequestContext,
  SHUTTING_DOWN,
} from '../../src/protocol/request-rules.ts';
import { UNREPRESENTABLE } from '../../src/protocol/wire.ts';
import { MIB } from './exports.ts';

const EPERM = 1;
const EINVAL = 22;
const ENOSPC = 28;

// Transmission flags, from proto.md.
const READ_ONLY = 0x0002;
const SEND_FLUSH = 0x0004;
const SEND_FUA = 0x0008;
const SEND_TRIM = 0x0020;
const SEND_WRITE_ZEROES = 0x0040;
const SEND_DF = 0x0080;
const SEND_CACHE = 0x0400;
const SEND_FAST_ZERO = 0x0800;
const BLOCK_STATUS_PAYLOAD = 0x1000;
const ALL = 0x0ded;
const ALL_READ_ONLY = 0x058f;

// Command flags.
const FUA = 0x01;
const NO_HOLE = 0x02;
const DF = 0x04;
const REQ_ONE = 0x08;
const FAST_ZERO = 0x10;
const PAYLOAD_LEN = 0x20;

const COMMANDS = {
  READ: 0,
  WRITE: 1,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;
type Command = keyof typeof COMMANDS;
const NAMES = Object.keys(COMMANDS) as Command[];
const WITH_RANGE = NAMES.filter((name) => name !== 'FLUSH');
const WRITE_TYPE: readonly Command[] = ['WRITE', 'TRIM', 'WRITE_ZEROES'];

const CONTEXT: RequestContext = {
  advertised: ALL,
  size: 64 * MIB,
  blockBytesMin: 1,
  isExtended: false,
  contextIds: [1, 2],
};

interface Fields {
  readonly flags?: number;
  readonly offset?: number;
  readonly length?: number;
}

/** With compact headers: the length of a WRITE is that of its payload. */
function judge(
  command: Command | number,
  request: Fields = {},
  context: Partial<RequestContext> = {},
): number {
  const { flags = 0, offset = 0, length = command === 'FLUSH' ? 0 : 4096 } = request;
  const type = typeof command === 'number' ? command : COMMANDS[command];
  const payloadLength = type === COMMANDS.WRITE ? length : 0;
  const whole: Request = { ...emptyRequest(), type, flags, offset, length, payloadLength };
  const refusal = judgeRequest(whole, { ...CONTEXT, ...context });
  if (refusal !== undefined) expect(refusal.message).toMatch(/^[A-Z].*[^.]$/);
  return refusal?.errno ?? 0;
}

const EXTENDED: Partial<RequestContext> = { advertised: ALL | BLOCK_STATUS_PAYLOAD, isExtended: true };

/** With extended headers: PAYLOAD_LEN says whether the length is that of a payload, and WRITE has it by default. */
function judgeExtended(
  command: Command | number,
  request: Fields = {},
  context: Partial<RequestContext> = {},
): number {
  const type = typeof command === 'number' ? command : COMMANDS[command];
  const {
    flags = type === COMMANDS.WRITE ? PAYLOAD_LEN : 0,
    offset = 0,
    length = command === 'FLUSH' ? 0 : 4096,
  } = request;
  const payloadLength = (flags & PAYLOAD_LEN) === 0 ? 0 : length;
  const whole: Request = { ...emptyRequest(), type, flags, offset, length, payloadLength };
  return judgeRequest(whole, { ...CONTEXT, ...EXTENDED, ...context })?.errno ?? 0;
}

describe('commands', () => {
  test.each(NAMES)('%s is legal when it is advertised', (command) => {
    expect(judge(command)).toBe(0);
  });

  test.each([2, 8, 9, 0xff, 0x100, 0x8000, 0xffff])('unknown command %i SHOULD be EINVAL', (command) => {
    // DISC (2) never gets here; RESIZE (8) is an extension that we do not have.
    expect(judge(command)).toBe(EINVAL);
  });

  test.each([
    ['FLUSH', SEND_FLUSH],
    ['TRIM', SEND_TRIM],
    ['CACHE', SEND_CACHE],
    ['WRITE_ZEROES', SEND_WRITE_ZEROES],
  ] as const)('%s is EINVAL when it is not advertised', (command, flag) => {
    expect(judge(command, {}, { advertised: ALL & ~flag })).toBe(EINVAL);
  });

  test.each(['READ', 'WRITE', 'BLOCK_STATUS'] as const)('%s needs no transmission flag', (command) => {
    expect(judge(command, {}, { advertised: 1 })).toBe(0);
  });

  test('FLUSH with an offset or a length is EINVAL', () => {
    expect(judge('FLUSH', { offset: 1 })).toBe(EINVAL);
    expect(judge('FLUSH', { length: 1 })).toBe(EINVAL);
    expect(judge('FLUSH', { offset: UNREPRESENTABLE })).toBe(EINVAL);
  });

  test('FLUSH is legal on an export without bytes and on one that is read-only', () => {
    expect(judge('FLUSH', {}, { size: 0 })).toBe(0);
    expect(judge('FLUSH', {}, { advertised: ALL_READ_ONLY })).toBe(0);
  });

  test('BLOCK_STATUS without a meta context SHOULD be EINVAL', () => {
    expect(judge('BLOCK_STATUS', {}, { contextIds: [] })).toBe(EINVAL);
  });
});

describe('command flags', () => {
  /** Flags besides FUA that each command knows when everything is advertised. */
  const KNOWN: Readonly<Record<Command, number>> = {
    READ: DF,
    WRITE: 0,
    FLUSH: 0,
    TRIM: 0,
    CACHE: 0,
    WRITE_ZEROES: NO_HOLE | FAST_ZERO,
    BLOCK_STATUS: REQ_ONE,
  };
  /** The transmission flag without which a command flag is refused. */
  const NEEDS = new Map([
    [FUA, SEND_FUA],
    [DF, SEND_DF],
    [FAST_ZERO, SEND_FAST_ZERO],
  ]);
  const table = NAMES.flatMap((command) =>
    Array.from({ length: 16 }, (_, bit) => 1 << bit).map((flag) => ({ command, flag })),
  );

  test.each(table)(
    '$command with flag $flag is legal only where the specification puts the flag',
    ({ command, flag }) => {
      const isKnown = flag === FUA || (KNOWN[command] & flag) !== 0;
      expect(judge(command, { flags: flag })).toBe(isKnown ? 0 : EINVAL);
      const needed = NEEDS.get(flag);
      if (needed !== undefined) {
        expect(judge(command, { flags: flag }, { advertised: ALL & ~needed })).toBe(EINVAL);
      }
    },
  );

  test.each(NAMES)('FUA MUST be accepted on %s once SEND_FUA was advertised', (command) => {
    expect(judge(command, { flags: FUA })).toBe(0);
    expect(judge(command, { flags: FUA | KNOWN[command] })).toBe(0);
  });

  test.each(NAMES)('one bad flag among good ones makes %s EINVAL', (command) => {
    expect(judge(command, { flags: FUA | KNOWN[command] | 0x8000 })).toBe(EINVAL);
  });

  test('PAYLOAD_LEN belongs to extended headers, which were not negotiated', () => {
    for (const command of NAMES) expect(judge(command, { flags: PAYLOAD_LEN })).toBe(EINVAL);
  });

  test('FAST_ZERO that was never advertised SHOULD be EINVAL, NO_HOLE MUST work', () => {
    const advertised = ALL & ~SEND_FAST_ZERO;
    expect(judge('WRITE_ZEROES', { flags: FAST_ZERO | NO_HOLE }, { advertised })).toBe(EINVAL);
    expect(judge('WRITE_ZEROES', { flags: NO_HOLE }, { advertised })).toBe(0);
  });
});

describe('read-only exports', () => {
  test.each(WRITE_TYPE)('%s SHOULD be EPERM', (command) => {
    expect(judge(command, {}, { advertised: ALL_READ_ONLY })).toBe(EPERM);
    expect(judge(command, { flags: FUA }, { advertised: ALL_READ_ONLY })).toBe(EPERM);
  });

  test.each(WRITE_TYPE)('%s is EPERM rather than an error about its range', (command) => {
    expect(judge(command, { offset: UNREPRESENTABLE }, { advertised: ALL_READ_ONLY })).toBe(EPERM);
    expect(judge(command, { length: 0xffffffff }, { advertised: ALL_READ_ONLY })).toBe(EPERM);
    expect(judge(command, { offset: 1 }, { advertised: ALL_READ_ONLY, blockBytesMin: 512 })).toBe(EPERM);
  });

  test('every write-type command MUST be an error, whatever its flags', () => {
    for (const command of WRITE_TYPE) {
      for (let flags = 0; flags < 0x40; flags += 1) {
        for (const advertised of [ALL_READ_ONLY, ALL | READ_ONLY, READ_ONLY | 1]) {
          expect(judge(command, { flags }, { advertised })).not.toBe(0);
        }
      }
    }
  });

  test.each(['READ', 'FLUSH', 'CACHE', 'BLOCK_STATUS'] as const)('%s is legal', (command) => {
    expect(judge(command, {}, { advertised: ALL_READ_ONLY })).toBe(0);
  });
});

describe('bounds', () => {
  const SIZES = [0, 1, 511, 512, 4096, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1];
  const LENGTHS = [0, 1, 511, 512, 4096, 32 * MIB];
  const pastEnd = (command: Command): number =>
    command === 'WRITE' || command === 'WRITE_ZEROES' ? ENOSPC : EINVAL;
  const table = WITH_RANGE.flatMap((command) => SIZES.map((size) => ({ command, size })));

  test.each(table)(
    '$command within $size bytes is legal to the last byte and no further',
    ({ command, size }) => {
      const emptyIs = command === 'BLOCK_STATUS' ? EINVAL : 0;
      for (const length of LENGTHS) {
        const inside = length === 0 ? emptyIs : 0;
        if (length <= size) {
          expect(judge(command, { offset: 0, length }, { size })).toBe(inside);
          expect(judge(command, { offset: size - length, length }, { size })).toBe(inside);
          if (size < Number.MAX_SAFE_INTEGER) {
            expect(judge(command, { offset: size - length + 1, length }, { size })).toBe(pastEnd(command));
          }
        } else {
          expect(judge(command, { offset: 0, length }, { size })).toBe(pastEnd(command));
        }
        expect(judge(command, { offset: Number.MAX_SAFE_INTEGER, length: length + 1 }, { size })).toBe(
          pastEnd(command),
        );
        expect(judge(command, { offset: UNREPRESENTABLE, length }, { size })).toBe(pastEnd(command));
      }
    },
  );

  test.each(['TRIM', 'CACHE', 'WRITE_ZEROES', 'BLOCK_STATUS'] as const)(
    '%s has no payload: its length is not limited by the maximum payload',
    (command) => {
      const size = 2 ** 33;
      expect(judge(command, { offset: 2 ** 32, length: 0xffffffff }, { size })).toBe(0);
      expect(judge(command, { offset: 2 ** 32 + 2, length: 0xffffffff }, { size })).toBe(pastEnd(command));
    },
  );

  test.each(['READ', 'WRITE'] as const)('%s is EINVAL above the maximum payload', (command) => {
    expect(judge(command, { length: 32 * MIB })).toBe(0);
    expect(judge(command, { length: 32 * MIB + 1 })).toBe(EINVAL);
    expect(judge(command, { length: 0xffffffff }, { size: 2 ** 40 })).toBe(EINVAL);
  });

  test.each(['READ', 'WRITE', 'TRIM', 'WRITE_ZEROES', 'CACHE'] as const)(
    '%s of no bytes succeeds as a no-op',
    (command) => {
      expect(judge(command, { length: 0 })).toBe(0);
      expect(judge(command, { offset: CONTEXT.size, length: 0 })).toBe(0);
    },
  );

  test('BLOCK_STATUS of no bytes is EINVAL', () => {
    expect(judge('BLOCK_STATUS', { length: 0 })).toBe(EINVAL);
  });
});

describe('alignment', () => {
  const table = WITH_RANGE.flatMap((command) =>
    [512, 4096, 65536].map((blockBytesMin) => ({ command, blockBytesMin })),
  );

  test.each(table)(
    '$command SHOULD be EINVAL when it is not aligned to $blockBytesMin bytes',
    ({ command, blockBytesMin }) => {
      const size = 2 ** 53 - 65536;
      const context = { blockBytesMin, size };
      const far = 2 ** 52;
      expect(judge(command, { offset: blockBytesMin, length: blockBytesMin }, context)).toBe(0);
      expect(judge(command, { offset: far, length: 2 * blockBytesMin }, context)).toBe(0);
      for (const wrong of [1, blockBytesMin / 2, blockBytesMin - 1]) {
        expect(judge(command, { offset: wrong, length: blockBytesMin }, context)).toBe(EINVAL);
        expect(judge(command, { offset: far + wrong, length: blockBytesMin }, context)).toBe(EINVAL);
        expect(judge(command, { offset: 0, length: wrong }, context)).toBe(EINVAL);
        expect(judge(command, { offset: wrong, length: wrong }, context)).toBe(EINVAL);
      }
    },
  );
});

describe('extended headers', () => {
  test.each(NAMES)('%s is legal when it is advertised', (command) => {
    expect(judgeExtended(command)).toBe(0);
  });

  test.each(NAMES)('%s with PAYLOAD_LEN SHOULD be EINVAL unless a payload belongs to it', (command) => {
    const takesPayload = command === 'WRITE' || command === 'BLOCK_STATUS';
    expect(judgeExtended(command, { flags: PAYLOAD_LEN, length: 12 })).toBe(takesPayload ? 0 : EINVAL);
    expect(judgeExtended(command, { flags: PAYLOAD_LEN | FUA, length: 12 })).toBe(takesPayload ? 0 : EINVAL);
  });

  test('PAYLOAD_LEN with an unknown command SHOULD be EINVAL', () => {
    expect(judgeExtended(8, { flags: PAYLOAD_LEN })).toBe(EINVAL);
  });

  test('WRITE without PAYLOAD_LEN or without a payload is EINVAL', () => {
    expect(judgeExtended('WRITE', { flags: 0 })).toBe(EINVAL);
    expect(judgeExtended('WRITE', { flags: FUA, length: 0 })).toBe(EINVAL);
    expect(judgeExtended('WRITE', { length: 0 })).toBe(EINVAL);
    expect(judgeExtended('WRITE', { length: 1 })).toBe(0);
  });

  test('WRITE on a read-only export is EPERM before anything about its payload', () => {
    const readOnly = { advertised: ALL_READ_ONLY };
    expect(judgeExtended('WRITE', { flags: 0 }, readOnly)).toBe(EPERM);
    expect(judgeExtended('WRITE', { length: 0 }, readOnly)).toBe(EPERM);
  });

  test('READ and WRITE above 32 MiB are EINVAL, also above 2^32', () => {
    const big = { size: 2 ** 53 - 1 };
    for (const command of ['READ', 'WRITE'] as const) {
      expect(judgeExtended(command, { length: 32 * MIB }, big)).toBe(0);
      for (const length of [32 * MIB + 1, 2 ** 32, 2 ** 32 + 512, 2 ** 53 - 1]) {
        expect(judgeExtended(command, { length }, big)).toBe(EINVAL);
      }
    }
  });

  test.each(['TRIM', 'CACHE', 'WRITE_ZEROES', 'BLOCK_STATUS'] as const)(
    '%s has a 64-bit effect length: up to the whole export and no further',
    (command) => {
      const pastEnd = command === 'WRITE_ZEROES' ? ENOSPC : EINVAL;
      for (const size of [2 ** 32, 2 ** 40 + 7, 2 ** 53 - 1]) {
        expect(judgeExtended(command, { length: size }, { size })).toBe(0);
        expect(judgeExtended(command, { offset: 1, length: size - 1 }, { size })).toBe(0);
        expect(judgeExtended(command, { offset: 1, length: size }, { size })).toBe(pastEnd);
        expect(judgeExtended(command, { length: UNREPRESENTABLE }, { size })).toBe(pastEnd);
        expect(judgeExtended(command, { offset: UNREPRESENTABLE, length: UNREPRESENTABLE }, { size })).toBe(
          pastEnd,
        );
      }
      const aligned = { size: 2 ** 50, blockBytesMin: 4096 };
      expect(judgeExtended(command, { length: 2 ** 40 + 4096 }, aligned)).toBe(0);
      expect(judgeExtended(command, { length: 2 ** 40 + 512 }, aligned)).toBe(EINVAL);
    },
  );

  test('FAST_ZERO with a huge length SHOULD NOT be EOVERFLOW: it is legal', () => {
    const length = 2 ** 50;
    expect(
      judgeExtended('WRITE_ZEROES', { flags: FAST_ZERO | NO_HOLE | FUA, length }, { size: length }),
    ).toBe(0);
  });

  describe('BLOCK_STATUS with a payload', () => {
    const filter = (length: number, context: Partial<RequestContext> = {}): number =>
      judgeExtended('BLOCK_STATUS', { flags: PAYLOAD_LEN, length }, context);

    test('MUST be EINVAL when it was not advertised', () => {
      expect(filter(12, { advertised: ALL })).toBe(EINVAL);
    });

    test('MUST be EINVAL when its size is not 8 + 4k, with 1 to all of the contexts', () => {
      const legal = [12, 16, 20];
      for (let length = 0; length < 40; length += 1) {
        expect(filter(length, { contextIds: [1, 2, 3] }), `${length}`).toBe(
          legal.includes(length) ? 0 : EINVAL,
        );
      }
      expect(filter(32 * MIB)).toBe(EINVAL);
      expect(filter(12, { contextIds: [] })).toBe(EINVAL);
    });

    function judgeFilter(contextIds: readonly number[], fields: Fields = {}): number {
      const request: Request = {
        ...emptyRequest(),
        type: COMMANDS.BLOCK_STATUS,
        flags: PAYLOAD_LEN,
        length: 4096,
        payloadLength: 8 + 4 * contextIds.length,
        contextIds,
        ...fields,
      };
      const context = { ...CONTEXT, ...EXTENDED, contextIds: [1, 2, 3], size: 2 ** 40 };
      return judgeStatusFilter(request, context)?.errno ?? 0;
    }

    test('MUST be EINVAL for a double or an unknown id', () => {
      expect(judgeFilter([1])).toBe(0);
      expect(judgeFilter([3, 1, 2])).toBe(0);
      expect(judgeFilter([1, 1])).toBe(EINVAL);
      expect(judgeFilter([1, 2, 1])).toBe(EINVAL);
      expect(judgeFilter([4])).toBe(EINVAL);
      expect(judgeFilter([1, 0])).toBe(EINVAL);
    });

    test('is judged by its effect length', () => {
      expect(judgeFilter([1], { length: 2 ** 40 })).toBe(0);
      expect(judgeFilter([1], { length: 2 ** 40 + 1 })).toBe(EINVAL);
      expect(judgeFilter([1], { offset: 1, length: 2 ** 40 })).toBe(EINVAL);
      expect(judgeFilter([1], { length: UNREPRESENTABLE })).toBe(EINVAL);
      expect(judgeFilter([1], { length: 0 })).toBe(EINVAL);
    });
  });
});

/** The verdict in the order of nbd-protocol.md section 7, with BigInt. */
function naiveVerdict(
  type: number,
  flags: number,
  offset: bigint,
  length: bigint,
  context: RequestContext,
): number {
  const advertises = (flag: number): boolean => (context.advertised & flag) !== 0;
  const name = NAMES.find((candidate) => COMMANDS[candidate] === type);
  if (name === undefined) return EINVAL;
  let legal = advertises(SEND_FUA) ? FUA : 0;
  if (name === 'READ' && advertises(SEND_DF)) legal += DF;
  if (name === 'WRITE_ZEROES') legal += NO_HOLE;
  if (name === 'WRITE_ZEROES' && advertises(SEND_FAST_ZERO)) legal += FAST_ZERO;
  if (name === 'BLOCK_STATUS') legal += REQ_ONE;
  const canFilter = name === 'BLOCK_STATUS' && advertises(BLOCK_STATUS_PAYLOAD);
  if (context.isExtended && (name === 'WRITE' || canFilter)) legal += PAYLOAD_LEN;
  for (let bit = 1; bit <= 0x8000; bit *= 2) if ((flags & bit) !== 0 && (legal & bit) === 0) return EINVAL;
  if (WRITE_TYPE.includes(name) && advertises(READ_ONLY)) return EPERM;
  const hasPayload = (flags & PAYLOAD_LEN) !== 0;
  if (context.isExtended && name === 'WRITE' && (!hasPayload || length === 0n)) return EINVAL;
  if (context.isExtended && name === 'BLOCK_STATUS' && hasPayload) {
    // An effect length and one to all of the contexts; what they say is judged when the payload is there.
    return context.contextIds.some((_, index) => length === BigInt(8 + 4 * (index + 1))) ? 0 : EINVAL;
  }
  if (name === 'FLUSH') return !advertises(SEND_FLUSH) || offset !== 0n || length !== 0n ? EINVAL : 0;
  if (name === 'TRIM' && !advertises(SEND_TRIM)) return EINVAL;
  if (name === 'CACHE' && !advertises(SEND_CACHE)) return EINVAL;
  if (name === 'WRITE_ZEROES' && !advertises(SEND_WRITE_ZEROES)) return EINVAL;
  if (offset + length > BigInt(context.size))
    return name === 'WRITE' || name === 'WRITE_ZEROES' ? ENOSPC : EINVAL;
  const block = BigInt(context.blockBytesMin);
  if (offset % block !== 0n || length % block !== 0n) return EINVAL;
  if ((name === 'READ' || name === 'WRITE') && length > BigInt(32 * MIB)) return EINVAL;
  if (name === 'BLOCK_STATUS' && (context.contextIds.length === 0 || length === 0n)) return EINVAL;
  return 0;
}

test('every verdict agrees with a naive model in BigInt', () => {
  const near = (...centers: bigint[]): fc.Arbitrary<bigint> =>
    fc
      .tuple(fc.constantFrom(...centers), fc.bigInt(-3n, 3n), fc.constantFrom(1n, 512n, 4096n))
      .map(([center, steps, step]) => center + steps * step);
  const inRange = (bits: number, value: bigint): bigint => BigInt.asUintN(bits, value < 0n ? 0n : value);
  const context = fc.record({
    advertised: fc.oneof(
      fc.constantFrom(ALL, ALL_READ_ONLY, ALL | BLOCK_STATUS_PAYLOAD),
      fc.nat(0x1fff).map((flags) => flags | 1),
    ),
    size: fc.oneof(
      near(0n, 8192n, 2n ** 32n, 2n ** 53n - 1n).map((size) => Number(inRange(53, size))),
      fc.maxSafeNat(),
    ),
    blockBytesMin: fc.constantFrom(1, 1, 512, 4096, 65536),
    payloadBytesMax: fc.constantFrom(4096, MIB, 32 * MIB),
    isExtended: fc.boolean(),
    contextIds: fc.constantFrom([], [1], [1, 2, 3]),
  });
  const scenario = context.chain((given) =>
    fc.record({
      context: fc.constant(given),
      type: fc.oneof({ weight: 9, arbitrary: fc.nat(8) }, fc.nat(0xffff)),
      flags: fc.oneof(
        fc.constantFrom(0, FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN),
        fc.nat(0x3f),
        fc.nat(0xffff),
      ),
      offset: fc
        .oneof(
          near(0n, BigInt(given.size), 2n ** 32n, 2n ** 53n, 2n ** 64n - 1n),
          fc.bigInt(0n, 2n ** 64n - 1n),
        )
        .map((offset) => inRange(64, offset)),
      length: fc
        .oneof(
          near(0n, 12n, BigInt(given.size), BigInt(given.payloadBytesMax), 2n ** 32n - 1n, 2n ** 53n),
          fc.bigInt(0n, 2n ** 32n - 1n),
          fc.bigInt(0n, 2n ** 64n - 1n),
        )
        .map((length) => inRange(given.isExtended ? 64 : 32, length)),
    }),
  );
  fc.assert(
    fc.property(scenario, ({ context: given, type, flags, offset, length }) => {
      const exact = (value: bigint): number => (value < 2n ** 53n ? Number(value) : UNREPRESENTABLE);
      const hasPayload = given.isExtended ? (flags & PAYLOAD_LEN) !== 0 : type === COMMANDS.WRITE;
      const request: Request = {
        ...emptyRequest(),
        type,
        flags,
        offset: exact(offset),
        length: exact(length),
        payloadLength: hasPayload ? exact(length) : 0,
      };
      expect(judgeRequest(request, given)?.errno ?? 0).toBe(naiveVerdict(type, flags, offset, length, given));
    }),
    { numRuns: 20_000 },
  );
});

test('requests during a shutdown are answered ESHUTDOWN', () => {
  expect(SHUTTING_DOWN.errno).toBe(108);
});
