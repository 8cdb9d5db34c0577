/** One client over a real socket, and a plugin that ends its requests when the test says so. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import {
  CONNECTION_INFLIGHT_BYTES_ASSURED,
  CONNECTION_INFLIGHT_BYTES_MAX,
  CONNECTION_INFLIGHT_REQUESTS_MAX,
  EXTENT_COUNT_MAX,
  PAYLOAD_BYTES_MAX,
  PROCESS_INFLIGHT_BYTES_MAX,
} from '../../src/limits.ts';
import { join, pattern } from '../protocol/bytes.ts';
import {
  CMD,
  go,
  MODERN,
  OPT,
  option,
  REP,
  request,
  setMetaContext,
  write,
} from '../protocol/naive-client.ts';
import { eventually } from '../support/polling.ts';
import { type Client, ConnectionRig } from './client.ts';
import { FakePlugin, type PendingCall } from './fake-plugin.ts';

const KiB = 1024;
const ESHUTDOWN = 108;

function flush(cookie: bigint): Uint8Array {
  return request({ type: CMD.FLUSH, cookie });
}

function read(offset: number, length: number, cookie: bigint): Uint8Array {
  return request({ type: CMD.READ, offset, length, cookie });
}

const DISC = request({ type: CMD.DISC });

/** Waits until exactly `count` requests are with the handle. */
async function pendingOf(plugin: FakePlugin, count: number): Promise<PendingCall[]> {
  return eventually(`${count} requests are with the handle`, () => {
    const pending = plugin.handles[0]?.pending ?? [];
    return pending.length === count ? [...pending] : undefined;
  });
}

/** Lets everything that is on its way through the event loop arrive, for tests that expect nothing. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await nextTurn();
}

/** What must hold once a connection is gone. */
function expectNothingLeft(rig: ConnectionRig): void {
  expect(rig.budget.bytes).toBe(0);
  for (const handle of rig.plugin.handles) {
    expect(handle).toMatchObject({ closeCount: 1, pendingAtClose: 0 });
  }
}

describe('transmission', () => {
  test('answers in the order in which requests end', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin());
    const { client } = await rig.open();
    client.send(flush(1n), flush(2n), flush(3n));
    const [first, second, third] = await pendingOf(rig.plugin, 3);
    third?.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 3n });
    first?.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    second?.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  });

  test.each([1, 1000, 300 * KiB, 3 * 1024 * KiB])(
    'hands over a WRITE of %d bytes as it was sent',
    async (length) => {
      await using rig = await ConnectionRig.create(new FakePlugin());
      const { client } = await rig.open();
      const data = pattern(length);
      client.send(write(512, data, 1n), flush(2n));
      const [call] = await pendingOf(rig.plugin, 2);
      expect(call).toMatchObject({ operation: 'write', offset: 512, length });
      expect(Buffer.from(call?.data ?? []).equals(data)).toBe(true);
      call?.resolve();
      expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    },
  );

  test('reads header and payload byte by byte', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin());
    const { client } = await rig.open();
    const data = pattern(5);
    for (const byte of join(write(0, data, 7n), flush(8n))) {
      client.send(Uint8Array.of(byte));
      await nextTurn();
    }
    const [call] = await pendingOf(rig.plugin, 2);
    expect([...(call?.data ?? [])]).toEqual([...data]);
  });

  test('a refused request is answered and the next one executed', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate', { isReadOnly: true }));
    const { client } = await rig.open();
    client.send(write(0, pattern(200 * KiB), 1n), read(rig.plugin.info.size, 1, 2n), flush(3n));
    expect(await client.takeSimpleReply()).toEqual({ errno: 1, cookie: 1n });
    expect(await client.takeSimpleReply()).toEqual({ errno: 22, cookie: 2n });
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 3n });
    expect(rig.plugin.handle.calls).toMatchObject([{ operation: 'flush' }]);
  });

  test('wrong framing cuts the connection and says so in the log', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const { client, connection } = await rig.open();
    client.send(new Uint8Array(28));
    await connection.closed;
    await client.ended;
    expect(rig.log.at('warn')).toMatchObject([{ fields: { code: 'ERR_NBD_BAD_MAGIC' } }]);
    expectNothingLeft(rig);
  });
});

describe('back-pressure', () => {
  test('stops taking requests on when their bytes are used up, and goes on when one is answered', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin());
    const { client } = await rig.open();
    client.send(read(0, PAYLOAD_BYTES_MAX, 1n), read(0, PAYLOAD_BYTES_MAX, 2n), read(0, 1, 3n), flush(4n));
    const [first] = await pendingOf(rig.plugin, 2);
    await settle();
    expect(rig.plugin.handle.calls).toHaveLength(2);
    expect(rig.budget.bytes).toBe(2 * PAYLOAD_BYTES_MAX);
    first?.reject(new Error('The reply of an error is short'));
    expect(await client.takeSimpleReply()).toEqual({ errno: 5, cookie: 1n });
    await pendingOf(rig.plugin, 3);
    expect(rig.budget.bytes).toBe(PAYLOAD_BYTES_MAX + 1);
  });

  test('bounds requests without bytes', async () => {
    const max = CONNECTION_INFLIGHT_REQUESTS_MAX;
    await using rig = await ConnectionRig.create(new FakePlugin());
    const { client } = await rig.open();
    client.send(...Array.from({ length: max + 2 }, (_, index) => flush(BigInt(index))));
    const [first] = await pendingOf(rig.plugin, max);
    await settle();
    expect(rig.plugin.handle.calls).toHaveLength(max);
    first?.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 0n });
    await eventually('the next request is taken on', () =>
      rig.plugin.handle.calls.length === max + 1 ? true : undefined,
    );
  });

  test('a small request gets through although others have used up the bytes of the process', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin());
    rig.budget.take(PROCESS_INFLIGHT_BYTES_MAX);
    const { client } = await rig.open();
    const large = pattern(CONNECTION_INFLIGHT_BYTES_ASSURED + 1);
    client.send(read(0, CONNECTION_INFLIGHT_BYTES_ASSURED, 1n), write(0, large, 2n), flush(3n));
    await pendingOf(rig.plugin, 1);
    await settle();
    expect(rig.plugin.handle.calls).toHaveLength(1);
    rig.budget.give(PROCESS_INFLIGHT_BYTES_MAX);
    const [, second] = await pendingOf(rig.plugin, 3);
    expect(Buffer.from(second?.data ?? []).equals(large)).toBe(true);
  });

  test('a request that is waiting when the client goes away is never executed', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    rig.budget.take(PROCESS_INFLIGHT_BYTES_MAX);
    const { client, connection } = await rig.open();
    client.send(write(0, pattern(CONNECTION_INFLIGHT_BYTES_ASSURED + 1), 1n));
    await settle();
    client.socket.destroy();
    connection.cut();
    await connection.closed;
    rig.budget.give(PROCESS_INFLIGHT_BYTES_MAX);
    await settle();
    expect(rig.plugin.handle.calls).toEqual([]);
    expectNothingLeft(rig);
  });

  test('a request that is waiting when the server shuts down is not executed behind the goodbye', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    rig.budget.take(PROCESS_INFLIGHT_BYTES_MAX);
    const { client, connection } = await rig.open();
    client.send(write(0, pattern(CONNECTION_INFLIGHT_BYTES_ASSURED + 1), 1n));
    await settle();
    connection.shutDown();
    rig.budget.give(PROCESS_INFLIGHT_BYTES_MAX);
    await connection.closed;
    expect(rig.plugin.handle.calls).toEqual([]);
    expectNothingLeft(rig);
  });

  test('a request that is waiting when the connection is cut is not executed', async () => {
    const max = CONNECTION_INFLIGHT_REQUESTS_MAX;
    await using rig = await ConnectionRig.create(new FakePlugin());
    const { client, connection } = await rig.open();
    client.send(...Array.from({ length: max + 10 }, (_, index) => flush(BigInt(index))));
    const pending = await pendingOf(rig.plugin, max);
    await settle();
    for (const call of pending) call.resolve();
    connection.cut();
    await settle();
    expect(rig.plugin.handle.calls).toHaveLength(max);
    await connection.closed;
    expectNothingLeft(rig);
  });

  test('the replies of BLOCK_STATUS count, too: a client that does not read them is not served without end', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const { client } = await rig.connect();
    await client.take(18);
    client.send(MODERN, option(OPT.STRUCTURED_REPLY), setMetaContext('', ['base:allocation']), go(''));
    for (let count = 0; count < 5; count += 1) await client.takeOptionReply();
    client.socket.pause();
    const extents = Array.from({ length: EXTENT_COUNT_MAX }, (_, index) => {
      const isHole = index % 2 === 0;
      return { length: 4096, isHole, isZero: isHole };
    });
    rig.plugin.handle.extentsFound = extents;
    const count = 900;
    const status = { type: CMD.BLOCK_STATUS, length: EXTENT_COUNT_MAX * 4096 };
    client.send(...Array.from({ length: count }, () => request(status)), flush(1n));
    await eventually('the server has stopped, or served them all', async () => {
      const before = rig.plugin.handle.calls.length;
      await settle();
      return before > 0 && rig.plugin.handle.calls.length === before ? true : undefined;
    });
    const replyBytes = 8 * EXTENT_COUNT_MAX;
    expect(rig.plugin.handle.calls.length * replyBytes).toBeLessThanOrEqual(
      CONNECTION_INFLIGHT_BYTES_MAX + 1024 * KiB,
    );
  });

  test('a client that reads nothing stops being served, and another one is served on', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const { client: greedy } = await rig.open();
    greedy.socket.pause();
    greedy.send(...Array.from({ length: 8 }, (_, index) => read(0, PAYLOAD_BYTES_MAX, BigInt(index))));
    await eventually('the greedy client has used up its bytes', () =>
      rig.budget.bytes === 2 * PAYLOAD_BYTES_MAX ? true : undefined,
    );
    await settle();
    expect(rig.plugin.handle.calls).toHaveLength(2);
    const { client: modest } = await rig.open();
    modest.send(flush(1n));
    expect(await modest.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
  });
});

describe('a goodbye', () => {
  test('DISC answers what is in flight, then ends; nothing behind it is executed', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin());
    const { client, connection } = await rig.open();
    client.send(flush(1n), flush(2n), DISC, flush(3n));
    const [first, second] = await pendingOf(rig.plugin, 2);
    second?.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
    expect(rig.plugin.handle.closeCount).toBe(0);
    first?.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    await client.ended;
    client.socket.end();
    await connection.closed;
    expect(rig.plugin.handle.calls).toHaveLength(2);
    expectNothingLeft(rig);
  });

  test('a client that has closed its half still gets its answers', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin());
    const { client, connection } = await rig.open();
    client.send(read(0, 300 * KiB, 1n), flush(2n));
    client.socket.end();
    const [first, second] = await pendingOf(rig.plugin, 2);
    await settle();
    first?.target?.fill(9);
    first?.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    expect(Buffer.from(await client.take(300 * KiB)).equals(Buffer.alloc(300 * KiB, 9))).toBe(true);
    second?.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
    await client.ended;
    await connection.closed;
    expectNothingLeft(rig);
  });

  test('a half-closed client whose requests had to wait gets all of its answers', async () => {
    const count = CONNECTION_INFLIGHT_REQUESTS_MAX + 100;
    await using rig = await ConnectionRig.create(new FakePlugin('deferred'));
    const { client, connection } = await rig.open();
    client.send(...Array.from({ length: count }, (_, index) => flush(BigInt(index))));
    client.socket.end();
    const cookies = new Set<bigint>();
    for (let index = 0; index < count; index += 1) cookies.add((await client.takeSimpleReply()).cookie);
    expect(cookies.size).toBe(count);
    await connection.closed;
    expectNothingLeft(rig);
  });

  test('in the middle of a payload ends the connection; the WRITE is not executed', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const { client, connection } = await rig.open();
    client.send(flush(1n), write(0, pattern(300 * KiB), 2n).subarray(0, 200 * KiB));
    client.socket.end();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    await client.ended;
    await connection.closed;
    expect(rig.plugin.handle.calls).toMatchObject([{ operation: 'flush' }]);
    expectNothingLeft(rig);
  });

  test('a client that does not close its side after DISC is cut off', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const { client, connection } = await rig.open();
    client.send(DISC);
    await connection.closed;
    expectNothingLeft(rig);
  });
});

describe('a client that disappears', () => {
  const SESSION = join(
    MODERN,
    go(''),
    write(0, pattern(40), 1n),
    read(0, 100, 2n),
    write(0, pattern(300 * KiB), 3n),
    flush(4n),
  );
  const HEADERS_END = 4 + 24 + 28 + 40 + 28 + 28;
  const CUTS = [
    ...Array.from({ length: HEADERS_END + 1 }, (_, position) => position),
    ...[
      HEADERS_END + 64 * KiB,
      HEADERS_END + 300 * KiB - 1,
      SESSION.length - 28,
      SESSION.length - 1,
      SESSION.length,
    ],
  ];

  test.each(['immediate', 'deferred'] as const)('at any byte leaves nothing behind (%s)', async (pace) => {
    await using rig = await ConnectionRig.create(new FakePlugin(pace));
    for (const cut of CUTS) {
      const { client, connection } = await rig.connect();
      client.send(SESSION.subarray(0, cut));
      // Odd ones at once, even ones after the server has read.
      if (cut % 2 === 0) await settle();
      client.socket.destroy();
      await connection.closed;
      expectNothingLeft(rig);
    }
    expect(rig.plugin.handles.length).toBeGreaterThan(50);
  });

  test('while requests are in flight: the handle is closed once, when the last of them has ended', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin());
    const { client, connection } = await rig.open();
    client.send(read(0, 300 * KiB, 1n), flush(2n), write(0, pattern(300 * KiB), 3n));
    const calls = await pendingOf(rig.plugin, 3);
    client.socket.destroy();
    connection.cut();
    await settle();
    for (const [index, call] of calls.entries()) {
      expect(rig.plugin.handle.closeCount).toBe(0);
      if (index === 1) call.reject(new Error('Also a way to end'));
      else call.resolve();
      await settle();
    }
    await connection.closed;
    expectNothingLeft(rig);
  });

  test('while its export is being opened: the handle is closed all the same', async () => {
    const plugin = new FakePlugin('immediate');
    let finishOpening = (): void => {};
    let beginsOpening = (): void => {};
    const opening = new Promise<void>((resolve) => {
      beginsOpening = resolve;
    });
    plugin.beforeOpen = () => {
      beginsOpening();
      return new Promise<void>((resolve) => {
        finishOpening = resolve;
      });
    };
    await using rig = await ConnectionRig.create(plugin);
    const { client, connection } = await rig.connect();
    client.send(MODERN, go(''));
    await opening;
    client.socket.destroy();
    connection.cut();
    await settle();
    finishOpening();
    await connection.closed;
    expect(plugin.handle.closeCount).toBe(1);
  });

  test('gives every buffer back to the pool', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('deferred'));
    const { client, connection } = await rig.open();
    client.send(read(0, 300 * KiB, 1n), write(0, pattern(300 * KiB), 2n), flush(3n));
    await settle();
    client.socket.destroy();
    await connection.closed;
    expect(rig.pool.outCount).toBe(0);
  });
});

describe('the handshake', () => {
  test('refuses an export that does not exist and goes on', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const { client } = await rig.connect();
    await client.take(18);
    client.send(MODERN, go('nothing'), go(''));
    expect(await client.takeOptionReply()).toMatchObject({ type: REP.ERR_UNKNOWN });
    expect(await client.takeOptionReply()).toMatchObject({ type: REP.INFO });
    expect(await client.takeOptionReply()).toMatchObject({ type: REP.ACK });
    client.send(flush(1n));
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    expect(rig.plugin.handles).toHaveLength(1);
  });

  test('tells of an export that cannot be opened and goes on', async () => {
    const plugin = new FakePlugin('immediate');
    plugin.beforeOpen = () => {
      throw new Error('No');
    };
    await using rig = await ConnectionRig.create(plugin);
    const { client } = await rig.connect();
    await client.take(18);
    client.send(MODERN, go(''));
    expect(await client.takeOptionReply()).toMatchObject({ option: OPT.GO, type: REP.ERR_UNKNOWN });
    plugin.beforeOpen = () => {};
    client.send(go(''));
    expect(await client.takeOptionReply()).toMatchObject({ type: REP.INFO });
  });

  test('INFO and LIST open nothing', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const { client, connection } = await rig.connect();
    await client.take(18);
    client.send(MODERN, option(OPT.LIST), option(OPT.INFO, new Uint8Array(6)), option(OPT.ABORT));
    const types = [];
    for (let count = 0; count < 5; count += 1) types.push((await client.takeOptionReply()).type);
    expect(types).toEqual([REP.SERVER, REP.ACK, REP.INFO, REP.ACK, REP.ACK]);
    await client.ended;
    client.socket.end();
    await connection.closed;
    expect(rig.plugin.handles).toEqual([]);
  });

  test('requests that come in one packet with GO are answered', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const { client } = await rig.connect();
    await client.take(18);
    client.send(MODERN, go(''), flush(1n), read(0, 4, 2n));
    await client.takeOptionReply();
    await client.takeOptionReply();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  });

  test.each<[string, (client: Client) => void]>([
    ['says nothing', () => {}],
    ['is not done', (client) => client.send(MODERN, option(OPT.LIST))],
  ])('of a client that %s ends at its deadline', async (_, act) => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'), 1);
    const { client, connection } = await rig.connect();
    act(client);
    await connection.closed;
    await client.ended;
    expect(rig.log.at('warn')).toHaveLength(1);
  });

  test('has no deadline any more once the export is open', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'), 1);
    const { client: quick } = await rig.open();
    const { connection: slow } = await rig.connect();
    // The deadline of the slow one comes after that of the quick one.
    await slow.closed;
    quick.send(flush(1n));
    expect(await quick.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
  });
});

describe('shutDown', () => {
  test('answers what is in flight, refuses what is new, then ends', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin());
    const { client, connection } = await rig.open();
    client.send(read(0, 200 * KiB, 1n));
    const [old] = await pendingOf(rig.plugin, 1);
    connection.shutDown();
    client.send(flush(2n), write(0, pattern(100 * KiB), 3n));
    expect(await client.takeSimpleReply()).toEqual({ errno: ESHUTDOWN, cookie: 2n });
    expect(await client.takeSimpleReply()).toEqual({ errno: ESHUTDOWN, cookie: 3n });
    old?.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    await client.take(200 * KiB);
    await client.ended;
    await connection.closed;
    expect(rig.plugin.handle.calls).toHaveLength(1);
    expectNothingLeft(rig);
  });

  test('ends idle connections at once, also such as do not answer', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const idle = await rig.open();
    const inHandshake = await rig.connect();
    idle.connection.shutDown();
    inHandshake.connection.shutDown();
    await Promise.all([idle.connection.closed, inHandshake.connection.closed]);
    expectNothingLeft(rig);
  });

  test('in the middle of a payload ends the connection', async () => {
    await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
    const { client, connection } = await rig.open();
    client.send(write(0, pattern(300 * KiB), 1n).subarray(0, 200 * KiB));
    await eventually('the payload is charged', () => (rig.budget.bytes === 300 * KiB ? true : undefined));
    connection.shutDown();
    await connection.closed;
    expect(rig.plugin.handle.calls).toEqual([]);
    expectNothingLeft(rig);
  });
});
