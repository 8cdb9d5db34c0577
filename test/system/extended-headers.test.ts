/** Extended headers over a socket, on a real file. No client on this machine speaks them, so ours does. */
import { truncate } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { allocatedBytes, createImage, noise, readRange } from '../support/image.ts';
import {
  CLIENT_FLAGS,
  COMMAND,
  encodeGo,
  encodeOption,
  encodeSetMetaContext,
  RawClient,
} from '../support/raw-client.ts';
import { type NbdServer, startServer } from '../support/server.ts';
import { GiB, MiB, TiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const EXTENDED_HEADERS = 11;
const STRUCTURED_REPLY = 8;
const PAYLOAD_LEN = 0x20;
const NONE = 0;
const OFFSET_DATA = 1;
const OFFSET_HOLE = 2;
const BLOCK_STATUS_EXT = 6;
const ERROR = 0x8001;

interface Asked {
  readonly type: number;
  readonly flags?: number;
  readonly offset?: bigint | number;
  readonly length?: bigint | number;
  readonly payload?: Buffer;
}

interface ExtendedChunk {
  readonly type: number;
  readonly isDone: boolean;
  readonly echoed: bigint;
  readonly payload: Buffer;
}

const COOKIE = 0xfedc_ba98_7654_3210n;

/** A client that has agreed on extended headers and, unless told otherwise, base:allocation. */
class ExtendedClient implements AsyncDisposable {
  readonly #client: RawClient;
  readonly contextId: number;
  readonly transmissionFlags: number;

  private constructor(client: RawClient, contextId: number, transmissionFlags: number) {
    this.#client = client;
    this.contextId = contextId;
    this.transmissionFlags = transmissionFlags;
  }

  static async connect(server: NbdServer): Promise<ExtendedClient> {
    const client = await RawClient.connect(server);
    await client.receive(18);
    await client.send(
      Buffer.concat([
        ...[CLIENT_FLAGS, encodeOption(EXTENDED_HEADERS), encodeOption(STRUCTURED_REPLY)],
        ...[encodeSetMetaContext('', 'base:allocation'), encodeGo('')],
      ]),
    );
    const option = async (): Promise<{ type: number; data: Buffer }> => {
      const header = await client.receive(20);
      return { type: header.readUInt32BE(12), data: await client.receive(header.readUInt32BE(16)) };
    };
    expect((await option()).type).toBe(1);
    expect((await option()).type).toBe(0x8000_000a);
    const context = await option();
    expect(context.type).toBe(4);
    expect((await option()).type).toBe(1);
    const info = await option();
    expect(info.type).toBe(3);
    expect((await option()).type).toBe(1);
    return new ExtendedClient(client, context.data.readUInt32BE(0), info.data.readUInt16BE(10));
  }

  async send({ type, flags = 0, offset = 0, length = 0, payload }: Asked): Promise<void> {
    const header = Buffer.alloc(32);
    header.writeUInt32BE(0x21e4_1c71, 0);
    header.writeUInt16BE(payload === undefined ? flags : flags | PAYLOAD_LEN, 4);
    header.writeUInt16BE(type, 6);
    header.writeBigUInt64BE(COOKIE, 8);
    header.writeBigUInt64BE(BigInt(offset), 16);
    header.writeBigUInt64BE(BigInt(payload?.length ?? length), 24);
    await this.#client.send(Buffer.concat([header, payload ?? Buffer.alloc(0)]));
  }

  /** All chunks of one reply. */
  async ask(asked: Asked): Promise<ExtendedChunk[]> {
    await this.send(asked);
    const chunks: ExtendedChunk[] = [];
    for (;;) {
      const header = await this.#client.receive(32);
      expect(header.readUInt32BE(0).toString(16)).toBe('6e8a278c');
      expect(header.readBigUInt64BE(8)).toBe(COOKIE);
      const isDone = header.readUInt16BE(4) === 1;
      const payload = await this.#client.receive(Number(header.readBigUInt64BE(24)));
      chunks.push({ type: header.readUInt16BE(6), isDone, echoed: header.readBigUInt64BE(16), payload });
      expect(chunks.at(-1)?.echoed).toBe(BigInt(asked.offset ?? 0));
      if (isDone) return chunks;
    }
  }

  async succeed(asked: Asked): Promise<void> {
    expect(await this.ask(asked)).toMatchObject([{ type: NONE, payload: { length: 0 } }]);
  }

  /** Value and message of the error that the request is answered with. */
  async fail(asked: Asked): Promise<{ errno: number; message: string }> {
    const [chunk, ...rest] = await this.ask(asked);
    expect(rest).toEqual([]);
    if (chunk?.type !== ERROR) throw new Error('no error');
    return { errno: chunk.payload.readUInt32BE(0), message: chunk.payload.toString('utf8', 6) };
  }

  /** Length and status of the extents that BLOCK_STATUS reports. */
  async status(asked: Asked): Promise<[length: number, status: number][]> {
    const [chunk, ...rest] = await this.ask(asked);
    expect(rest).toEqual([]);
    if (chunk?.type !== BLOCK_STATUS_EXT) throw new Error('no status');
    const { payload } = chunk;
    expect(payload.readUInt32BE(0)).toBe(this.contextId);
    const count = payload.readUInt32BE(4);
    expect(payload).toHaveLength(8 + 16 * count);
    return Array.from({ length: count }, (_, index) => [
      Number(payload.readBigUInt64BE(8 + 16 * index)),
      Number(payload.readBigUInt64BE(16 + 16 * index)),
    ]);
  }

  /** The client's orderly goodbye: the server closes the connection. */
  async disconnect(): Promise<void> {
    await this.send({ type: COMMAND.disconnect });
    await expect(this.#client.receive(1)).rejects.toThrow('closed');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.leave();
  }
}

test('every command works with extended headers', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  const size = 16 * MiB;
  await createImage(image, size, [{ offset: MiB, length: MiB }]);
  await using server = await startServer(['file', image]);
  await using client = await ExtendedClient.connect(server);
  // SEND_DF and BLOCK_STATUS_PAYLOAD.
  expect(client.transmissionFlags & 0x1080).toBe(0x1080);

  const written = noise(70_000, 1);
  await client.succeed({ type: COMMAND.write, offset: 3 * MiB, payload: written });
  await client.succeed({ type: COMMAND.write, flags: 1, offset: 512, payload: written.subarray(0, 512) });
  await client.succeed({ type: COMMAND.flush });
  expect((await readRange(image, { offset: 3 * MiB, length: 70_000 })).equals(written)).toBe(true);

  const [data, ...rest] = await client.ask({ type: COMMAND.read, offset: 3 * MiB, length: 70_000 });
  expect(rest).toEqual([]);
  expect(data).toMatchObject({ type: OFFSET_DATA, isDone: true });
  expect(data?.payload.readBigUInt64BE(0)).toBe(BigInt(3 * MiB));
  expect(data?.payload.subarray(8).equals(written)).toBe(true);

  await client.succeed({ type: COMMAND.cache, length: size });
  await client.succeed({ type: COMMAND.writeZeroes, flags: 2, offset: 3 * MiB, length: 4096 });
  expect((await readRange(image, { offset: 3 * MiB, length: 4096 })).every((byte) => byte === 0)).toBe(true);
  await client.succeed({ type: COMMAND.trim, offset: MiB, length: MiB });
  await client.disconnect();
});

test('a TRIM, a WRITE_ZEROES and a BLOCK_STATUS may span the whole export, far beyond 4 GiB', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  const size = 6 * TiB + 4096;
  await createImage(image, MiB);
  await truncate(image, size);
  await using server = await startServer(['file', image]);
  await using client = await ExtendedClient.connect(server);
  const page = noise(65_536, 2);
  for (const type of [COMMAND.writeZeroes, COMMAND.trim]) {
    for (const offset of [0, 5 * GiB, size - page.length - 4096]) {
      await client.succeed({ type: COMMAND.write, offset, payload: page });
    }
    await client.succeed({ type: COMMAND.flush });
    expect(await allocatedBytes(image)).toBeGreaterThanOrEqual(3 * page.length);
    await client.succeed({ type, length: size });
    expect(await allocatedBytes(image)).toBe(0);
  }
  expect(await client.status({ type: COMMAND.blockStatus, length: size })).toEqual([[size, 3]]);
  await client.succeed({ type: COMMAND.write, offset: 5 * GiB, payload: page });
  const extents = [
    [5 * GiB, 3],
    [page.length, 0],
    [size - 5 * GiB - page.length, 3],
  ];
  expect(await client.status({ type: COMMAND.blockStatus, length: size })).toEqual(extents);
  const filter = Buffer.alloc(12);
  filter.writeBigUInt64BE(BigInt(size), 0);
  filter.writeUInt32BE(client.contextId, 8);
  expect(await client.status({ type: COMMAND.blockStatus, payload: filter })).toEqual(extents);
  expect(await client.status({ type: COMMAND.blockStatus, flags: 8, payload: filter })).toEqual([extents[0]]);
});

test('a long READ of a file with holes sends them as holes', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, 16 * MiB, [{ offset: 2 * MiB, length: MiB }]);
  await using server = await startServer(['file', image, '--cache', 'none']);
  await using client = await ExtendedClient.connect(server);
  const chunks = await client.ask({ type: COMMAND.read, offset: MiB, length: 8 * MiB });
  expect(chunks.map(({ type, payload }) => [type, Number(payload.readBigUInt64BE(0))])).toEqual([
    [OFFSET_HOLE, MiB],
    [OFFSET_DATA, 2 * MiB],
    [OFFSET_HOLE, 3 * MiB],
  ]);
  const expected = await readRange(image, { offset: 2 * MiB, length: MiB });
  expect(chunks[1]?.payload.subarray(8).equals(expected)).toBe(true);

  // What was acknowledged before a READ is data, also while it is nowhere but in the page cache.
  const written = noise(65_536, 3);
  await client.succeed({ type: COMMAND.write, offset: 4 * MiB, payload: written });
  const after = await client.ask({ type: COMMAND.read, offset: 3 * MiB, length: 2 * MiB });
  const found = after.find(({ type }) => type === OFFSET_DATA);
  const at = 4 * MiB - Number(found?.payload.readBigUInt64BE(0) ?? 0);
  expect(found?.payload.subarray(8 + at, 8 + at + written.length).equals(written)).toBe(true);

  const whole = await client.ask({ type: COMMAND.read, flags: 4, offset: MiB, length: 8 * MiB });
  expect(whole).toMatchObject([{ type: OFFSET_DATA, payload: { length: 8 + 8 * MiB } }]);
});

test('errors echo the exact offset, say what failed and where, and the session goes on', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server = await startServer(['file', image]);
  await using client = await ExtendedClient.connect(server);
  expect(await client.fail({ type: COMMAND.read, offset: 2n ** 64n - 2n, length: 1 })).toMatchObject({
    errno: 22,
    message: expect.stringContaining('READ of 1 bytes at 18446744073709551614'),
  });
  expect(await client.fail({ type: COMMAND.write, offset: MiB, payload: noise(512, 1) })).toMatchObject({
    errno: 28,
    message: expect.stringContaining(`WRITE of 512 bytes at ${MiB}`),
  });
  expect(await client.fail({ type: COMMAND.write, length: 512 })).toMatchObject({ errno: 22 });
  expect(await client.fail({ type: COMMAND.read, payload: noise(512, 1) })).toMatchObject({ errno: 22 });
  expect(await client.fail({ type: COMMAND.blockStatus, payload: noise(12, 1) })).toMatchObject({
    errno: 22,
  });
  expect(await client.fail({ type: COMMAND.trim, length: 2n ** 64n - 1n })).toMatchObject({ errno: 22 });
  await client.succeed({ type: COMMAND.flush });
  await client.disconnect();
});
