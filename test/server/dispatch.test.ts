/** One request to the handle and its reply: every command, every way to end, and no buffer lost or doubled. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { beforeEach, describe, expect, test } from 'vitest';
import { EXTENT_COUNT_MAX } from '../../src/limits.ts';
import { BackendError } from '../../src/plugins/backend-error.ts';
import type { Extent, Handle } from '../../src/plugins/plugin.ts';
import type { LinuxErrno } from '../../src/protocol/errno.ts';
import type { ReplyForm } from '../../src/protocol/reply.ts';
import { emptyRequest, type Request } from '../../src/protocol/request.ts';
import type { Session } from '../../src/protocol/session.ts';
import { ConnectionTally } from '../../src/server/connection-tally.ts';
import { Counters, type CounterTotals, sumCounters } from '../../src/server/counters.ts';
import { Dispatch } from '../../src/server/dispatch.ts';
import { inflightBytes } from '../../src/server/inflight-bytes.ts';
import { ReplyWriter } from '../../src/server/reply-writer.ts';
import { Cursor, pattern } from '../protocol/bytes.ts';
import { type Chunk, CMD, decodeReplyChunks } from '../protocol/naive-client.ts';
import { CountingPool } from './counting-pool.ts';
import { FakeLog } from './fake-log.ts';
import { FakeHandle, INFO, type PendingCall } from './fake-plugin.ts';
import { FakeSocket } from './fake-socket.ts';

const KiB = 1024;
const FUA = 1;
const NO_HOLE = 2;
const DF = 4;
const FAST_ZERO = 16;
const COOKIE = 0x1234_5678_9abc_def0n;

// A turn of the event loop of its own: what the test before has spent of it is not this one's (plugins/turns.ts).
beforeEach(async () => {
  await nextTurn();
});

interface SimpleReply {
  readonly errno: number;
  readonly cookie: bigint;
  readonly data: Uint8Array;
}

class Rig {
  readonly socket = new FakeSocket(true);
  readonly pool = new CountingPool();
  readonly log = new FakeLog();
  readonly counters = new Counters(true);
  readonly tally = new ConnectionTally(this.counters);
  readonly given = { bytes: 0, requests: 0 };
  readonly writer: ReplyWriter;
  readonly dispatch: Dispatch;
  /** The receive buffer: overwritten after every request. */
  readonly #received = new Uint8Array(1024 * KiB);

  constructor(handle: Handle, form: ReplyForm = 'structured', contextIds: readonly number[] = [1]) {
    this.writer = new ReplyWriter(this.socket.asSink, this.pool, (bytes, requests) => {
      this.given.bytes += bytes;
      this.given.requests += requests;
    });
    const negotiated = {
      info: { ...INFO, name: '', description: '' },
      replyForm: form,
      metaContexts: contextIds.map((id) => ({ id, name: id === 2 ? 'x-test:context' : 'base:allocation' })),
    };
    this.dispatch = new Dispatch(handle, negotiated, this.writer, this.pool, this.log, this.tally);
  }

  /** Buffers that requests have in hand; the writer holds one while replies gather in it. */
  get buffersInHand(): number {
    return this.pool.outCount - (this.writer.buffer.length > 0 ? 1 : 0);
  }

  /** Executes a request, then overwrites its header and the receive buffer, as the session would. */
  execute(fields: Partial<Request>, payload?: { data: Uint8Array; isBorrowed: boolean }): void {
    const request: Request = {
      ...emptyRequest(),
      cookieHigh: 0x1234_5678,
      cookieLow: 0x9abc_def0,
      ...fields,
    };
    const start = 77;
    const { data = new Uint8Array(0), isBorrowed = true } = payload ?? {};
    const holder = isBorrowed ? this.#received : this.pool.acquire(data.length);
    const payloadStart = isBorrowed ? start : 0;
    holder.set(data, payloadStart);
    const session = { request, payload: holder, payloadStart, isPayloadBorrowed: isBorrowed };
    this.dispatch.execute(session as unknown as Session);
    this.#received.fill(0xee);
    Object.assign(request, { flags: 0xff, type: 99, cookieHigh: 1, cookieLow: 2, offset: 3, length: 4 });
  }

  async chunks(): Promise<Chunk[]> {
    await nextTurn();
    await nextTurn();
    return decodeReplyChunks(this.socket.bytes);
  }

  async simpleReply(): Promise<SimpleReply> {
    await nextTurn();
    await nextTurn();
    const cursor = new Cursor(this.socket.bytes);
    expect(cursor.u32()).toBe(0x67446698);
    return { errno: cursor.u32(), cookie: cursor.u64(), data: cursor.take(cursor.rest) };
  }
}

/** A handle that does everything at once, but for what a test replaces. */
function handleWith(replaced: Partial<Handle>): Handle {
  const base = new FakeHandle('immediate');
  return {
    read: (...values) => base.read(...values),
    write: (...values) => base.write(...values),
    flush: () => base.flush(),
    trim: (...values) => base.trim(...values),
    zero: (...values) => base.zero(...values),
    cache: (...values) => base.cache(...values),
    extents: (offset, length) => base.extents(offset, length),
    close: () => {},
    ...replaced,
  };
}

const DONE = { kind: 'none', cookie: COOKIE, isDone: true };

const COMMANDS: readonly [string, Partial<Request>, object][] = [
  ['FLUSH', { type: CMD.FLUSH }, { operation: 'flush' }],
  [
    'TRIM',
    { type: CMD.TRIM, offset: 4096, length: 512 },
    { operation: 'trim', offset: 4096, length: 512, isFua: false },
  ],
  ['TRIM with FUA', { type: CMD.TRIM, flags: FUA, length: 1 }, { operation: 'trim', isFua: true }],
  ['CACHE', { type: CMD.CACHE, offset: 1, length: 2 }, { operation: 'cache', offset: 1, length: 2 }],
  [
    'WRITE_ZEROES',
    { type: CMD.WRITE_ZEROES, offset: 2 ** 40, length: 2 ** 32 - 1 },
    {
      operation: 'zero',
      offset: 2 ** 40,
      length: 2 ** 32 - 1,
      options: { mayPunch: true, isFast: false },
      isFua: false,
    },
  ],
  [
    'WRITE_ZEROES with every flag',
    { type: CMD.WRITE_ZEROES, flags: FUA | NO_HOLE | FAST_ZERO, length: 1 },
    { operation: 'zero', options: { mayPunch: false, isFast: true }, isFua: true },
  ],
];

describe('a command without data', () => {
  test.each(COMMANDS)(
    '%s reaches the handle and is answered before execute returns',
    async (_, fields, call) => {
      const handle = new FakeHandle('immediate');
      const rig = new Rig(handle);
      rig.execute(fields);
      expect(rig.socket.writes).toHaveLength(1);
      expect(handle.calls).toMatchObject([call]);
      expect(await rig.chunks()).toEqual([DONE]);
      expect(rig.given).toEqual({ bytes: 0, requests: 1 });
    },
  );

  test.each(COMMANDS)('%s is answered when its promise settles, not before', async (_, fields) => {
    const handle = new FakeHandle('controlled');
    const rig = new Rig(handle);
    rig.execute(fields);
    await nextTurn();
    expect(rig.socket.writes).toHaveLength(0);
    handle.pending[0]?.resolve();
    expect(await rig.chunks()).toEqual([DONE]);
    expect(rig.given).toEqual({ bytes: 0, requests: 1 });
  });

  test.each([CMD.TRIM, CMD.WRITE_ZEROES])(
    'command %i reaches the handle with a 64-bit length',
    async (type) => {
      const handle = new FakeHandle('immediate');
      const rig = new Rig(handle, 'extended');
      rig.execute({ type, offset: 512, offsetLow: 512, length: 2 ** 52 });
      expect(handle.calls).toMatchObject([{ offset: 512, length: 2 ** 52 }]);
      expect(await rig.chunks()).toEqual([{ ...DONE, echoed: 512n }]);
      expect(rig.given).toEqual({ bytes: 0, requests: 1 });
    },
  );

  test('CACHE of more than 1 GiB is served in part', async () => {
    const handle = new FakeHandle('immediate');
    const rig = new Rig(handle, 'extended');
    rig.execute({ type: CMD.CACHE, length: 2 ** 52 });
    expect(handle.calls).toMatchObject([{ operation: 'cache', length: 2 ** 30 }]);
    expect(await rig.chunks()).toEqual([{ ...DONE, echoed: 0n }]);
  });

  test('is answered with a simple reply when that was negotiated', async () => {
    const rig = new Rig(new FakeHandle('immediate'), 'simple');
    rig.execute({ type: CMD.FLUSH });
    expect(await rig.simpleReply()).toMatchObject({ errno: 0, cookie: COOKIE, data: { length: 0 } });
  });
});

/** Fills a read with bytes that depend on the place in the export. */
function fillPattern({ target, offset }: PendingCall): void {
  target?.forEach((_, index) => {
    target[index] = (offset + index) % 251;
  });
}

function expectedPattern(offset: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (offset + index) % 251);
}

describe('READ', () => {
  test.each([1, 512, 128 * KiB, 128 * KiB + 1, 1024 * KiB])(
    'of %d bytes, later, in either form of reply',
    async (length) => {
      for (const form of ['simple', 'structured'] as const) {
        const handle = new FakeHandle('controlled');
        const rig = new Rig(handle, form);
        // With DF nobody asks for holes.
        rig.execute({ flags: DF, offset: 1000, length });
        const [pending] = handle.pending;
        expect(pending).toMatchObject({ operation: 'read', offset: 1000, length });
        if (pending !== undefined) fillPattern(pending);
        pending?.resolve();
        const data = form === 'simple' ? (await rig.simpleReply()).data : dataOf(await rig.chunks(), 1000n);
        expect(Buffer.from(data).equals(expectedPattern(1000, length))).toBe(true);
        expect(rig.given).toEqual({ bytes: length, requests: 1 });
        expect(rig.buffersInHand).toBe(0);
      }
    },
  );

  function dataOf(chunks: Chunk[], offset: bigint): Uint8Array {
    const [chunk] = chunks;
    expect(chunk).toMatchObject({ kind: 'data', cookie: COOKIE, offset, isDone: true });
    return chunk?.kind === 'data' ? chunk.data : new Uint8Array(0);
  }

  test.each([1, 128 * KiB, 200 * KiB])(
    'of %d bytes at once, by a handle that needs no promise',
    async (length) => {
      const rig = new Rig(
        handleWith({
          read: (buffer, start, count) => {
            buffer.fill(7, start, start + count);
          },
        }),
      );
      rig.execute({ flags: DF, length });
      expect(rig.socket.writes).toHaveLength(1);
      expect(Buffer.from(dataOf(await rig.chunks(), 0n)).equals(Buffer.alloc(length, 7))).toBe(true);
      expect(rig.buffersInHand).toBe(0);
    },
  );

  test('now goes straight into the reply and takes no buffer', async () => {
    const rig = new Rig(
      handleWith({
        readNow: (buffer, start, length, offset) => {
          buffer.set(expectedPattern(offset, length), start);
          return true;
        },
      }),
    );
    rig.execute({ offset: 5, length: 128 * KiB });
    // The one buffer is the writer's own, on its way.
    expect(rig.buffersInHand).toBe(1);
    expect(Buffer.from(dataOf(await rig.chunks(), 5n)).equals(expectedPattern(5, 128 * KiB))).toBe(true);
    expect(rig.buffersInHand).toBe(0);
  });

  test('that cannot be done now is done later, and what the attempt left behind is not sent', async () => {
    const base = new FakeHandle('controlled');
    const rig = new Rig(
      handleWith({
        readNow: (buffer, start, length) => {
          buffer.fill(0xbb, start, start + length);
          return false;
        },
        read: (...values) => base.read(...values),
      }),
    );
    rig.execute({ length: 100 });
    rig.execute({ type: CMD.FLUSH });
    const [pending] = base.pending;
    if (pending !== undefined) fillPattern(pending);
    pending?.resolve();
    await nextTurn();
    await nextTurn();
    expect(rig.socket.bytes.includes(0xbb)).toBe(false);
    expect(rig.given).toEqual({ bytes: 100, requests: 2 });
  });

  test('longer than what is gathered is not tried now', async () => {
    const rig = new Rig(
      handleWith({
        readNow: () => {
          throw new Error('It was tried');
        },
      }),
    );
    rig.execute({ length: 128 * KiB + 1 });
    expect((await rig.chunks())[0]?.kind).toBe('data');
  });

  test('of nothing succeeds without the handle', async () => {
    for (const form of ['simple', 'structured'] as const) {
      const handle = new FakeHandle('controlled');
      const rig = new Rig(handle, form);
      rig.execute({ length: 0 });
      expect(form === 'simple' ? (await rig.simpleReply()).errno : await rig.chunks()).toEqual(
        form === 'simple' ? 0 : [DONE],
      );
      expect(handle.calls).toEqual([]);
    }
  });
});

describe('READ of a disk with holes', () => {
  const HOLE: readonly Extent[] = [{ length: 1024 ** 3, isHole: true, isZero: true }];

  test.each(['structured', 'extended'] as const)('sends a hole as a hole, in the %s form', async (form) => {
    const handle = new FakeHandle('immediate');
    handle.extentsFound = HOLE;
    const rig = new Rig(handle, form);
    rig.execute({ offset: 4096, offsetLow: 4096, length: 1024 * KiB });
    expect(await rig.chunks()).toMatchObject([
      { kind: 'hole', cookie: COOKIE, offset: 4096n, length: 1024 * KiB, isDone: true },
    ]);
    expect(handle.calls.map(({ operation }) => operation)).toEqual(['extents']);
    expect(rig.given).toEqual({ bytes: 1024 * KiB, requests: 1 });
    expect(rig.buffersInHand).toBe(0);
  });

  test.each([
    ['the reply is simple, which has no holes', 'simple', { length: 1024 * KiB }],
    ['DF asks for one chunk', 'structured', { flags: DF, length: 1024 * KiB }],
    ['the READ is short', 'structured', { length: 64 * KiB - 1 }],
  ] as const)('reads when %s', async (_, form, fields) => {
    const handle = new FakeHandle('immediate');
    handle.extentsFound = HOLE;
    const rig = new Rig(handle, form);
    rig.execute(fields);
    await nextTurn();
    expect(handle.calls.map(({ operation }) => operation)).toEqual(['read']);
  });

  test('never asks for extents when the READ is answered now', async () => {
    const base = new FakeHandle('immediate');
    const rig = new Rig(
      handleWith({ readNow: () => true, extents: (offset, length) => base.extents(offset, length) }),
    );
    rig.execute({ length: 128 * KiB });
    expect((await rig.chunks())[0]).toMatchObject({ kind: 'data' });
    expect(base.calls).toEqual([]);
  });

  test('asks again after TRIM and WRITE_ZEROES', async () => {
    for (const type of [CMD.TRIM, CMD.WRITE_ZEROES]) {
      const handle = new FakeHandle('immediate');
      handle.extentsFound = [{ length: 1024 ** 3, isHole: false, isZero: false }];
      const rig = new Rig(handle);
      for (const fields of [{ length: 1024 * KiB }, { length: 1024 * KiB }, { type, length: 1 }]) {
        rig.execute(fields);
        await nextTurn();
      }
      rig.execute({ length: 1024 * KiB });
      await nextTurn();
      const operations = handle.calls.map(({ operation }) => operation);
      expect(operations.filter((operation) => operation === 'extents')).toHaveLength(2);
      expect(operations.filter((operation) => operation === 'read')).toHaveLength(3);
    }
  });

  test('that fails is answered with one error chunk that says what failed and where', async () => {
    const handle = new FakeHandle('controlled');
    handle.extentsFound = [{ length: 1024 ** 3, isHole: false, isZero: false }];
    const rig = new Rig(handle);
    rig.execute({ length: 1024 * KiB });
    handle.pending[0]?.resolve();
    await nextTurn();
    handle.pending[0]?.reject(new BackendError(5 as LinuxErrno, 'pread', 0, 1024 * KiB));
    expect(await rig.chunks()).toMatchObject([
      { kind: 'error', errno: 5, message: 'pread of 1048576 bytes at 0 failed with EIO' },
    ]);
    expect(rig.given).toEqual({ bytes: 1024 * KiB, requests: 1 });
    expect(rig.buffersInHand).toBe(0);
  });
});

describe('WRITE', () => {
  const data = pattern(1000);

  test('of a borrowed payload is copied before execute returns, because the buffer will be reused', async () => {
    const handle = new FakeHandle('controlled');
    const rig = new Rig(handle);
    rig.execute({ type: CMD.WRITE, offset: 9, length: data.length }, { data, isBorrowed: true });
    const [pending] = handle.pending;
    expect(pending).toMatchObject({ operation: 'write', offset: 9, length: data.length, isFua: false });
    expect(Buffer.from(pending?.data ?? []).equals(data)).toBe(true);
    expect(rig.buffersInHand).toBe(1);
    pending?.resolve();
    expect(await rig.chunks()).toEqual([DONE]);
    expect(rig.buffersInHand).toBe(0);
    expect(rig.given).toEqual({ bytes: data.length, requests: 1 });
  });

  test('of an owned payload is not copied, and its buffer comes back once', async () => {
    const handle = new FakeHandle('controlled');
    const rig = new Rig(handle);
    rig.execute({ type: CMD.WRITE, length: data.length }, { data, isBorrowed: false });
    expect(rig.buffersInHand).toBe(1);
    const [pending] = handle.pending;
    expect(Buffer.from(pending?.data ?? []).equals(data)).toBe(true);
    pending?.resolve();
    expect(await rig.chunks()).toEqual([DONE]);
    expect(rig.buffersInHand).toBe(0);
  });

  test.each([true, false])('at once gives the buffer back (borrowed: %s)', async (isBorrowed) => {
    const rig = new Rig(new FakeHandle('immediate'));
    rig.execute({ type: CMD.WRITE, length: data.length }, { data, isBorrowed });
    expect(await rig.chunks()).toEqual([DONE]);
    expect(rig.buffersInHand).toBe(0);
  });

  test('now sees the payload where it was received, and takes no buffer', async () => {
    const seen: Buffer[] = [];
    const rig = new Rig(
      handleWith({
        writeNow: (buffer, start, length) => {
          seen.push(Buffer.from(buffer.subarray(start, start + length)));
          return true;
        },
      }),
    );
    rig.execute({ type: CMD.WRITE, length: data.length }, { data, isBorrowed: true });
    expect(seen.map((bytes) => bytes.equals(data))).toEqual([true]);
    // The one buffer is the writer's own, on its way.
    expect(rig.buffersInHand).toBe(1);
    expect(await rig.chunks()).toEqual([DONE]);
    expect(rig.buffersInHand).toBe(0);
  });

  test('now may delay its reply', async () => {
    let resolve = (): void => {};
    const rig = new Rig(
      handleWith({
        writeNow: () =>
          new Promise<void>((settle) => {
            resolve = settle;
          }),
      }),
    );
    rig.execute({ type: CMD.WRITE, length: data.length }, { data, isBorrowed: true });
    await nextTurn();
    expect(rig.socket.writes).toHaveLength(0);
    resolve();
    expect(await rig.chunks()).toEqual([DONE]);
    expect(rig.given).toEqual({ bytes: data.length, requests: 1 });
  });

  test('now that could not be done is done later', async () => {
    const base = new FakeHandle('controlled');
    const rig = new Rig(handleWith({ writeNow: () => false, write: (...values) => base.write(...values) }));
    rig.execute({ type: CMD.WRITE, length: data.length }, { data, isBorrowed: true });
    expect(Buffer.from(base.pending[0]?.data ?? []).equals(data)).toBe(true);
    base.pending[0]?.resolve();
    expect(await rig.chunks()).toEqual([DONE]);
    expect(rig.buffersInHand).toBe(0);
  });

  test('with FUA is never done now', async () => {
    const base = new FakeHandle('immediate');
    const rig = new Rig(
      handleWith({
        writeNow: () => {
          throw new Error('It was tried');
        },
        write: (...values) => base.write(...values),
      }),
    );
    rig.execute({ type: CMD.WRITE, flags: FUA, length: data.length }, { data, isBorrowed: true });
    expect(base.calls).toMatchObject([{ operation: 'write', isFua: true }]);
    expect(await rig.chunks()).toEqual([DONE]);
  });

  test('of nothing succeeds without the handle, and with FUA flushes', async () => {
    const handle = new FakeHandle('immediate');
    const rig = new Rig(handle);
    rig.execute({ type: CMD.WRITE, length: 0 });
    expect(handle.calls).toEqual([]);
    rig.execute({ type: CMD.WRITE, flags: FUA, length: 0 });
    expect(handle.calls).toMatchObject([{ operation: 'flush' }]);
    await nextTurn();
    await nextTurn();
    expect(rig.given).toEqual({ bytes: 0, requests: 2 });
  });
});

describe('BLOCK_STATUS', () => {
  const found: readonly Extent[] = [
    { length: 10, isHole: false, isZero: false },
    { length: 20, isHole: true, isZero: true },
    { length: 30, isHole: false, isZero: true },
  ];

  test.each(['immediate', 'controlled'] as const)('reports every context (%s)', async (pace) => {
    const handle = new FakeHandle(pace);
    handle.extentsFound = found;
    const asked: string[] = [];
    const contextual: Handle = Object.assign(handle, {
      contextExtents: async (context: string) => {
        asked.push(context);
        return [{ length: 60, status: 7 }];
      },
    });
    const rig = new Rig(contextual, 'structured', [1, 2]);
    rig.execute({ type: CMD.BLOCK_STATUS, length: 60 });
    handle.pending[0]?.resolve();
    const extents = [
      [10, 0],
      [20, 3],
      [30, 2],
    ];
    expect(await rig.chunks()).toEqual([
      { kind: 'status', cookie: COOKIE, isDone: false, id: 1, extents },
      { kind: 'status', cookie: COOKIE, isDone: true, id: 2, extents: [[60, 7]] },
    ]);
    expect(asked).toEqual(['x-test:context']);
    // Charged by the longest reply there is, lest a client that never reads fills memory with extents.
    expect(rig.given).toEqual({ bytes: 32 * EXTENT_COUNT_MAX, requests: 1 });
  });

  test('in the extended form reports the contexts that were asked for, with 64-bit lengths', async () => {
    const handle = new FakeHandle('immediate');
    handle.extentsFound = [{ length: 2 ** 50, isHole: true, isZero: true }];
    const rig = new Rig(handle, 'extended', [1, 2, 3]);
    const range = { offset: 4096, offsetLow: 4096, length: 2 ** 40 };
    rig.execute({ type: CMD.BLOCK_STATUS, contextIds: [3], ...range });
    expect(await rig.chunks()).toMatchObject([
      { kind: 'status', id: 3, extents: [[2 ** 40, 3]], echoed: 4096n, isDone: true },
    ]);
  });

  test('takes a turn of the event loop only for so long, however many requests are ready together', async () => {
    const handle = new FakeHandle('controlled');
    handle.extentsFound = Array.from({ length: EXTENT_COUNT_MAX }, (_, index) => ({
      length: 4096,
      isHole: index % 2 === 0,
      isZero: index % 2 === 0,
    }));
    const rig = new Rig(handle);
    const count = 64;
    for (let index = 0; index < count; index += 1) {
      rig.execute({ type: CMD.BLOCK_STATUS, length: EXTENT_COUNT_MAX * 4096 });
    }
    while (handle.pending.length < count) {
      await nextTurn();
    }
    for (const pending of [...handle.pending]) pending.resolve();
    let turns = 0;
    for (; rig.given.requests < count; turns += 1) {
      await nextTurn();
    }
    // A fast machine encodes ten of them in a millisecond.
    expect(turns).toBeGreaterThan(3);
  });

  test('does not ask handles that search in the call one after the other in one turn', async () => {
    const asked: number[] = [];
    let turn = 0;
    const rig = new Rig(
      handleWith({
        extents: () => {
          asked.push(turn);
          for (const end = performance.now() + 2; performance.now() < end; );
          return [{ length: 4096, isHole: false, isZero: false }];
        },
      }),
    );
    for (let index = 0; index < 5; index += 1) {
      rig.execute({ type: CMD.BLOCK_STATUS, length: 4096 });
    }
    expect(asked).toHaveLength(1);
    for (; asked.length < 5; turn += 1) {
      await nextTurn();
    }
    // The second one may have had its turn just before this test had.
    expect(new Set(asked).size).toBeGreaterThanOrEqual(4);
  });

  test('cuts answers short that are too long', async () => {
    const handle = new FakeHandle('immediate');
    handle.extentsFound = Array.from({ length: EXTENT_COUNT_MAX + 10 }, (_, index) => ({
      length: 1,
      isHole: index % 2 === 0,
      isZero: true,
    }));
    const rig = new Rig(handle);
    rig.execute({ type: CMD.BLOCK_STATUS, length: EXTENT_COUNT_MAX + 10 });
    const [chunk] = await rig.chunks();
    expect(chunk).toMatchObject({ kind: 'status', isDone: true });
    expect(chunk?.kind === 'status' && chunk.extents.length).toBe(EXTENT_COUNT_MAX);
  });

  test('with REQ_ONE reports one extent', async () => {
    const handle = new FakeHandle('immediate');
    handle.extentsFound = found;
    const rig = new Rig(handle);
    rig.execute({ type: CMD.BLOCK_STATUS, flags: 8, length: 60 });
    expect(await rig.chunks()).toMatchObject([{ kind: 'status', extents: [[10, 0]] }]);
  });
});

function backendError(errno: number): BackendError {
  return new BackendError(errno as LinuxErrno, 'pwrite', 4096, 512);
}

describe('a failure', () => {
  const data = pattern(600);
  const EVERY_COMMAND: readonly [string, Partial<Request>][] = [
    ...COMMANDS.map(([name, fields]): [string, Partial<Request>] => [name, fields]),
    ['READ', { type: CMD.READ, length: 600 }],
    ['READ with a buffer of its own', { type: CMD.READ, flags: DF, length: 200 * KiB }],
    ['WRITE', { type: CMD.WRITE, length: 600 }],
    ['BLOCK_STATUS', { type: CMD.BLOCK_STATUS, length: 600 }],
  ];

  describe.each([true, false])('(payload borrowed: %s)', (isBorrowed) => {
    test.each(EVERY_COMMAND)('of %s by a rejection is answered once', async (_, fields) => {
      const handle = new FakeHandle('controlled');
      const rig = new Rig(handle);
      rig.execute(fields, { data: fields.type === CMD.WRITE ? data : new Uint8Array(0), isBorrowed });
      handle.pending[0]?.reject(backendError(5));
      expect(await rig.chunks()).toMatchObject([{ kind: 'error', errno: 5, cookie: COOKIE, isDone: true }]);
      expect(rig.given.requests).toBe(1);
      const charged = _ === 'BLOCK_STATUS' ? 32 * EXTENT_COUNT_MAX : (fields.length ?? 0);
      expect(rig.given.bytes).toBe(/READ|WRITE$|BLOCK_STATUS/.test(_) ? charged : 0);
      expect(rig.buffersInHand).toBe(fields.type === CMD.WRITE || isBorrowed ? 0 : 1);
    });

    test.each(EVERY_COMMAND)('of %s by an exception is answered once', async (_, fields) => {
      const fail = (): never => {
        throw backendError(28);
      };
      const rig = new Rig({
        read: fail,
        write: fail,
        flush: fail,
        trim: fail,
        zero: fail,
        cache: fail,
        extents: fail,
        close: fail,
      });
      rig.execute(fields, { data: fields.type === CMD.WRITE ? data : new Uint8Array(0), isBorrowed });
      expect(await rig.chunks()).toMatchObject([{ kind: 'error', errno: 28, cookie: COOKIE, isDone: true }]);
      expect(rig.socket.writes).toHaveLength(1);
      expect(rig.given.requests).toBe(1);
      expect(rig.buffersInHand).toBe(fields.type === CMD.WRITE || isBorrowed ? 0 : 1);
    });
  });

  test('of a write now is answered once', async () => {
    const rig = new Rig(
      handleWith({
        writeNow: () => {
          throw backendError(122);
        },
      }),
    );
    rig.execute({ type: CMD.WRITE, length: data.length }, { data, isBorrowed: true });
    expect(await rig.chunks()).toMatchObject([{ kind: 'error', errno: 28 }]);
    expect(rig.given).toEqual({ bytes: data.length, requests: 1 });
    expect(rig.buffersInHand).toBe(0);
  });

  test.each([
    ['EPERM', 1, 0, 1],
    ['EACCES', 13, 0, 1],
    ['EROFS', 30, 0, 1],
    ['EIO', 5, 0, 5],
    ['ENXIO', 6, 0, 5],
    ['EBADF', 9, 0, 5],
    ['EINVAL', 22, 0, 5],
    ['ENOMEM', 12, 0, 12],
    ['ENOSPC', 28, 0, 28],
    ['EDQUOT', 122, 0, 28],
    ['EFBIG', 27, 0, 28],
    ['EOVERFLOW', 75, 0, 22],
    ['EOVERFLOW with DF', 75, DF, 75],
    ['EOPNOTSUPP', 95, 0, 22],
    ['EOPNOTSUPP with FAST_ZERO', 95, FAST_ZERO, 95],
    ['ESHUTDOWN', 108, 0, 108],
  ])('with %s becomes the value of the wire', async (_, errno, flags, wire) => {
    const fail = (): never => {
      throw backendError(errno);
    };
    const rig = new Rig(handleWith({ zero: fail, read: fail }), 'simple');
    rig.execute({ type: flags === DF ? CMD.READ : CMD.WRITE_ZEROES, flags, length: 1 });
    expect(await rig.simpleReply()).toMatchObject({ errno: wire, cookie: COOKIE });
    expect(rig.log.at('error')).toHaveLength(1);
  });

  test('is logged with its range, its Linux errno and what was attempted', async () => {
    const handle = new FakeHandle('controlled');
    const rig = new Rig(handle);
    rig.execute({ type: CMD.FLUSH });
    handle.pending[0]?.reject(backendError(28));
    await nextTurn();
    expect(rig.log.at('error')[0]?.fields).toMatchObject({
      operation: 'pwrite',
      offset: 4096,
      length: 512,
      errno: 'ENOSPC',
    });
  });

  test('that is no BackendError counts as EIO, and its cause is logged', async () => {
    const handle = new FakeHandle('controlled');
    const rig = new Rig(handle);
    const bug = new TypeError('undefined is not a function');
    rig.execute({ type: CMD.TRIM, offset: 7, length: 9 });
    handle.pending[0]?.reject(bug);
    expect(await rig.chunks()).toMatchObject([{ kind: 'error', errno: 5 }]);
    expect(rig.log.at('error')[0]?.fields).toMatchObject({ offset: 7, length: 9, errno: 'EIO', err: bug });
  });

  test('of a fast zero to be fast is no event for the log', async () => {
    const rig = new Rig(
      handleWith({
        zero: () => {
          throw new BackendError(95 as LinuxErrno, 'fast zero', 0, 1);
        },
      }),
    );
    rig.execute({ type: CMD.WRITE_ZEROES, flags: FAST_ZERO, length: 1 });
    expect(await rig.chunks()).toMatchObject([{ kind: 'error', errno: 95 }]);
    expect(rig.log.lines).toEqual([]);
  });
});

test('a refusal is answered without the handle and gives back one request without bytes', async () => {
  const handle = new FakeHandle('immediate');
  const rig = new Rig(handle);
  const request = {
    ...emptyRequest(),
    type: 1,
    cookieHigh: 0x1234_5678,
    cookieLow: 0x9abc_def0,
    length: 512,
  };
  rig.dispatch.refuse(request, { errno: 1, message: 'The export is read-only' });
  expect(await rig.chunks()).toMatchObject([
    { kind: 'error', errno: 1, cookie: COOKIE, message: 'The export is read-only: WRITE of 512 bytes at 0' },
  ]);
  expect(rig.given).toEqual({ bytes: 0, requests: 1 });
  expect(handle.calls).toEqual([]);
});

test('a refusal echoes an offset that no number holds', async () => {
  const rig = new Rig(new FakeHandle('immediate'), 'extended');
  const words = { offset: Number.POSITIVE_INFINITY, offsetHigh: 0xffff_ffff, offsetLow: 0xffff_fffe };
  rig.dispatch.refuse({ ...emptyRequest(), ...words, length: 1 }, { errno: 22, message: 'Past the end' });
  expect(await rig.chunks()).toMatchObject([
    {
      kind: 'error',
      echoed: 2n ** 64n - 2n,
      message: 'Past the end: READ of 1 bytes at 18446744073709551614',
    },
  ]);
});

test.each([CMD.READ, CMD.WRITE])('data in flight is charged (command %d)', (type) => {
  expect(inflightBytes({ ...emptyRequest(), type, length: 100 })).toBe(100);
});

test.each([CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE])('a length without data is not (command %d)', (type) => {
  expect(inflightBytes({ ...emptyRequest(), type, length: 100 })).toBe(0);
});

test('requests, bytes, latencies and errors are counted when they are answered', async () => {
  const handle = new FakeHandle('controlled');
  const rig = new Rig(handle);
  rig.execute({ type: CMD.READ, offset: 0, length: 4096 });
  rig.execute({ type: CMD.WRITE, length: 8192 }, { data: new Uint8Array(8192), isBorrowed: true });
  rig.execute({ type: CMD.FLUSH });
  const counts = (): CounterTotals => sumCounters([rig.counters.memory]);
  expect(counts().commands.read).toMatchObject({ requests: 0, bytes: 0 });
  const [read, write, flush] = [...handle.pending];
  read?.resolve();
  write?.reject(new BackendError(28 as LinuxErrno, 'pwritev2', 0, 8192));
  flush?.resolve();
  await nextTurn();
  const { commands, errors } = counts();
  expect(commands.read).toMatchObject({ requests: 1, bytes: 4096 });
  expect(commands.write).toMatchObject({ requests: 1, bytes: 0 });
  expect(commands.flush).toMatchObject({ requests: 1, bytes: 0 });
  for (const { seconds } of [commands.read, commands.write, commands.flush]) {
    expect(seconds).toBeGreaterThan(0);
  }
  expect(errors).toMatchObject({ ENOSPC: 1, EIO: 0 });
  expect(rig.tally.closed()).toMatchObject({ requests: 3, readBytes: 4096, writtenBytes: 0, errors: 1 });
  expect(counts()).toMatchObject({ connectionsOpened: 1, connectionsClosed: 1 });
});

test('a client that has many requests refused fills no log, and all of them are counted', () => {
  const rig = new Rig(new FakeHandle('immediate'), 'simple');
  for (let index = 0; index < 100; index += 1) {
    rig.dispatch.refuse(
      { ...emptyRequest(), type: CMD.WRITE, length: 512 },
      { errno: 1, message: 'The export is read-only' },
    );
  }
  const messages = rig.log.at('warn').map(({ message }) => message);
  expect(messages).toHaveLength(16);
  expect(messages[0]).toBe('A request was refused: The export is read-only: WRITE of 512 bytes at 0');
  expect(messages.at(-1)).toContain('counted only');
  expect(sumCounters([rig.counters.memory])).toMatchObject({
    commands: { write: { requests: 100, bytes: 0 } },
    errors: { EPERM: 100 },
  });
});
