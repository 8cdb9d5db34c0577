import { stat } from 'node:fs/promises';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { createFullImage, createImage, noise, readRange } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { COMMAND, encodeRequest, RawClient } from '../support/raw-client.ts';
import { type NbdServer, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { tlsInit } from '../support/tls-files.ts';

const SIGNALS = ['SIGTERM', 'SIGINT'] as const;
const ESHUTDOWN = 108;

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

/** Waits until nobody can connect any more: the server has begun to end. */
async function refusesConnections(server: NbdServer): Promise<void> {
  await eventually('new connections are refused', async () => {
    return new Promise<true | undefined>((resolve) => {
      const socket = connect(server.socketPath);
      socket.once('error', () => {
        resolve(true);
      });
      socket.once('connect', () => {
        socket.destroy();
        resolve(undefined);
      });
    });
  });
}

describe.each(SIGNALS)('%s', (signal) => {
  test('ends an idle server, whose socket is removed', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using server = await startServer(['file', image]);
    expect(await exists(server.socketPath)).toBe(true);
    await server.stop(signal);
    expect(await exists(server.socketPath)).toBe(false);
  });

  test('lets requests in flight finish: what was acknowledged is in the image', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    const [pieces, length] = [192, 128 * 1024];
    await createImage(image, pieces * length);
    await using server = await startServer(['file', image, '--cache', 'none']);
    await using client = await RawClient.connect(server);
    await client.handshake();
    const data = noise(length, 3);
    const sent = client.send(
      Buffer.concat(
        Array.from({ length: pieces }, (_, index) =>
          encodeRequest({ type: COMMAND.write, cookie: BigInt(index), offset: index * length, data }),
        ),
      ),
    );
    const acknowledged: number[] = [];
    const replies = (async () => {
      for (;;) {
        const { error, cookie } = await client.receiveReply();
        if (error === 0) acknowledged.push(Number(cookie));
      }
    })();
    const outcome = replies.catch(String);
    await eventually('some writes are answered', () => (acknowledged.length > 8 ? true : undefined));
    await server.stop(signal);
    expect(await outcome).toContain('closed the connection');
    // The client's own end of the connection may have failed while it was still sending.
    await sent;
    expect(acknowledged.length).toBeGreaterThan(8);
    for (const index of acknowledged) {
      const found = await readRange(image, { offset: index * length, length });
      expect(found.equals(data), `acknowledged write ${index}`).toBe(true);
    }
  });

  test('does not wait for clients that are idle, half open or half closed', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using server = await startServer(['file', image]);
    await using silent = await RawClient.connect(server);
    await using idle = await RawClient.connect(server);
    await idle.handshake();
    await using halfClosed = await RawClient.connect(server);
    await halfClosed.handshake();
    halfClosed.halfClose();
    await using midRequest = await RawClient.connect(server);
    await midRequest.handshake();
    await midRequest.send(encodeRequest({ type: COMMAND.write, length: 65_536, offset: 0 }).subarray(0, 20));
    await using midPayload = await RawClient.connect(server);
    await midPayload.handshake();
    await midPayload.send(
      Buffer.concat([
        encodeRequest({ type: COMMAND.write, length: 65_536, offset: 0 }),
        Buffer.alloc(100, 1),
      ]),
    );
    await server.stop(signal);
    expect((await readRange(image, { offset: 0, length: 100 })).equals(Buffer.alloc(100))).toBe(true);
    for (const client of [idle, halfClosed, midRequest, midPayload]) {
      await expect(client.receive(1)).rejects.toThrow('closed the connection');
    }
    // It was greeted before it said nothing.
    await silent.receive(18);
    await expect(silent.receive(1)).rejects.toThrow('closed the connection');
  });

  test('answers what is in flight, and what comes after it with ESHUTDOWN', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    // More than the socket's buffers hold: the reply is in flight until the client has taken it.
    const length = 8 * MiB;
    await createFullImage(image, length);
    await using server = await startServer(['file', image]);
    await using client = await RawClient.connect(server);
    await client.handshake();
    await client.send(encodeRequest({ type: COMMAND.read, cookie: 1n, length }));
    const header = await client.receive(16);
    expect([header.readUInt32BE(4), header.readBigUInt64BE(8)]).toEqual([0, 1n]);
    server.signal(signal);
    await refusesConnections(server);
    const late = [
      encodeRequest({ type: COMMAND.write, cookie: 2n, data: Buffer.alloc(512, 1) }),
      encodeRequest({ type: COMMAND.read, cookie: 3n, length: 512 }),
      encodeRequest({ type: COMMAND.flush, cookie: 4n, length: 0 }),
    ];
    await client.send(Buffer.concat(late));
    for (let taken = 0; taken < length; taken += 65_536) await client.receive(65_536);
    const replies = [await client.receiveReply(), await client.receiveReply(), await client.receiveReply()];
    expect(replies).toEqual([2n, 3n, 4n].map((cookie) => ({ error: ESHUTDOWN, cookie })));
    expect(await server.ended(), server.stderr).toEqual({ code: 0, signal: null });
  });

  test('ends the server although a client does not read its replies', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, 32 * MiB);
    await using server = await startServer(['file', image]);
    await using client = await RawClient.connect(server);
    await client.handshake();
    await client.send(encodeRequest({ type: COMMAND.read, length: 32 * MiB }));
    // The first bytes of the reply are here, so the request is in flight; the rest is never read.
    await client.receive(16);
    server.signal(signal);
    const { signal: killedBy } = await server.ended();
    expect(killedBy).toBeNull();
  });
});

/** A client over TCP, or TLS on it, that has opened the export. */
async function openOverTcp(server: NbdServer, isSecure: boolean): Promise<RawClient> {
  if (isSecure) return RawClient.openSecurely(server);
  const client = await RawClient.connect(server);
  await client.handshake();
  return client;
}

/** What the server needs for either. */
async function tcpOptions(isSecure: boolean, certificates: string): Promise<string[]> {
  if (!isSecure) return ['--port', '0'];
  await tlsInit(certificates);
  return ['--port', '0', '--tls', 'require', '--tls-certificates', certificates];
}

describe.each([
  ['TCP', false, 1],
  ['TCP, two threads', false, 2],
  ['TLS', true, 1],
  ['TLS, two threads', true, 2],
] as const)('over %s', (_name, isSecure, threadCount) => {
  const threads = ['--threads', String(threadCount)];

  test('a client that goes on sending gets every reply in flight before the end', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    const [count, length] = [32, 256 * 1024];
    await createFullImage(image, count * length);
    const options = await tcpOptions(isSecure, directory.file('tls'));
    await using server = await startServer(['file', image, ...options, ...threads]);
    // The second connection belongs to the second thread, where there is one.
    await using _idle = threadCount > 1 ? await openOverTcp(server, isSecure) : undefined;
    await using client = await openOverTcp(server, isSecure);
    const reads = Array.from({ length: count }, (_, index) =>
      encodeRequest({ type: COMMAND.read, cookie: BigInt(index), offset: index * length, length }),
    );
    await client.send(Buffer.concat(reads));
    const first = await client.receive(16);
    expect(first.readUInt32BE(4)).toBe(0);
    const { socket } = client;
    const sending = (async () => {
      const flush = encodeRequest({ type: COMMAND.flush, cookie: 1000n, length: 0 });
      while (!socket.destroyed && !socket.readableEnded) {
        await Promise.race([client.send(flush), client.closed]);
        await sleep(1);
      }
    })();
    server.signal('SIGTERM');
    // What the server has sent by now stands in the kernel's queues, with unread requests on the way to it.
    await sleep(300);
    await client.receive(length);
    const answered = [first.readBigUInt64BE(8)];
    const replies = (async () => {
      for (;;) {
        const header = await client.receive(16);
        const cookie = header.readBigUInt64BE(8);
        if (cookie === 1000n) continue;
        expect(header.readUInt32BE(4)).toBe(0);
        await client.receive(length);
        answered.push(cookie);
      }
    })();
    await expect(replies).rejects.toThrow('closed the connection');
    expect(answered).toHaveLength(count);
    await client.leave();
    await sending;
    expect(await server.ended(), server.stderr).toEqual({ code: 0, signal: null });
    expect(server.stderr).not.toContain('cut off');
  });

  test('clients that stay connected and are idle do not delay the end', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    const options = await tcpOptions(isSecure, directory.file('tls'));
    await using server = await startServer(['file', image, ...options, ...threads]);
    await using idle = await openOverTcp(server, isSecure);
    await using served = await openOverTcp(server, isSecure);
    await served.send(encodeRequest({ type: COMMAND.read, length: 4096 }));
    expect(await served.receiveReply(4096)).toEqual({ error: 0, cookie: 0n });
    await using _silent = await RawClient.connect(server);
    const before = performance.now();
    await server.stop();
    // The deadline for what is in flight is 5 s.
    expect(performance.now() - before).toBeLessThan(2500);
    for (const client of [idle, served]) {
      await expect(client.receive(1)).rejects.toThrow('closed the connection');
    }
  });
});

test('a second signal ends the server at once with a non-zero exit code', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, 32 * MiB);
  await using server = await startServer(['file', image]);
  await using client = await RawClient.connect(server);
  await client.handshake();
  await client.send(encodeRequest({ type: COMMAND.read, length: 32 * MiB }));
  await client.receive(16);
  server.signal('SIGTERM');
  // Two signals of one kind that are pending together count as one.
  await refusesConnections(server);
  server.signal('SIGTERM');
  const { code } = await server.ended();
  expect(code).not.toBe(0);
});
