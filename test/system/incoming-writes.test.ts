/** Long WRITEs that follow each other go from the socket to the file: every byte in its place, whatever happens. */
import { readFile, stat, truncate } from 'node:fs/promises';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { WRITE_PAUSE_MS_MAX } from '../../src/plugins/file/write-bet.ts';
import { expectDescriptorCount, expectGoodService, idleDescriptorCount } from '../support/health.ts';
import { createFullImage, createImage, expectBytes, noise, readRange } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { randomNumbers } from '../support/random.ts';
import {
  CLIENT_FLAGS,
  COMMAND,
  encodeGo,
  encodeOption,
  encodeRequest,
  OPTION,
  RawClient,
} from '../support/raw-client.ts';
import { type NbdServer, startServer } from '../support/server.ts';
import { MiB, scratchFileSystem } from '../support/storage.ts';
import { callsIn, straceTo } from '../support/strace.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const KiB = 1024;
const LONG = 256 * KiB;
const IMAGE_BYTES = 16 * MiB;

const FUA = 1;
const EIO = 5;
const ENOSPC = 28;

const EXTENDED_HEADERS = 11;
const PAYLOAD_LEN = 0x20;
const REPLY_ACK = 1;

interface Write {
  readonly cookie: bigint;
  readonly offset: number;
  readonly data: Buffer;
  readonly flags?: number;
}

interface Dialect {
  readonly name: string;
  /** Options before GO. */
  readonly options: readonly number[];
  readonly replyBytes: number;
  encode(write: Write): Buffer;
  /** Fails unless these are the bytes of a success. */
  cookieOf(reply: Buffer): bigint;
}

function compactWrite(write: Write): Buffer {
  return encodeRequest({ type: COMMAND.write, ...write });
}

function extendedWrite({ cookie, offset, data, flags = 0 }: Write): Buffer {
  const header = Buffer.alloc(32);
  header.writeUInt32BE(0x21e41c71, 0);
  header.writeUInt16BE(flags | PAYLOAD_LEN, 4);
  header.writeUInt16BE(COMMAND.write, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(BigInt(offset), 16);
  header.writeBigUInt64BE(BigInt(data.length), 24);
  return Buffer.concat([header, data]);
}

/** Of a chunk without payload, the only one: flags DONE, type NONE. */
function chunkCookie(magic: number): (reply: Buffer) => bigint {
  return (reply) => {
    expect([reply.readUInt32BE(0), reply.readUInt16BE(4), reply.readUInt16BE(6)]).toEqual([magic, 1, 0]);
    return reply.readBigUInt64BE(8);
  };
}

const SIMPLE: Dialect = {
  name: 'simple replies',
  options: [],
  replyBytes: 16,
  encode: compactWrite,
  cookieOf: (reply) => {
    expect([reply.readUInt32BE(0), reply.readUInt32BE(4)]).toEqual([0x67446698, 0]);
    return reply.readBigUInt64BE(8);
  },
};
const DIALECTS: readonly Dialect[] = [
  SIMPLE,
  {
    name: 'structured replies',
    options: [OPTION.structuredReply],
    replyBytes: 20,
    encode: compactWrite,
    cookieOf: chunkCookie(0x668e33ef),
  },
  {
    name: 'extended headers',
    options: [EXTENDED_HEADERS],
    replyBytes: 32,
    encode: extendedWrite,
    cookieOf: chunkCookie(0x6e8a278c),
  },
];

async function open(server: NbdServer, { options }: Dialect = SIMPLE): Promise<RawClient> {
  const client = await RawClient.connect(server);
  await client.receive(18);
  await client.send(Buffer.concat([CLIENT_FLAGS, ...options.map((option) => encodeOption(option))]));
  const reply = async (): Promise<number> => {
    const header = await client.receive(20);
    await client.receive(header.readUInt32BE(16));
    return header.readUInt32BE(12);
  };
  for (const _ of options) expect(await reply()).toBe(REPLY_ACK);
  await client.send(encodeGo(''));
  for (let type = await reply(); type !== REPLY_ACK; type = await reply()) expect(type).toBeLessThan(2 ** 31);
  return client;
}

/** In pieces of up to `pieceBytesMax`, with turns of the event loop in between. */
async function sendInPieces(
  client: RawClient,
  bytes: Buffer,
  random: (limit: number) => number,
  pieceBytesMax: number,
): Promise<void> {
  for (let position = 0; position < bytes.length; ) {
    const piece = bytes.subarray(position, position + 1 + random(pieceBytesMax));
    await client.send(piece);
    position += piece.length;
    for (let turn = random(4); turn > 0; turn--) await nextTurn();
  }
}

async function writeSome(client: RawClient, { encode, replyBytes, cookieOf }: Dialect, write: Write) {
  await client.send(encode(write));
  expect(cookieOf(await client.receive(replyBytes))).toBe(write.cookie);
}

/** A WRITE behind which the next header is received alone. */
async function prepare(client: RawClient, dialect: Dialect = SIMPLE): Promise<void> {
  await writeSome(client, dialect, { cookie: 1n, offset: 0, data: noise(LONG, 1) });
}

/** The next header is received alone, and its payload goes to the file even when the disk was busy just now. */
async function prepareForFile(client: RawClient): Promise<void> {
  await prepare(client);
  await sleep(2 * WRITE_PAUSE_MS_MAX);
}

/** The beginning of a long WRITE to the last 4 MiB, of which some is in the file when this is done. */
async function sendBeginning(client: RawClient, image: string): Promise<Buffer> {
  const offset = IMAGE_BYTES - 4 * MiB;
  const data = noise(3 * MiB, 77);
  const before = await readRange(image, { offset, length: 4 * KiB });
  await client.send(compactWrite({ cookie: 2n, offset, data }).subarray(0, 28 + MiB + 100));
  await eventually('the beginning is in the file', async () =>
    (await readRange(image, { offset, length: 4 * KiB })).equals(before) ? undefined : true,
  );
  return data.subarray(MiB + 100);
}

describe.each([
  ['a Unix socket', []],
  ['TCP', ['--port', '0']],
])('over %s', (_where, listener) => {
  test.each(DIALECTS)('WRITEs of any length in pieces of any size arrive, $name', async (dialect) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, IMAGE_BYTES, [{ offset: 0, length: IMAGE_BYTES / 2 }]);
    const model = await readFile(image);
    await using server = await startServer(['file', image, ...listener]);
    await using client = await open(server, dialect);
    const random = randomNumbers(dialect.replyBytes);
    const lengths = [
      LONG,
      3 * MiB + 511,
      64 * KiB,
      LONG + 1,
      100_003,
      MiB,
      64 * KiB + 5,
      2 * MiB + 4095,
      513,
    ];
    const pieceBytesMax = [300_000, 5000, 70_000, 1_000_000];
    let cookie = 0n;
    for (const [index, length] of [...lengths, ...lengths].entries()) {
      cookie += 1n;
      const offset = random(IMAGE_BYTES - length);
      const data = noise(length, index);
      data.copy(model, offset);
      const bytes = dialect.encode({ cookie, offset, data });
      await sendInPieces(client, bytes, random, pieceBytesMax[index % pieceBytesMax.length] ?? 1);
      expect(dialect.cookieOf(await client.receive(dialect.replyBytes))).toBe(cookie);
      await expectBytes(image, offset, data);
    }
    await expectBytes(image, 0, model);
  });
});

test('many WRITEs, READs and others in one go are each done with their own bytes', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, IMAGE_BYTES);
  const model = await readFile(image);
  await using server = await startServer(['file', image]);
  await using client = await open(server);
  const random = randomNumbers(5);
  // Each has a place of its own: what is in flight together may be done in any order.
  const requests = Array.from({ length: 15 }, (_, index) => {
    const [cookie, offset] = [BigInt(index), index * MiB + random(4096)];
    switch (index % 5) {
      case 0:
      case 1:
      case 3: {
        const data = noise(index % 5 === 3 ? 1 + random(8 * KiB) : LONG + random(700 * KiB), index);
        data.copy(model, offset);
        return { bytes: compactWrite({ cookie, offset, data }), cookie, expected: Buffer.alloc(0) };
      }
      case 2: {
        const length = 1 + random(500 * KiB);
        const expected = Buffer.from(model.subarray(offset, offset + length));
        return { bytes: encodeRequest({ type: COMMAND.read, cookie, offset, length }), cookie, expected };
      }
      default:
        return { bytes: encodeRequest({ type: COMMAND.flush, cookie }), cookie, expected: Buffer.alloc(0) };
    }
  });
  const sending = client.send(Buffer.concat(requests.map(({ bytes }) => bytes)));
  const missing = new Map(requests.map((request) => [request.cookie, request]));
  while (missing.size > 0) {
    const cookie = SIMPLE.cookieOf(await client.receive(16));
    const { expected = Buffer.alloc(0) } = missing.get(cookie) ?? {};
    expect(missing.delete(cookie)).toBe(true);
    expect((await client.receive(expected.length)).equals(expected)).toBe(true);
  }
  await sending;
  await expectBytes(image, 0, model);
});

test('several connections write at the same time, each to its own place', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, IMAGE_BYTES);
  const model = await readFile(image);
  await using server = await startServer(['file', image]);
  await Promise.all(
    Array.from({ length: 8 }, async (_, index) => {
      await using client = await open(server);
      const random = randomNumbers(index);
      for (let round = 0; round < 6; round++) {
        const write = {
          cookie: BigInt(round),
          offset: index * 2 * MiB + random(512 * KiB),
          data: noise(LONG + random(MiB), 100 * index + round),
        };
        write.data.copy(model, write.offset);
        await sendInPieces(client, compactWrite(write), random, 200_000);
        expect(SIMPLE.cookieOf(await client.receive(16))).toBe(write.cookie);
      }
    }),
  );
  await expectBytes(image, 0, model);
});

test('a WRITE behind a long one is spliced into the file, and with FUA it is durable before it is answered', async () => {
  await using directory = await temporaryDirectory();
  const [image, log] = [directory.file('disk.img'), directory.file('strace')];
  await createFullImage(image, IMAGE_BYTES);
  await using server = await startServer(['file', image], {
    through: straceTo(log, '-P', image, '-e', 'trace=splice,pwritev2,fdatasync'),
  });
  await using client = await open(server);
  await prepareForFile(client);
  expect(await callsIn(log, ['splice', 'fdatasync'])).toEqual([]);
  const data = noise(LONG, 3);
  await writeSome(client, SIMPLE, { cookie: 2n, offset: 1000, data, flags: FUA });
  const calls = await callsIn(log, ['splice', 'fdatasync']);
  expect(calls.filter((name) => name === 'splice').length).toBeGreaterThan(0);
  expect(calls.filter((name) => name === 'fdatasync')).toHaveLength(1);
  expect(calls.at(-1)).toBe('fdatasync');
  await expectBytes(image, 1000, data);
  await server.stop();
});

test.each([
  ['vanishes', false],
  ['closes its half of the connection', true],
])('a client that %s in the middle of a payload leaves nothing behind', async (_how, politely) => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, IMAGE_BYTES);
  // Idle pipes are kept, by each thread: as many as the clients below need at a time.
  await using server = await startServer(['file', image, '--threads', '1']);
  await expectGoodLongWrite(server);
  const count = await idleDescriptorCount(server);
  for (let round = 0; round < 20; round++) {
    await using client = await open(server);
    await prepareForFile(client);
    await sendBeginning(client, image);
    if (politely) {
      client.halfClose();
      client.socket.resume();
      await client.closed;
    }
    await client.leave();
    await using next = await open(server);
    const data = noise(4 * MiB, 1000 + round);
    await prepare(next);
    await writeSome(next, SIMPLE, { cookie: 2n, offset: IMAGE_BYTES - 4 * MiB, data });
    await expectBytes(image, IMAGE_BYTES - 4 * MiB, data);
  }
  await expectDescriptorCount(server, count);
  await expectGoodService(server);
});

async function expectGoodLongWrite(server: NbdServer): Promise<void> {
  await using client = await open(server);
  await prepare(client);
  await writeSome(client, SIMPLE, { cookie: 2n, offset: MiB, data: noise(LONG, 4) });
}

test.each([
  ['sends no more', false],
  ['goes on sending', true],
])('SIGTERM in the middle of the payload of a client that %s ends the server', async (_how, goesOn) => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, IMAGE_BYTES);
  await using server = await startServer(['file', image]);
  await using client = await open(server);
  await prepareForFile(client);
  const rest = await sendBeginning(client, image);
  server.signal('SIGTERM');
  if (goesOn) void client.send(rest);
  expect(await server.ended()).toEqual({ code: 0, signal: null });
});

test('what is past the end of a truncated file is EIO, does not make it long again, and the rest is served', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, IMAGE_BYTES);
  await using server = await startServer(['file', image]);
  await using client = await open(server);
  await prepare(client);
  const present = 2 * MiB + 1000;
  await truncate(image, present);
  for (const [cookie, offset] of [
    [2n, MiB],
    [3n, 4 * MiB],
  ] as const) {
    await client.send(compactWrite({ cookie, offset, data: noise(3 * MiB, 6) }));
    expect(await client.receiveReply()).toEqual({ error: EIO, cookie });
    expect((await stat(image)).size).toBe(present);
  }
  const data = noise(MiB, 7);
  await writeSome(client, SIMPLE, { cookie: 4n, offset: 500, data });
  await expectBytes(image, 500, data);
  // Nothing that was acknowledged is lost.
  await client.send(encodeRequest({ type: COMMAND.flush, cookie: 5n }));
  expect(await client.receiveReply()).toEqual({ error: 0, cookie: 5n });
});

test('a full file system is ENOSPC, in the middle of a WRITE too, and the client is served on', async () => {
  await using fileSystem = await scratchFileSystem('ext4', 24 * MiB);
  const image = fileSystem.file('disk.img');
  await createImage(image, 256 * MiB);
  await using server = await startServer(['file', image]);
  await using client = await open(server);
  const errors = new Set<number>();
  for (let index = 0; index < 40; index++) {
    const [cookie, data] = [BigInt(index), noise(MiB + 4097, index)];
    await client.send(compactWrite({ cookie, offset: index * 4 * MiB + 123, data }));
    const reply = await client.receiveReply();
    expect(reply.cookie).toBe(cookie);
    errors.add(reply.error);
    if (reply.error === 0) await expectBytes(image, index * 4 * MiB + 123, data);
  }
  expect([...errors].sort()).toEqual([0, ENOSPC]);
  await client.send(encodeRequest({ type: COMMAND.flush, cookie: 100n }));
  expect(await client.receiveReply()).toEqual({ error: 0, cookie: 100n });
});
