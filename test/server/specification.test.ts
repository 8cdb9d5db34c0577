/** Duties of the specification that no other file tests; test/SPECIFICATION.md lists them all. */
import { spawnSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { describe, expect, test } from 'vitest';
import { EXTENT_COUNT_MAX, OPTION_BYTES_MAX, PAYLOAD_BYTES_MAX } from '../../src/limits.ts';
import { native } from '../../src/native/binding.ts';
import { Transport } from '../../src/server/transport.ts';
import { Cursor, join, u32 } from '../protocol/bytes.ts';
import { CMD, decodeChunk, go, MODERN, OPT, option, REP, request } from '../protocol/naive-client.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { ConnectionRig } from './client.ts';
import { FakeLog } from './fake-log.ts';
import { FakePlugin } from './fake-plugin.ts';

test('TCP_NODELAY and keepalive SHOULD be set on the socket of every connection', async () => {
  await using folder = await temporaryDirectory();
  const listening = native.listen_tcp('127.0.0.1', 0, 8);
  const accepted = new Promise<number>((resolve) => {
    const listener = new native.Listener(listening, (fd) => {
      listener.close();
      resolve(fd);
    });
  });
  const client = connect({ host: '127.0.0.1', port: native.local_port(listening) });
  const fd = await accepted;
  const transport = new Transport(
    fd,
    { received: () => true, ended: () => {}, closed: () => {} },
    new FakeLog(),
  );
  // Of this process, by way of another, which inherits it.
  const script = folder.file('options.py');
  await writeFile(
    script,
    `import socket
s = socket.socket(fileno=3)
print(s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))`,
  );
  const { stdout } = spawnSync('python3', [script], { stdio: ['ignore', 'pipe', 'inherit', fd] });
  transport.cut();
  client.destroy();
  expect(stdout.toString().trim()).toBe('1 1');
});

test.each([4, 0x8000_0003])('the connection MUST be closed on unknown client flags (%i)', async (flags) => {
  await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
  const { client, connection } = await rig.connect();
  await using _client = client;
  await client.take(18);
  client.send(u32(flags), go(''));
  await connection.closed;
  await expect(client.take(1)).rejects.toThrow('ended');
  expect(rig.plugin.handles).toHaveLength(0);
});

test('a client that leaves after ABORT without reading the reply is nothing to complain about', async () => {
  await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
  for (let round = 0; round < 20; round += 1) {
    const { client, connection } = await rig.connect();
    if (round % 2 === 0) await client.take(18);
    client.send(MODERN, option(OPT.ABORT));
    client.socket.destroySoon();
    await connection.closed;
  }
  expect(rig.log.at('warn')).toEqual([]);
  expect(rig.log.at('error')).toEqual([]);
});

test('an unwelcome client MUST be answered with errors until it leaves', async () => {
  await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
  const { client } = await rig.connect();
  await using _client = client;
  await client.take(18);
  client.send(MODERN);
  for (let round = 0; round < 100; round += 1) {
    client.send(go('not yours'));
    expect((await client.takeOptionReply()).type).toBe(REP.ERR_UNKNOWN);
  }
  client.send(option(OPT.ABORT));
  expect((await client.takeOptionReply()).type).toBe(REP.ACK);
});

describe('sizes', () => {
  test('of blocks are legal: minimum and preferred MUST be powers of 2, the payload SHOULD be 2^25', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const { client } = await rig.connect();
    await using _client = client;
    await client.take(18);
    client.send(MODERN, go('', [3]));
    const replies = [
      await client.takeOptionReply(),
      await client.takeOptionReply(),
      await client.takeOptionReply(),
    ];
    const info = replies.map(({ data }) => new Cursor(data)).find((cursor) => cursor.rest === 14);
    if (info === undefined) throw new Error('no BLOCK_SIZE');
    expect(info.u16()).toBe(3);
    const [minimum, preferred, maximum] = [info.u32(), info.u32(), info.u32()];
    for (const size of [minimum, preferred]) expect(Number.isInteger(Math.log2(size))).toBe(true);
    expect(minimum).toBeLessThanOrEqual(65_536);
    expect(preferred).toBeGreaterThanOrEqual(Math.max(minimum, 512));
    expect(maximum).toBeGreaterThanOrEqual(preferred);
    expect(maximum).toBe(2 ** 25);
  });

  test('of the limits leave room for everything that a client may send', () => {
    // The longest legal GO; the largest payload that every client may assume; extents in one chunk.
    expect(OPTION_BYTES_MAX).toBeGreaterThanOrEqual(4 + 4096 + 2 + 2 * 65_535);
    expect(PAYLOAD_BYTES_MAX).toBeGreaterThanOrEqual(2 ** 25);
    expect(EXTENT_COUNT_MAX).toBeLessThanOrEqual(2 ** 20);
  });
});

test('with structured replies READ MUST be structured also for early errors, and errors say what failed', async () => {
  await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
  const { client } = await rig.connect();
  await using _client = client;
  await client.take(18);
  client.send(MODERN, option(OPT.STRUCTURED_REPLY), go(''));
  for (let count = 0; count < 3; count += 1) await client.takeOptionReply();
  for (const type of [CMD.READ, CMD.WRITE_ZEROES, CMD.TRIM, CMD.FLUSH, 99]) {
    client.send(request({ type, cookie: 5n, offset: 2n ** 60n, length: 512 }));
    const header = await client.take(20);
    const chunk = decodeChunk(
      new Cursor(join(header, await client.take(new DataView(header.buffer).getUint32(16)))),
    );
    expect(chunk).toMatchObject({ kind: 'error', cookie: 5n, isDone: true });
    if (chunk.kind === 'error') expect(chunk.message.length).toBeGreaterThan(10);
  }
});
