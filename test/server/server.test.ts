/** The server as a whole: how many it serves at a time, and its orderly end. */
import { closeSync, readdirSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { Counters } from '../../src/server/counters.ts';
import { ExportRegistry } from '../../src/server/export-registry.ts';
import { Server, type Threads } from '../../src/server/server.ts';
import { CMD, request } from '../protocol/naive-client.ts';
import { eventually } from '../support/polling.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';
import { Client } from './client.ts';
import { FakeLog } from './fake-log.ts';
import { FakePlugin } from './fake-plugin.ts';

class ServerRig implements AsyncDisposable {
  readonly log = new FakeLog();
  readonly counters = new Counters(false);
  readonly server: Server;
  readonly path: string;
  readonly #directory: TemporaryDirectory;

  private constructor(
    directory: TemporaryDirectory,
    plugin: FakePlugin,
    connectionCountMax: number,
    threads: Threads | undefined,
  ) {
    this.#directory = directory;
    this.path = directory.file('socket');
    this.server = new Server({
      registry: new ExportRegistry([{ name: '', description: '', plugin }]),
      log: this.log,
      counters: this.counters,
      connectionCountMax,
      handshakeSeconds: 60,
      busyPollMicroseconds: 50,
      tls: undefined,
      threads,
    });
    this.server.listen(native.listen_unix(this.path, 0o600, 128));
  }

  static async create(
    plugin: FakePlugin,
    connectionCountMax = 100,
    threads: Threads | undefined = undefined,
  ): Promise<ServerRig> {
    return new ServerRig(await temporaryDirectory(), plugin, connectionCountMax, threads);
  }

  connect(): Promise<Client> {
    return Client.connect(this.path);
  }

  async open(): Promise<Client> {
    const client = await this.connect();
    await client.open();
    return client;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // A test about an end that fails has seen the reason already.
    await this.server.close().catch(() => {});
    await this.#directory[Symbol.asyncDispose]();
  }
}

const FLUSH = request({ type: CMD.FLUSH, cookie: 1n });
const OK = { errno: 0, cookie: 1n };

function descriptorCount(): number {
  return readdirSync('/proc/self/fd').length;
}

test('serves many connections, each with its own handle', async () => {
  const plugin = new FakePlugin('immediate');
  await using rig = await ServerRig.create(plugin);
  const clients = await Promise.all(Array.from({ length: 20 }, () => rig.open()));
  for (const client of clients) client.send(FLUSH);
  for (const client of clients) expect(await client.takeSimpleReply()).toEqual(OK);
  expect(plugin.handles.map(({ calls }) => calls.length)).toEqual(clients.map(() => 1));
  expect(rig.server.connectionCount).toBe(20);
  for (const client of clients) client.socket.destroy();
  await eventually('all connections are closed', () => (rig.server.connectionCount === 0 ? true : undefined));
  expect(plugin.handles.every(({ closeCount }) => closeCount === 1)).toBe(true);
});

test('closes one connection too many at once, and takes another one when there is room', async () => {
  await using rig = await ServerRig.create(new FakePlugin('immediate'), 2);
  const first = await rig.open();
  const second = await rig.open();
  const third = await rig.connect();
  await third.ended;
  await expect(third.take(1)).rejects.toThrow('ended');
  expect(rig.log.at('warn')).toMatchObject([{ fields: { connectionCountMax: 2 } }]);
  first.send(FLUSH);
  expect(await first.takeSimpleReply()).toEqual(OK);
  second.socket.destroy();
  await eventually('there is room', () => (rig.server.connectionCount === 1 ? true : undefined));
  const fourth = await rig.open();
  fourth.send(FLUSH);
  expect(await fourth.takeSimpleReply()).toEqual(OK);
});

/** Other threads, of which the tests say how busy they are; their connections stay open until `close`. */
class FakeThreads implements Threads {
  readonly served: number[] = [];
  closeCount = 0;
  leastConnectionCount = Number.POSITIVE_INFINITY;
  failure: Error | undefined;

  get connectionCount(): number {
    return this.served.length;
  }

  serve(fd: number, number: number): Promise<boolean> {
    this.served.push(number);
    closeSync(fd);
    return new Promise(() => {});
  }

  async close(): Promise<void> {
    this.closeCount += 1;
    if (this.failure !== undefined) throw this.failure;
  }
}

test('serves itself what no other thread has fewer connections for', async () => {
  const threads = new FakeThreads();
  const plugin = new FakePlugin('immediate');
  await using rig = await ServerRig.create(plugin, 5, threads);
  // They are not ready.
  await rig.open();
  await rig.open();
  threads.leastConnectionCount = 1;
  await (await rig.connect()).ended;
  expect(threads.served).toEqual([3]);
  threads.leastConnectionCount = 2;
  await rig.open();
  expect(threads.served).toEqual([3]);
  expect(rig.server.connectionCount).toBe(4);
  threads.leastConnectionCount = 0;
  await (await rig.connect()).ended;
  expect(threads.served).toEqual([3, 5]);
  // The bound holds for all of them together.
  await (await rig.connect()).ended;
  expect(threads.served).toEqual([3, 5]);
  await rig.server.close();
  expect(threads.closeCount).toBe(1);
  expect(plugin.closeCount).toBe(1);
});

test.each([
  [undefined, 16],
  [2, 16],
  [4, 8],
  [64, 4],
])('of %s threads that serve each has a pool of %d', (threadCount, expected) => {
  const setPoolSize = vi.spyOn(native, 'set_pool_size').mockImplementation(() => {});
  new Server({
    registry: new ExportRegistry([]),
    log: new FakeLog(),
    counters: new Counters(false),
    connectionCountMax: 1,
    handshakeSeconds: 60,
    busyPollMicroseconds: 50,
    tls: undefined,
    ...(threadCount === undefined ? {} : { threadCount }),
  });
  expect(setPoolSize.mock.calls).toEqual([[expected]]);
  setPoolSize.mockRestore();
});

test('a thread that cannot close fails the close, and its own connections end all the same', async () => {
  const threads = new FakeThreads();
  threads.failure = new Error('They do not end');
  const plugin = new FakePlugin('immediate');
  await using rig = await ServerRig.create(plugin, 5, threads);
  const client = await rig.open();
  await expect(rig.server.close()).rejects.toThrow('They do not end');
  await client.ended;
  expect(plugin.handles.map(({ closeCount }) => closeCount)).toEqual([1]);
});

test('leaks no descriptor', async () => {
  const plugin = new FakePlugin('immediate');
  await using rig = await ServerRig.create(plugin, 3);
  const before = descriptorCount();
  for (let round = 0; round < 20; round += 1) {
    const clients = await Promise.all(Array.from({ length: 5 }, () => rig.connect()));
    for (const client of clients) client.socket.destroy();
    await eventually('the connections of a round are closed', () =>
      rig.server.connectionCount === 0 ? true : undefined,
    );
  }
  await eventually('every descriptor is closed', () => (descriptorCount() === before ? true : undefined));
});

test('close answers what is in flight, stops accepting, and closes handles before exports', async () => {
  const plugin = new FakePlugin();
  await using rig = await ServerRig.create(plugin);
  const busy = await rig.open();
  const idle = await rig.open();
  const silent = await rig.connect();
  busy.send(FLUSH);
  await eventually('the request is in flight', () => plugin.handles[0]?.pending[0]);
  let handlesAtClose: number[] = [];
  plugin.beforeClose = () => {
    handlesAtClose = plugin.handles.map(({ closeCount }) => closeCount);
  };
  const closed = rig.server.close();
  expect(rig.server.close()).toBe(closed);
  await Promise.all([idle.ended, silent.ended]);
  await expect(rig.connect()).rejects.toThrow(/ECONNREFUSED/);
  await nextTurn();
  expect(plugin.closeCount).toBe(0);
  plugin.handles[0]?.pending[0]?.resolve();
  expect(await busy.takeSimpleReply()).toEqual(OK);
  await closed;
  expect(plugin.closeCount).toBe(1);
  expect(handlesAtClose).toEqual([1, 1]);
});

test('close flushes what others were answered when requests in flight do not end', async () => {
  const settling: FakePlugin[] = [];
  /** A plugin with one request that never ends and one that is answered; the end of its server. */
  const endOf = async (flush: () => Promise<void>): Promise<{ rig: ServerRig; plugin: FakePlugin }> => {
    const plugin = new FakePlugin();
    Object.assign(plugin, {
      settle: () => {
        settling.push(plugin);
        return flush();
      },
    });
    await using rig = await ServerRig.create(plugin);
    const hung = await rig.open();
    const other = await rig.open();
    for (const client of [hung, other]) client.send(FLUSH);
    await eventually(
      'both are in flight',
      () => plugin.handles[0]?.pending[0] && plugin.handles[1]?.pending[0],
    );
    plugin.handles[1]?.pending[0]?.resolve();
    expect(await other.takeSimpleReply()).toEqual(OK);
    await expect(rig.server.close()).rejects.toThrow('Requests in flight do not end');
    return { rig, plugin };
  };
  const flushed = endOf(async () => {});
  const failing = endOf(() => Promise.reject(new Error('fdatasync failed')));
  const hanging = endOf(() => new Promise(() => {}));
  for (const [{ rig, plugin }, message] of [
    [await flushed, 'The exports were flushed although requests are still in flight'],
    [await failing, 'The last flush failed'],
    [await hanging, 'The last flush does not end within 5 s'],
  ] as const) {
    expect(settling.filter((one) => one === plugin)).toHaveLength(1);
    // The request in flight may use what it would close.
    expect(plugin.closeCount).toBe(0);
    expect(rig.log.lines.at(-1)?.message).toBe(message);
  }
}, 30_000);

test('close rejects when acknowledged data may be lost', async () => {
  const plugin = new FakePlugin();
  plugin.beforeClose = () => {
    throw new Error('fdatasync failed');
  };
  await using rig = await ServerRig.create(plugin);
  await expect(rig.server.close()).rejects.toThrow('fdatasync failed');
});

test('close cuts a client off that does not read its replies', async () => {
  const plugin = new FakePlugin('immediate');
  await using rig = await ServerRig.create(plugin);
  const client = await rig.open();
  client.socket.pause();
  client.send(request({ type: CMD.READ, length: 32 * 1024 * 1024 }));
  await eventually('the reply is on its way', () => plugin.handle.calls[0]);
  await rig.server.close();
  expect(rig.log.at('warn')).toHaveLength(1);
  expect(plugin.handle.closeCount).toBe(1);
  expect(plugin.closeCount).toBe(1);
});
