/** Long READs, sent in chunks as far as they are in memory: bytes, borders, errors in the middle, and the budget. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { BackendError } from '../../src/plugins/backend-error.ts';
import type { Handle } from '../../src/plugins/plugin.ts';
import type { LinuxErrno } from '../../src/protocol/errno.ts';
import type { ReplyForm } from '../../src/protocol/reply.ts';
import { emptyRequest } from '../../src/protocol/request.ts';
import type { Session } from '../../src/protocol/session.ts';
import { ConnectionTally } from '../../src/server/connection-tally.ts';
import { Counters } from '../../src/server/counters.ts';
import { Dispatch } from '../../src/server/dispatch.ts';
import { ReplyWriter } from '../../src/server/reply-writer.ts';
import { Cursor } from '../protocol/bytes.ts';
import { type Chunk, decodeChunk } from '../protocol/naive-client.ts';
import { CountingPool } from './counting-pool.ts';
import { FakeLog } from './fake-log.ts';
import { FakeHandle, INFO, type PendingCall } from './fake-plugin.ts';
import { FakeSocket } from './fake-socket.ts';

const KiB = 1024;
const LENGTH = 300 * KiB;
const OFFSET = 1000;
const DF = 4;
const EIO = 5 as LinuxErrno;

function pattern(offset: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (offset + index) % 251);
}

/** A handle with everything before `residentEnd` in memory; the test reads the rest. */
class Rig {
  readonly tally = new ConnectionTally(new Counters(false));
  readonly socket = new FakeSocket(true);
  readonly pool = new CountingPool();
  readonly base = new FakeHandle('controlled');
  /** Offsets that were tried now. */
  readonly tried: number[] = [];
  readonly given = { bytes: 0, requests: 0 };
  readonly #writer: ReplyWriter;
  readonly #dispatch: Dispatch;

  constructor(residentEnd: number, form: ReplyForm = 'structured') {
    const handle: Handle = {
      readNow: (buffer, start, length, offset) => {
        this.tried.push(offset);
        buffer.set(pattern(offset, length), start);
        return offset + length <= residentEnd;
      },
      read: (...values) => this.base.read(...values),
      write: () => {},
      flush: () => {},
      trim: () => {},
      zero: () => {},
      cache: () => {},
      extents: () => [{ length: INFO.size, isHole: false, isZero: false }],
      close: () => {},
    };
    this.#writer = new ReplyWriter(this.socket, this.pool, (bytes, requests) => {
      this.given.bytes += bytes;
      this.given.requests += requests;
    });
    const negotiated = { info: { ...INFO, name: '', description: '' }, replyForm: form, metaContexts: [] };
    this.#dispatch = new Dispatch(handle, negotiated, this.#writer, this.pool, new FakeLog(), this.tally);
  }

  /** A rig that knows already that there are no holes, and asks no more. */
  static async create(residentEnd: number): Promise<Rig> {
    const rig = new Rig(residentEnd);
    rig.read(0, 64 * KiB + 64 * KiB + 1);
    await nextTurn();
    for (const call of [...rig.base.pending]) call.resolve();
    await rig.chunks();
    rig.socket.writes.length = 0;
    rig.tried.length = 0;
    Object.assign(rig.given, { bytes: 0, requests: 0 });
    return rig;
  }

  get buffersInHand(): number {
    return this.pool.outCount - (this.#writer.buffer.length > 0 ? 1 : 0);
  }

  read(offset: number, length: number, flags = 0): void {
    const request = { ...emptyRequest(), cookieLow: 7, offset, length, flags };
    this.#dispatch.execute({ request } as unknown as Session);
    Object.assign(request, { cookieLow: 99, offset: 3, length: 4 });
  }

  async chunks(): Promise<Chunk[]> {
    for (let turn = 0; turn < 4; turn += 1) await nextTurn();
    const cursor = new Cursor(this.socket.bytes);
    const chunks: Chunk[] = [];
    while (cursor.rest > 0) chunks.push(decodeChunk(cursor));
    expect(chunks.every(({ cookie }) => cookie === 7n)).toBe(true);
    return chunks;
  }
}

function assemble(chunks: readonly Chunk[]): Buffer {
  const bytes = Buffer.alloc(LENGTH);
  let total = 0;
  for (const chunk of chunks) {
    if (chunk.kind !== 'data') throw new Error(`A chunk of the kind ${chunk.kind}`);
    bytes.set(chunk.data, Number(chunk.offset) - OFFSET);
    total += chunk.data.length;
  }
  expect(total).toBe(LENGTH);
  return bytes;
}

function onlyPending({ base }: Rig): PendingCall {
  const [call] = base.pending;
  if (call === undefined || base.pending.length > 1) throw new Error(`${base.pending.length} reads`);
  return call;
}

test('what is in memory goes in chunks with borders between sectors, DONE on the last', async () => {
  const rig = await Rig.create(INFO.size);
  rig.read(OFFSET, LENGTH);
  const chunks = await rig.chunks();
  expect(chunks.map(({ isDone }) => isDone)).toEqual([false, false, true]);
  expect(rig.tried[0]).toBe(OFFSET);
  expect(rig.tried.slice(1).every((offset) => offset % 512 === 0)).toBe(true);
  expect(assemble(chunks).equals(pattern(OFFSET, LENGTH))).toBe(true);
  expect(rig.given).toEqual({ bytes: LENGTH, requests: 1 });
  expect(rig.buffersInHand).toBe(0);
});

test('a socket that takes much at a time gets one chunk, in turns that the handle can do', async () => {
  const rig = await Rig.create(INFO.size);
  rig.socket.writeBytesMax = 1024 * KiB;
  rig.read(OFFSET, LENGTH);
  const chunks = await rig.chunks();
  expect(chunks.map(({ isDone }) => isDone)).toEqual([true]);
  expect(rig.tried[0]).toBe(OFFSET);
  expect(rig.tried.slice(1).every((offset) => offset % 512 === 0)).toBe(true);
  expect(rig.tried).toHaveLength(3);
  expect(assemble(chunks).equals(pattern(OFFSET, LENGTH))).toBe(true);
  expect(rig.given).toEqual({ bytes: LENGTH, requests: 1 });
  expect(rig.buffersInHand).toBe(0);
});

test('its chunk ends where memory ends, and the rest is read', async () => {
  const rig = await Rig.create(200 * KiB);
  rig.socket.writeBytesMax = 1024 * KiB;
  rig.read(OFFSET, LENGTH);
  const call = onlyPending(rig);
  expect(call.offset).toBe(rig.tried[1]);
  expect(call.offset % 512).toBe(0);
  call.target?.set(pattern(call.offset, call.length));
  call.resolve();
  const chunks = await rig.chunks();
  expect(chunks.map(({ isDone }) => isDone)).toEqual([false, true]);
  expect(assemble(chunks).equals(pattern(OFFSET, LENGTH))).toBe(true);
  expect(rig.buffersInHand).toBe(0);
});

test('the rest is read in one piece from where memory ends', async () => {
  const rig = await Rig.create(200 * KiB);
  rig.read(OFFSET, LENGTH);
  const call = onlyPending(rig);
  expect(call.offset).toBe(rig.tried[1]);
  expect(call.offset + call.length).toBe(OFFSET + LENGTH);
  expect(rig.given.requests).toBe(0);
  call.target?.set(pattern(call.offset, call.length));
  call.resolve();
  const chunks = await rig.chunks();
  expect(chunks.map(({ isDone }) => isDone)).toEqual([false, true]);
  expect(assemble(chunks).equals(pattern(OFFSET, LENGTH))).toBe(true);
  expect(rig.given).toEqual({ bytes: LENGTH, requests: 1 });
  expect(rig.buffersInHand).toBe(0);
});

test('an error behind the first chunks ends the reply, and the budget comes back once', async () => {
  const rig = await Rig.create(200 * KiB);
  rig.read(OFFSET, LENGTH);
  onlyPending(rig).reject(new BackendError(EIO, 'pread', OFFSET, LENGTH));
  const chunks = await rig.chunks();
  expect(chunks).toMatchObject([
    { kind: 'data', isDone: false },
    { kind: 'error', isDone: true, errno: EIO },
  ]);
  expect(rig.given).toEqual({ bytes: LENGTH, requests: 1 });
  expect(rig.buffersInHand).toBe(0);
});

test('replies of others may come between the chunks', async () => {
  const rig = await Rig.create(200 * KiB);
  rig.read(OFFSET, LENGTH);
  rig.read(0, 16);
  const call = onlyPending(rig);
  call.target?.set(pattern(call.offset, call.length));
  call.resolve();
  const chunks = await rig.chunks();
  const short = chunks.filter((chunk) => chunk.kind === 'data' && chunk.data.length === 16);
  expect(short).toMatchObject([{ isDone: true, offset: 0n }]);
  expect(assemble(chunks.filter((chunk) => !short.includes(chunk))).equals(pattern(OFFSET, LENGTH))).toBe(
    true,
  );
});

test('a client that takes less than it is sent leaves reading to the pool', async () => {
  const rig = await Rig.create(INFO.size);
  rig.socket.needsDrain = true;
  rig.read(OFFSET, LENGTH);
  expect(rig.tried).toEqual([]);
  expect(onlyPending(rig)).toMatchObject({ offset: OFFSET, length: LENGTH });
});

test('with DF, and in a simple reply, it stays in one piece', async () => {
  const rig = await Rig.create(INFO.size);
  rig.read(OFFSET, LENGTH, DF);
  expect(onlyPending(rig)).toMatchObject({ offset: OFFSET, length: LENGTH });
  const simple = new Rig(INFO.size, 'simple');
  simple.read(OFFSET, LENGTH);
  expect(onlyPending(simple)).toMatchObject({ offset: OFFSET, length: LENGTH });
  expect([...rig.tried, ...simple.tried]).toEqual([]);
});
