/** Clients that mean harm: what they hold is bounded, others are served meanwhile, and nothing stays behind. */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { mutate } from '../fuzz/mutate.ts';
import { RECORDED_SESSIONS } from '../fuzz/recorded-sessions.ts';
import { Cleanup } from '../support/cleanup.ts';
import { attempt, run } from '../support/command.ts';
import { expectDescriptorCount, expectGoodService, idleDescriptorCount } from '../support/health.ts';
import { createImage } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { PYTHON } from '../support/python.ts';
import { randomNumbers } from '../support/random.ts';
import { CLIENT_FLAGS, COMMAND, encodeGo, encodeRequest, RawClient } from '../support/raw-client.ts';
import { LOGGED, type NbdServer, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { tlsInit } from '../support/tls-files.ts';

const RSS_MIB_MAX = 400;
const IMAGE_BYTES = 64 * MiB;
const LARGEST_PAYLOAD = 32 * MiB;

class Rig implements AsyncDisposable {
  readonly server: NbdServer;
  /** Descriptors of the server while nobody is connected. */
  readonly idleDescriptors: number;
  readonly #cleanup: Cleanup;

  private constructor(server: NbdServer, idleDescriptors: number, cleanup: Cleanup) {
    this.server = server;
    this.idleDescriptors = idleDescriptors;
    this.#cleanup = cleanup;
  }

  /** A server of 64 MiB of data. */
  static async start(...args: readonly string[]): Promise<Rig> {
    const cleanup = new Cleanup();
    try {
      const directory = cleanup.use(await temporaryDirectory());
      const image = directory.file('disk.img');
      await createImage(image, IMAGE_BYTES, [{ offset: 0, length: IMAGE_BYTES }]);
      const server = cleanup.use(await startServer(['file', image, '--threads', '2', ...args]));
      return new Rig(server, await idleDescriptorCount(server), cleanup);
    } catch (error) {
      await cleanup[Symbol.asyncDispose]();
      throw error;
    }
  }

  async connect(count: number): Promise<RawClient[]> {
    const clients: RawClient[] = [];
    for (let index = 0; index < count; index++) {
      clients.push(this.#cleanup.use(await RawClient.connect(this.server)));
    }
    return clients;
  }

  /** Clients that have opened the export. */
  async open(count: number): Promise<RawClient[]> {
    const clients = await this.connect(count);
    for (const client of clients) await client.handshake();
    return clients;
  }

  /** Everything is as it was before. */
  async expectHealth(): Promise<void> {
    await expectDescriptorCount(this.server, this.idleDescriptors);
    await expectGoodService(this.server);
    await expectDescriptorCount(this.server, this.idleDescriptors);
    expect(await run(['nbdinfo', '--size', this.server.uri])).toBe(`${IMAGE_BYTES}\n`);
    this.#expectNoErrors();
  }

  #expectNoErrors(): void {
    expect(this.server.stderr).not.toMatch(/uncaught|unhandled|\bBug:/i);
    expect(this.server.log.filter(({ level }) => level >= 50)).toEqual([]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup[Symbol.asyncDispose]();
    // Only now the log is complete.
    this.#expectNoErrors();
  }
}

async function leave(clients: readonly RawClient[]): Promise<void> {
  await Promise.all(clients.map((client) => client.leave()));
}

/** A field of /proc/PID/status in MiB: VmRSS, or VmHWM, which is the highest VmRSS ever. */
async function memory(server: NbdServer, field: 'VmRSS' | 'VmHWM'): Promise<number> {
  const status = await readFile(`/proc/${server.pid}/status`, 'utf8');
  const [, kibibytes] = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status) ?? [];
  if (kibibytes === undefined) throw new Error(`no ${field} in ${status}`);
  return Number(kibibytes) / 1024;
}

/** User and system time of a process, in ticks of a hundredth of a second. */
async function cpuTicks(server: NbdServer): Promise<number> {
  const stat = await readFile(`/proc/${server.pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

/** How often the event loop's thread of a server has gone to sleep: each poll is one more. */
async function sleepCount(server: NbdServer): Promise<number> {
  const status = await readFile(`/proc/${server.pid}/task/${server.pid}/status`, 'utf8');
  return Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)?.[1]);
}

/** Waits until a server takes no more memory. */
async function settledMemory(server: NbdServer): Promise<void> {
  let before = -1;
  await eventually('the memory of the server has stopped growing', async () => {
    await sleep(300);
    const now = await memory(server, 'VmRSS');
    const isSettled = Math.abs(now - before) < 1;
    before = now;
    return isSettled ? true : undefined;
  });
}

async function expectSmallRequestsServed(server: NbdServer): Promise<void> {
  await using client = await RawClient.connect(server);
  await client.handshake();
  for (let index = 0; index < 20; index++) {
    const cookie = BigInt(index);
    await client.send(encodeRequest({ type: COMMAND.read, cookie, offset: index * 4096, length: 4096 }));
    expect(await client.receiveReply(4096)).toEqual({ error: 0, cookie });
    await client.send(
      encodeRequest({ type: COMMAND.write, cookie, offset: MiB, data: Buffer.alloc(4096, index) }),
    );
    expect(await client.receiveReply()).toEqual({ error: 0, cookie });
  }
}

const READ_LARGEST = encodeRequest({ type: COMMAND.read, cookie: 1n, offset: 0, length: LARGEST_PAYLOAD });
const GREETING_BYTES = 18;

describe('half-open connections', () => {
  test('200 that say nothing do not keep a good client out', async () => {
    await using rig = await Rig.start();
    const idle = await rig.connect(200);
    await expectGoodService(rig.server);
    // Each was greeted, so it is the client that is waited for.
    for (const client of idle) expect(await client.receive(GREETING_BYTES)).toHaveLength(GREETING_BYTES);
    await leave(idle);
    await rig.expectHealth();
  });

  test('beyond --max-connections are closed at once, without a byte, and logged', async () => {
    await using rig = await Rig.start('--max-connections', '50');
    const countOfRefused = (): number =>
      rig.server.log.filter(({ msg }) => msg?.startsWith('Too many connections')).length;
    // A thread tells the main one of a connection that is closed: those of before may count for a moment.
    const idle = await eventually('there is room for 50', async () => {
      const clients = await rig.connect(50);
      try {
        for (const client of clients) await client.receive(GREETING_BYTES);
        return clients;
      } catch {
        await leave(clients);
        return undefined;
      }
    });
    const refusedBefore = countOfRefused();
    const refused = await rig.connect(30);
    for (const client of refused) {
      await expect(client.receive(1)).rejects.toThrow('closed the connection');
      await client.leave();
    }
    await expect.poll(() => countOfRefused() - refusedBefore, LOGGED).toBe(30);
    await expect.poll(() => rig.server.descriptorCount(), LOGGED).toBe(rig.idleDescriptors + 50);
    // Those that were there before are still served.
    const [first] = idle;
    await first?.send(Buffer.concat([CLIENT_FLAGS, encodeGo('')]));
    expect(await first?.receive(20)).toHaveLength(20);
    await leave(idle);
    await rig.expectHealth();
  });

  test('are cut at the handshake deadline, which nothing extends, and good clients stay', async () => {
    await using rig = await Rig.start('--handshake-timeout', '1');
    const [good] = await rig.open(1);
    const silent = await rig.connect(50);
    const dripping = await rig.connect(50);
    // Options that the server answers, one byte at a time: ever new ones, and each is legal.
    const bytes = Buffer.concat([
      CLIENT_FLAGS,
      ...Array.from({ length: 100 }, () => encodeGo('no such export')),
    ]);
    const drips = dripping.map(async (client) => {
      client.socket.resume();
      let count = 0;
      while (!client.socket.destroyed && !client.socket.readableEnded && count < bytes.length) {
        await client.send(bytes.subarray(count, count + 1));
        count += 1;
        await sleep(20);
      }
      return count;
    });
    for (const client of silent) {
      await client.receive(GREETING_BYTES);
      await expect(client.receive(1)).rejects.toThrow('closed the connection');
    }
    // The deadline, not the end of what there was to say, ended them.
    for (const count of await Promise.all(drips)) expect(count).toBeLessThan(bytes.length);
    await expect
      .poll(
        () => rig.server.log.filter(({ msg }) => msg?.startsWith('No export was opened within 1 s')),
        LOGGED,
      )
      .toHaveLength(100);
    await good?.send(encodeRequest({ type: COMMAND.read, cookie: 9n, offset: 0, length: 512 }));
    expect(await good?.receiveReply(512)).toEqual({ error: 0, cookie: 9n });
    await leave([...silent, ...dripping, ...(good === undefined ? [] : [good])]);
    await rig.expectHealth();
  });
});

describe('connections that open no export', () => {
  test('400 over TCP in the middle of a long option: memory is bounded, and comes back', async () => {
    await using rig = await Rig.start('--port', '0', '--handshake-timeout', '3600');
    await expectSmallRequestsServed(rig.server);
    await settledMemory(rig.server);
    const before = await memory(rig.server, 'VmRSS');
    const clients = await rig.connect(400);
    // A GO of 1 MiB, all but its last byte: it is skipped, through the receive buffer.
    const option = Buffer.concat([CLIENT_FLAGS, encodeGo('x'.repeat(MiB))]).subarray(0, -1);
    await Promise.all(clients.map((client) => client.send(option)));
    await settledMemory(rig.server);
    await expectSmallRequestsServed(rig.server);
    expect((await memory(rig.server, 'VmHWM')) - before).toBeLessThan(100);
    await leave(clients);
    await rig.expectHealth();
    await expect
      .poll(async () => (await memory(rig.server, 'VmRSS')) - before, { timeout: 30_000, interval: 500 })
      .toBeLessThan(50);
  });
});

describe('readers that never read', () => {
  test.each<[string, Buffer]>([
    ['one READ of 32 MiB', READ_LARGEST],
    ['64 pipelined READs of 32 MiB', Buffer.concat(Array.from({ length: 64 }, () => READ_LARGEST))],
    [
      '20,000 pipelined READs of 4 KiB',
      Buffer.concat(
        Array.from({ length: 20_000 }, (_, index) =>
          encodeRequest({
            type: COMMAND.read,
            cookie: BigInt(index),
            offset: (index % 4096) * 4096,
            length: 4096,
          }),
        ),
      ),
    ],
  ])(
    '20 of them with %s each: memory is bounded and small requests are answered',
    async (_what, requests) => {
      await using rig = await Rig.start();
      const clients = await rig.open(20);
      for (const client of clients) {
        client.socket.pause();
        // Not awaited: the server stops reading, too.
        void client.send(requests);
      }
      await settledMemory(rig.server);
      await expectSmallRequestsServed(rig.server);
      expect(await memory(rig.server, 'VmHWM')).toBeLessThan(RSS_MIB_MAX);
      await leave(clients);
      await rig.expectHealth();
      expect(await memory(rig.server, 'VmHWM')).toBeLessThan(RSS_MIB_MAX);
    },
  );

  test('20 of them over TLS with READs of 32 MiB each: memory is bounded as in plaintext', async () => {
    await using directory = await temporaryDirectory();
    const certificates = directory.file('tls');
    await tlsInit(certificates);
    await using rig = await Rig.start('--port', '0', '--tls', 'allow', '--tls-certificates', certificates);
    const requests = Buffer.concat(Array.from({ length: 64 }, () => READ_LARGEST));
    const clients: RawClient[] = [];
    try {
      for (let count = 0; count < 20; count++) {
        const client = await RawClient.openSecurely(rig.server);
        clients.push(client);
        client.socket.pause();
        void client.send(requests);
      }
      await settledMemory(rig.server);
      await expectSmallRequestsServed(rig.server);
      expect(await memory(rig.server, 'VmHWM')).toBeLessThan(RSS_MIB_MAX);
    } finally {
      await leave(clients);
    }
    await rig.expectHealth();
    expect(await memory(rig.server, 'VmHWM')).toBeLessThan(RSS_MIB_MAX);
  });

  test('of option replies are not answered without end', async () => {
    await using rig = await Rig.start('--handshake-timeout', '3600');
    const clients = await rig.connect(20);
    const options = Buffer.concat([
      CLIENT_FLAGS,
      ...Array.from({ length: 1000 }, () => encodeGo('x'.repeat(4000))),
    ]);
    for (const client of clients) {
      client.socket.pause();
      void client.send(options);
    }
    await settledMemory(rig.server);
    await expectSmallRequestsServed(rig.server);
    expect(await memory(rig.server, 'VmHWM')).toBeLessThan(RSS_MIB_MAX);
    await leave(clients);
    await rig.expectHealth();
  });
});

describe('claims', () => {
  test('of 32 MiB by 100 clients that send 1 byte: memory is bounded, and what they held is there again', async () => {
    await using rig = await Rig.start();
    const clients = await rig.open(100);
    const claim = encodeRequest({ type: COMMAND.write, cookie: 1n, offset: 0, length: LARGEST_PAYLOAD });
    for (const client of clients) await client.send(Buffer.concat([claim, Buffer.of(1)]));
    await settledMemory(rig.server);
    await expectSmallRequestsServed(rig.server);
    expect(await memory(rig.server, 'VmHWM')).toBeLessThan(RSS_MIB_MAX);
    await leave(clients);
    await rig.expectHealth();
    // The budget of the whole process is free: one client after the other gets the largest of requests.
    for (const reader of await rig.open(10)) {
      await reader.send(READ_LARGEST);
      expect(await reader.receiveReply(LARGEST_PAYLOAD)).toEqual({ error: 0, cookie: 1n });
      await reader.leave();
    }
    await rig.expectHealth();
    expect(await memory(rig.server, 'VmHWM')).toBeLessThan(RSS_MIB_MAX);
  });

  test('of a long option by 100 clients that send 1 byte of it take no memory', async () => {
    await using rig = await Rig.start('--handshake-timeout', '3600');
    const clients = await rig.connect(100);
    const before = await memory(rig.server, 'VmRSS');
    for (const client of clients) {
      const claim = Buffer.concat([
        CLIENT_FLAGS,
        Buffer.from('IHAVEOPT'),
        Buffer.from('0000000700040000', 'hex'),
      ]);
      await client.send(Buffer.concat([claim, Buffer.of(1)]));
    }
    await expectGoodService(rig.server);
    expect((await memory(rig.server, 'VmRSS')) - before).toBeLessThan(100);
    await leave(clients);
    await rig.expectHealth();
  });
});

test('headers that come in byte by byte from 50 clients at once are understood, and others are served', async () => {
  await using rig = await Rig.start();
  const clients = await rig.open(50);
  const read = encodeRequest({ type: COMMAND.read, cookie: 7n, offset: 0, length: 512 });
  const drips = clients.map(async (client) => {
    for (const byte of read) {
      await client.send(Buffer.of(byte));
      await sleep(5);
    }
    return client.receiveReply(512);
  });
  await expectSmallRequestsServed(rig.server);
  for (const reply of await Promise.all(drips)) expect(reply).toEqual({ error: 0, cookie: 7n });
  await leave(clients);
  await rig.expectHealth();
});

test('clients killed with -9 at any point leave nothing behind', async () => {
  await using rig = await Rig.start();
  const script = `
import os, signal, socket, sys
path, count, session = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
s = socket.socket(socket.AF_UNIX)
s.connect(path)
s.sendall(session[:count])
# Dies with replies unread and, mostly, in the middle of a message.
os.kill(os.getpid(), signal.SIGKILL)
`;
  const session = Buffer.from(RECORDED_SESSIONS['structured'] ?? []);
  const random = randomNumbers(9);
  const points = Array.from({ length: 48 }, () => random(session.length + 1));
  const kill = async (count: number): Promise<void> => {
    const command = [
      PYTHON,
      '-c',
      script,
      rig.server.socketPath,
      String(count),
      session.toString('hex'),
    ] as const;
    await expect(attempt(command)).rejects.toThrow('SIGKILL');
  };
  for (let index = 0; index < points.length; index += 8) {
    await Promise.all(points.slice(index, index + 8).map(kill));
  }
  await rig.expectHealth();
});

test('2,000 mutated sessions in parallel leave the server healthy', async () => {
  await using rig = await Rig.start();
  const random = randomNumbers(2000);
  const sessions = Object.values(RECORDED_SESSIONS);
  const pick = (): Uint8Array => sessions[random(sessions.length)] ?? new Uint8Array(0);
  const hurt = async (bytes: Uint8Array, manners: number): Promise<void> => {
    await using client = await RawClient.connect(rig.server);
    if (manners > 0) client.socket.resume();
    const sent = client.send(Buffer.from(bytes));
    if (manners === 0) {
      // Leaves at once, its replies unread.
      await Promise.race([sent, client.closed, sleep(50)]);
      return;
    }
    client.halfClose();
    await client.closed;
  };
  for (let batch = 0; batch < 20; batch++) {
    await Promise.all(Array.from({ length: 100 }, () => hurt(mutate(pick(), pick(), random), random(4))));
  }
  await expect
    .poll(() => rig.server.log.filter(({ msg }) => msg === 'Connection opened').length, LOGGED)
    .toBeGreaterThanOrEqual(2000);
  await rig.expectHealth();
  expect(await memory(rig.server, 'VmHWM')).toBeLessThan(RSS_MIB_MAX);
});

/** On a busy machine V8's collection, and what comes after it, falls into several of ten seconds. */
const IDLE_MS_MAX = 150_000;

test('an idle server with ten idle connections uses no CPU over ten seconds', async () => {
  await using rig = await Rig.start();
  const clients = await rig.open(10);
  for (const client of clients) {
    await client.send(encodeRequest({ type: COMMAND.read, cookie: 1n, offset: 0, length: 4096 }));
    expect(await client.receiveReply(4096)).toEqual({ error: 0, cookie: 1n });
  }
  // V8 collects garbage once when it has had nothing to do for some 8 s; whoever polls does so all the time.
  await eventually(
    'ten seconds in which nothing happens',
    async () => {
      const before = { ticks: await cpuTicks(rig.server), sleeps: await sleepCount(rig.server) };
      await sleep(10_000);
      const ticks = (await cpuTicks(rig.server)) - before.ticks;
      const sleeps = (await sleepCount(rig.server)) - before.sleeps;
      return ticks <= 1 && sleeps === 0 ? true : undefined;
    },
    IDLE_MS_MAX,
  );
  await leave(clients);
  await rig.expectHealth();
});
