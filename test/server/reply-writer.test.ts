/** Replies on their way: which leave at once, which gather, and that budget and buffers come back once. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { ReplyWriter } from '../../src/server/reply-writer.ts';
import { CountingPool } from './counting-pool.ts';
import { FakeSocket } from './fake-socket.ts';

const KiB = 1024;

interface Rig {
  readonly socket: FakeSocket;
  readonly pool: CountingPool;
  readonly writer: ReplyWriter;
  /** What the budget got back so far. */
  readonly given: { bytes: number; requests: number };
}

function rig(): Rig {
  const socket = new FakeSocket();
  const pool = new CountingPool();
  const given = { bytes: 0, requests: 0 };
  const writer = new ReplyWriter(socket.asSink, pool, (bytes, requests) => {
    given.bytes += bytes;
    given.requests += requests;
  });
  return { socket, pool, writer, given };
}

/** A reply of `length` bytes of `value`, put where the writer says. */
function reply(writer: ReplyWriter, value: number, length: number, requestBytes: number): void {
  writer.reserve(length);
  writer.buffer.fill(value, writer.position, writer.position + length);
  writer.commit(writer.position + length, requestBytes);
}

function lengths({ writes }: FakeSocket): number[] {
  return writes.map(({ bytes }) => bytes.length);
}

describe('a batch', () => {
  test('sends its first reply at once and the others together when it ends', async () => {
    const { socket, writer } = rig();
    reply(writer, 1, 16, 0);
    expect(lengths(socket)).toEqual([16]);
    reply(writer, 2, 16, 0);
    reply(writer, 3, 20, 0);
    expect(lengths(socket)).toEqual([16]);
    await nextTurn();
    expect(lengths(socket)).toEqual([16, 36]);
    expect(socket.bytes).toEqual(
      Buffer.concat([Buffer.alloc(16, 1), Buffer.alloc(16, 2), Buffer.alloc(20, 3)]),
    );
  });

  test('ends with the turn of the event loop: the next reply leaves at once again', async () => {
    const { socket, writer } = rig();
    reply(writer, 1, 16, 0);
    await nextTurn();
    reply(writer, 2, 16, 0);
    expect(lengths(socket)).toEqual([16, 16]);
    await nextTurn();
    expect(lengths(socket)).toEqual([16, 16]);
  });

  test('sends before it ends when much has gathered', () => {
    const { socket, writer } = rig();
    reply(writer, 1, 16, 0);
    for (let count = 0; count < 4; count += 1) reply(writer, 2, 32 * KiB, 0);
    expect(lengths(socket)).toEqual([16, 128 * KiB]);
  });

  test('sends what has gathered when a reply does not fit behind it', () => {
    const { socket, writer } = rig();
    reply(writer, 1, 16, 0);
    reply(writer, 2, 100, 0);
    reply(writer, 3, 128 * KiB + 28, 0);
    expect(lengths(socket)).toEqual([16, 100, 128 * KiB + 28]);
  });
});

describe('where a socket takes much at a time', () => {
  test('replies gather up to that', async () => {
    const { socket, writer } = rig();
    socket.writeBytesMax = 1024 * KiB;
    reply(writer, 1, 16, 0);
    for (let count = 0; count < 16; count += 1) reply(writer, 2, 64 * KiB, 0);
    reply(writer, 3, 64 * KiB, 0);
    expect(lengths(socket)).toEqual([16, 1024 * KiB]);
    await nextTurn();
    expect(lengths(socket)).toEqual([16, 1024 * KiB, 64 * KiB]);
  });

  test('small replies hold no more than a small buffer, and a smaller one while earlier ones wait', () => {
    const { socket, pool, writer } = rig();
    socket.writeBytesMax = 1024 * KiB;
    const before = pool.outBytes;
    reply(writer, 1, 16, 0);
    expect(pool.outBytes - before).toBeLessThanOrEqual(5 * KiB);
    reply(writer, 1, 16, 0);
    expect(pool.outBytes - before).toBeLessThanOrEqual(5 * KiB + 129 * KiB);
    writer.endBatch();
    socket.needsDrain = true;
    const waiting = pool.outBytes;
    reply(writer, 1, 16, 0);
    reply(writer, 1, 16, 0);
    writer.endBatch();
    expect(pool.outBytes - waiting).toBeLessThanOrEqual(5 * KiB + 17 * KiB);
  });

  test('what has gathered moves with them to a larger buffer, and the smaller one goes back', () => {
    const { socket, pool, writer, given } = rig();
    socket.writeBytesMax = 1024 * KiB;
    reply(writer, 0, 16, 0);
    const before = pool.outCount;
    reply(writer, 1, 100 * KiB, 5);
    reply(writer, 2, 100 * KiB, 6);
    expect(pool.outCount).toBe(before + 1);
    writer.endBatch();
    expect(lengths(socket)).toEqual([16, 200 * KiB]);
    expect(
      socket.bytes
        .subarray(16)
        .equals(Buffer.concat([Buffer.alloc(100 * KiB, 1), Buffer.alloc(100 * KiB, 2)])),
    ).toBe(true);
    socket.writes[1]?.done();
    expect(given).toEqual({ bytes: 11, requests: 2 });
    expect(pool.outCount).toBe(before);
  });

  test('a reply in a buffer of its own does not overtake its first chunks among the gathered ones', () => {
    const { socket, pool, writer } = rig();
    socket.writeBytesMax = 1024 * KiB;
    reply(writer, 0, 16, 0);
    writer.reserve(100);
    writer.buffer.fill(1, 0, 100);
    writer.commitPart(100);
    const buffer = pool.acquire(200 * KiB);
    writer.writePooled(buffer, 200 * KiB, 0);
    expect(lengths(socket)).toEqual([16, 100, 200 * KiB]);
  });
});

test('a buffer that is too small for what comes next goes back to the pool', () => {
  const { pool, writer } = rig();
  const before = pool.outCount;
  writer.reserve(16);
  writer.reserve(64 * KiB);
  expect(pool.outCount).toBe(before + 1);
});

describe('a reply with its own bytes', () => {
  test('gathers with the others when it is small', async () => {
    const { socket, writer, given } = rig();
    writer.write(Buffer.alloc(16, 1), 5);
    writer.write(Buffer.alloc(16, 2), 6);
    writer.write(Buffer.alloc(16, 3), 7);
    await nextTurn();
    expect(lengths(socket)).toEqual([16, 32]);
    socket.writes[1]?.done();
    expect(given).toEqual({ bytes: 13, requests: 2 });
  });

  test('leaves as it is when it is large', () => {
    const { socket, writer, given } = rig();
    const bytes = Buffer.alloc(128 * KiB + 1, 7);
    writer.write(bytes, 9);
    expect(socket.writes[0]?.live).toBe(bytes);
    socket.writes[0]?.done();
    expect(given).toEqual({ bytes: 9, requests: 1 });
  });

  test('in a buffer of the pool gives the buffer back when the socket has taken it', () => {
    const { socket, pool, writer } = rig();
    const before = pool.outCount;
    const buffer = pool.acquire(256 * KiB);
    writer.writePooled(buffer, 200 * KiB, 0);
    expect(lengths(socket)).toEqual([200 * KiB]);
    expect(pool.outCount).toBe(before + 1);
    socket.writes[0]?.done();
    expect(pool.outCount).toBe(before);
  });
});

test('the budget comes back when the socket has taken the reply, not before, and once', async () => {
  const { socket, writer, given } = rig();
  reply(writer, 1, 16, 100);
  reply(writer, 2, 16, 10);
  reply(writer, 3, 16, 1);
  await nextTurn();
  expect(given).toEqual({ bytes: 0, requests: 0 });
  socket.writes[0]?.done();
  expect(given).toEqual({ bytes: 100, requests: 1 });
  socket.writes[1]?.done();
  expect(given).toEqual({ bytes: 111, requests: 3 });
});

test('bytes that the socket has not taken yet never change', async () => {
  const { socket, writer } = rig();
  const taken = new Set<number>();
  for (let round = 0; round < 20; round += 1) {
    reply(writer, round, 50 * KiB, 0);
    reply(writer, round + 100, 3, 0);
    if (round % 3 === 0) await nextTurn();
    if (round % 4 === 1 && socket.writes.length > taken.size) {
      socket.writes[taken.size]?.done();
      taken.add(taken.size);
    }
    const waiting = socket.writes.filter((_, index) => !taken.has(index));
    expect(waiting.every(({ live, bytes }) => bytes.equals(live))).toBe(true);
  }
  await nextTurn();
  expect(socket.bytes).toHaveLength(20 * (50 * KiB + 3));
});

describe('close', () => {
  test('drops what has gathered and gives its budget back', () => {
    const { socket, writer, given } = rig();
    reply(writer, 1, 16, 100);
    reply(writer, 2, 16, 10);
    writer.close();
    expect(lengths(socket)).toEqual([16]);
    expect(given).toEqual({ bytes: 10, requests: 1 });
  });

  test('later replies vanish, and their budget comes back', async () => {
    const { socket, writer, given } = rig();
    writer.close();
    reply(writer, 1, 16, 1);
    writer.write(Buffer.alloc(16), 2);
    writer.write(Buffer.alloc(200 * KiB), 4);
    await nextTurn();
    expect(lengths(socket)).toEqual([]);
    expect(given).toEqual({ bytes: 7, requests: 3 });
  });

  // The socket's close event can come between a reply and the end of its batch: for example when the close of
  // another connection has made room in the budget, and both closed in the same turn of the event loop.
  test('in the middle of a batch: the budget of later replies comes back all the same', async () => {
    const { writer, given } = rig();
    reply(writer, 1, 16, 1);
    reply(writer, 2, 16, 2);
    writer.close();
    reply(writer, 3, 16, 4);
    await nextTurn();
    await nextTurn();
    // The first one is with the socket, which has not said anything.
    expect(given).toEqual({ bytes: 6, requests: 2 });
  });

  test('gives every buffer back to the pool', async () => {
    const { socket, pool, writer } = rig();
    reply(writer, 1, 16, 0);
    reply(writer, 2, 16, 0);
    writer.writePooled(pool.acquire(200 * KiB), 200 * KiB, 0);
    writer.close();
    writer.writePooled(pool.acquire(200 * KiB), 200 * KiB, 0);
    reply(writer, 3, 16, 0);
    await nextTurn();
    for (const { done } of socket.writes) done();
    expect(pool.outCount).toBe(0);
  });
});
