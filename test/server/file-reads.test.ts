/** Long READs sent from the page cache: real sockets and a real file, and pages that leave it at the worst moment. */
import { closeSync, ftruncateSync, openSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { expect, test } from 'vitest';
import { type Listener, native } from '../../src/native/binding.ts';
import { RWF_NOWAIT } from '../../src/native/constants.ts';
import { BackendError } from '../../src/plugins/backend-error.ts';
import type { Handle } from '../../src/plugins/plugin.ts';
import type { LinuxErrno } from '../../src/protocol/errno.ts';
import { dataHeaderBytes, type ReplyForm } from '../../src/protocol/reply.ts';
import { emptyRequest } from '../../src/protocol/request.ts';
import type { Session } from '../../src/protocol/session.ts';
import { ClientSocket } from '../../src/server/client-socket.ts';
import { ConnectionTally } from '../../src/server/connection-tally.ts';
import { Counters } from '../../src/server/counters.ts';
import { Dispatch } from '../../src/server/dispatch.ts';
import { ReplyWriter } from '../../src/server/reply-writer.ts';
import { decodeReplyChunks } from '../protocol/naive-client.ts';
import { eventually } from '../support/polling.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { Client } from './client.ts';
import { CountingPool } from './counting-pool.ts';
import { FakeLog } from './fake-log.ts';
import { INFO } from './fake-plugin.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const EIO = 5 as LinuxErrno;
const SIZE = 8 * MiB;
const CONTENT = Buffer.from(Uint32Array.from({ length: SIZE / 4 }, (_, index) => index * 2654435761).buffer);
const FORMS: readonly ReplyForm[] = ['simple', 'structured', 'extended'];

/** A server's end of a socket with a dispatch on it, and a client that reads when it is told to. */
class Rig implements AsyncDisposable {
  readonly given = { bytes: 0, requests: 0 };
  readonly pool = new CountingPool();
  /** What the page cache is said to hold. */
  isResident = true;
  /** Reads in the ordinary way from here on fail. */
  failingFrom = Number.POSITIVE_INFINITY;
  readonly reads: [offset: number, length: number][] = [];
  sendableFd: number;
  /** How often it was asked what is resident. */
  asked = 0;
  isClosed = false;
  readonly fd: number;
  readonly client: Client;
  readonly #dispatch: Dispatch;
  readonly #socket: ClientSocket;
  readonly #cleanup: () => Promise<void>;

  private constructor(
    serverFd: number,
    client: Client,
    fd: number,
    form: ReplyForm,
    cleanup: () => Promise<void>,
  ) {
    this.client = client;
    this.fd = fd;
    this.sendableFd = fd;
    this.#cleanup = cleanup;
    this.#socket = new ClientSocket(serverFd, {
      received: () => true,
      ended: () => {},
      failed: () => {},
      closed: () => {
        this.isClosed = true;
      },
    });
    const socket = this.#socket;
    const sink = {
      get needsDrain() {
        return socket.needsDrain;
      },
      writeBytesMax: 128 * 1024,
      sendsFile: (length: number) => length >= 32 * 1024,
      write: socket.write.bind(socket),
      writeFile: socket.writeFile.bind(socket),
      sendsMemory: () => false,
      writeMemory: socket.writeMemory.bind(socket),
    };
    const writer = new ReplyWriter(sink, this.pool, (bytes, requests) => {
      this.given.bytes += bytes;
      this.given.requests += requests;
    });
    const handle: Handle = {
      residentFile: () => {
        this.asked += 1;
        return this.isResident ? this.sendableFd : undefined;
      },
      readNow: (buffer, start, length, offset) =>
        this.isResident && native.preadv2(fd, buffer, start, length, offset, RWF_NOWAIT) === length,
      read: async (buffer, start, length, offset) => {
        this.reads.push([offset, length]);
        if (offset >= this.failingFrom) throw new BackendError(EIO, 'pread', offset, length);
        expect(native.preadv2(fd, buffer, start, length, offset, 0)).toBe(length);
      },
      write: () => {},
      flush: () => {},
      trim: () => {},
      zero: () => {},
      cache: () => {},
      extents: () => [{ length: SIZE, isHole: false, isZero: false }],
      close: () => {},
    };
    const negotiated = { info: { ...INFO, name: '', description: '' }, replyForm: form, metaContexts: [] };
    const tally = new ConnectionTally(new Counters(false));
    this.#dispatch = new Dispatch(handle, negotiated, writer, this.pool, new FakeLog(), tally);
  }

  static async create(form: ReplyForm): Promise<Rig> {
    const directory = await temporaryDirectory();
    const path = directory.file('image');
    writeFileSync(path, CONTENT);
    const fd = openSync(path, 'r+');
    const listening = native.listen_unix(directory.file('socket'), 0o600, 1);
    let listener: Listener | undefined;
    const accepted = new Promise<number>((resolve) => {
      listener = new native.Listener(listening, resolve);
    });
    const socket = connect({ path: directory.file('socket'), allowHalfOpen: true });
    const client = new Client(socket);
    socket.pause();
    const rig = new Rig(await accepted, client, fd, form, async () => {
      listener?.close();
      closeSync(fd);
      await directory[Symbol.asyncDispose]();
    });
    if (form !== 'simple') {
      // So that no later READ is asked about for holes.
      rig.read(0, 64 * KiB + 64 * KiB + 1);
      await rig.take(form, 64 * KiB + 64 * KiB + 1);
      rig.reads.length = 0;
      Object.assign(rig.given, { bytes: 0, requests: 0 });
    }
    return rig;
  }

  read(offset: number, length: number): void {
    const request = { ...emptyRequest(), cookieLow: 7, offset, length };
    this.#dispatch.execute({ request } as unknown as Session);
    Object.assign(request, { cookieLow: 99, offset: 3, length: 4 });
  }

  /** Has the kernel take no more, as far as the client does not read: READs of 256 KiB from 0 on, and their number. */
  stuff(): number {
    let count = 0;
    do {
      this.read(0, 256 * KiB);
      count += 1;
    } while (this.given.requests === count);
    return count;
  }

  async takeStuffing(form: ReplyForm, count: number): Promise<void> {
    for (let index = 0; index < count; index += 1) expectContent(await this.take(form, 256 * KiB), 0);
  }

  /** The data of a reply that is right. */
  async take(form: ReplyForm, length: number): Promise<Uint8Array> {
    this.client.socket.resume();
    if (form === 'simple') {
      const { errno, cookie } = await this.client.takeSimpleReply();
      expect({ errno, cookie }).toEqual({ errno: 0, cookie: 7n });
      return this.client.take(length);
    }
    const header = await this.client.take(dataHeaderBytes(form) + length);
    const isDone = (new DataView(header.buffer).getUint16(4) & 1) === 1;
    const rest = isDone ? new Uint8Array(0) : await this.client.take(dataHeaderBytes(form) - 8);
    const [data, ...others] = decodeReplyChunks(Buffer.concat([header, rest]));
    expect(others.every(({ kind }) => kind === 'none')).toBe(true);
    expect(data).toMatchObject({ kind: 'data', cookie: 7n });
    return data?.kind === 'data' ? data.data : new Uint8Array(0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.socket.destroy();
    this.#socket.destroy();
    await eventually('the socket is closed', () => (this.isClosed ? true : undefined));
    // Nothing of a buffer may be kept, whatever happened.
    expect(this.pool.outCount).toBe(0);
    await this.#cleanup();
  }
}

function expectContent(data: Uint8Array, offset: number): void {
  expect(Buffer.compare(data, CONTENT.subarray(offset, offset + data.length))).toBe(0);
}

test.each(FORMS)('%s replies bring the bytes of the file, and give the budget back once', async (form) => {
  await using rig = await Rig.create(form);
  const lengths = [32 * KiB, 64 * KiB + 1, 128 * KiB, 256 * KiB, 256 * KiB + 1, MiB, 3 * MiB + 5];
  for (const [index, length] of lengths.entries()) {
    rig.read(index * 1000, length);
    expectContent(await rig.take(form, length), index * 1000);
    await eventually('the budget is given back', () => (rig.given.requests === index + 1 ? true : undefined));
  }
  expect(rig.given.bytes).toBe(lengths.reduce((sum, length) => sum + length, 0));
  expect(rig.reads).toEqual([]);
});

test.each(FORMS)('%s replies to a client that reads late are whole and in order', async (form) => {
  await using rig = await Rig.create(form);
  // The long one at the end: what follows its data goes behind all that waits.
  const lengths = [256 * KiB, 64 * KiB, 256 * KiB, 4 * KiB, 128 * KiB, 2 * MiB];
  const count = rig.stuff();
  for (const length of lengths) rig.read(length / 2, length);
  await rig.takeStuffing(form, count);
  for (const length of lengths) expectContent(await rig.take(form, length), length / 2);
  await eventually('the budget is given back', () =>
    rig.given.requests === count + lengths.length ? true : undefined,
  );
});

test.each(FORMS)('%s: pages that leave the cache while a reply waits are read again', async (form) => {
  await using rig = await Rig.create(form);
  const count = rig.stuff();
  rig.read(5, 2 * MiB);
  rig.isResident = false;
  await rig.takeStuffing(form, count);
  expectContent(await rig.take(form, 2 * MiB), 5);
  // Of the stuffing one may wait whole, too.
  expect(rig.reads.filter(([offset]) => offset > 0)).toEqual([[5, 2 * MiB]]);
  await eventually('the budget is given back', () => (rig.given.requests === count + 1 ? true : undefined));
});

test('a short reply of which a part is gone needs the cache no more; one that waits whole can still be an error', async () => {
  await using rig = await Rig.create('structured');
  const count = rig.stuff();
  rig.read(MiB, 256 * KiB);
  rig.isResident = false;
  rig.failingFrom = MiB;
  await rig.takeStuffing('structured', count);
  const header = await rig.client.take(20);
  const payload = await rig.client.take(new DataView(header.buffer).getUint32(16));
  expect(decodeReplyChunks(Buffer.concat([header, payload]))).toMatchObject([
    { kind: 'error', errno: EIO, cookie: 7n },
  ]);
  expect(rig.reads.filter(([offset]) => offset > 0)).toEqual([[MiB, 256 * KiB]]);
  expect(rig.given.requests).toBe(count + 1);
});

test.each(['structured', 'extended'] as const)(
  '%s: an error with the header gone follows as an error chunk',
  async (form) => {
    await using rig = await Rig.create(form);
    const count = rig.stuff();
    rig.read(MiB, 2 * MiB);
    rig.isResident = false;
    rig.failingFrom = MiB;
    await rig.takeStuffing(form, count);
    const data = await rig.client.take(dataHeaderBytes(form) + 2 * MiB);
    const header = await rig.client.take(dataHeaderBytes(form) - 8);
    const view = new DataView(header.buffer);
    const payload = await rig.client.take(
      form === 'extended' ? Number(view.getBigUint64(24)) : view.getUint32(16),
    );
    const chunks = decodeReplyChunks(Buffer.concat([data, header, payload]));
    expect(chunks).toMatchObject([{ kind: 'data' }, { kind: 'error', errno: EIO, cookie: 7n }]);
    expect(rig.given.requests).toBe(count + 1);
  },
);

test('simple: an error with the header gone ends the connection', async () => {
  await using rig = await Rig.create('simple');
  // More than the socket takes at a time, so that a part of it is gone.
  rig.read(MiB, 6 * MiB);
  rig.isResident = false;
  rig.failingFrom = MiB;
  rig.client.socket.resume();
  await expect(rig.client.take(16 + 6 * MiB)).rejects.toThrow(/connection ended/);
  expect(rig.given).toEqual({ bytes: 6 * MiB, requests: 1 });
});

test('simple: an error before the header is gone is a reply like any other', async () => {
  await using rig = await Rig.create('simple');
  const count = rig.stuff();
  rig.read(MiB, 2 * MiB);
  rig.isResident = false;
  rig.failingFrom = MiB;
  await rig.takeStuffing('simple', count);
  expect(await rig.client.takeSimpleReply()).toEqual({ errno: EIO, cookie: 7n });
  expect(rig.given.requests).toBe(count + 1);
});

test('a file that is cut off while its reply waits is an error, and nothing hangs', async () => {
  await using rig = await Rig.create('structured');
  const count = rig.stuff();
  rig.read(MiB, 4 * MiB);
  ftruncateSync(rig.fd, MiB);
  rig.failingFrom = MiB;
  await rig.takeStuffing('structured', count);
  await rig.client.take(dataHeaderBytes('structured') + 4 * MiB);
  expect(new DataView((await rig.client.take(20)).buffer).getUint16(6)).toBe(0x8001);
});

test('what the kernel cannot send is read in the ordinary way, and after a few times not tried', async () => {
  await using rig = await Rig.create('simple');
  const fd = openSync('/dev/null', 'w');
  rig.sendableFd = fd;
  for (let index = 0; index < 6; index += 1) {
    rig.read(index * MiB, MiB);
    expectContent(await rig.take('simple', MiB), index * MiB);
  }
  // Four times the rest of a reply, which is all of it; from then on the whole of a READ.
  expect(rig.reads).toEqual(Array.from({ length: 6 }, (_, index) => [index * MiB, MiB]));
  expect(rig.asked).toBe(2 * 4);
  closeSync(fd);
});

test('a client that leaves in the middle gives everything back', async () => {
  await using rig = await Rig.create('structured');
  const count = rig.stuff() + 4;
  for (let index = 0; index < 4; index += 1) rig.read(0, 2 * MiB);
  rig.client.socket.destroy();
  await eventually('the budget is given back', () => (rig.given.requests === count ? true : undefined));
  expect(rig.given.bytes).toBe((count - 4) * 256 * KiB + 8 * MiB);
});
