/** `--threads`: several threads serve one image, and no client can tell. */
import { existsSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { call } from '../../src/native/call.ts';
import { Cleanup } from '../support/cleanup.ts';
import { attempt, run } from '../support/command.ts';
import { expectDescriptorCount, expectGoodService, idleDescriptorCount } from '../support/health.ts';
import {
  createFullImage,
  createImage,
  evict,
  expectSameContent,
  noise,
  readRange,
} from '../support/image.ts';
import { PageCacheProbe } from '../support/page-cache.ts';
import { eventually } from '../support/polling.ts';
import { PYTHON, python } from '../support/python.ts';
import { COMMAND, encodeRequest, RawClient } from '../support/raw-client.ts';
import { CACHE_MODES, expectRefusal, type NbdServer, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

/** Of the whole export, however many threads serve it. */
const WRITING_PEAK_MAX = 32 * MiB;
const READING_PEAK_MAX = 64 * MiB;

const MORTAL_SERVER = resolve('test/support/mortal-server.mjs');

/** Four connections that write where they like, and read what the others wrote, against a model of the image. */
const TOGETHER = `
import random
random.seed(int(arguments[0]))
SIZE = 16 << 20
model = bytearray(SIZE)
h = [connect() for _ in range(4)]
buffers = {}
for _ in range(24):
    # Ranges that do not overlap, all in flight together: overlapping ones have no order.
    cuts = sorted(random.sample(range(SIZE), 24))
    cookies = [[] for _ in h]
    for index, (begin, end) in enumerate(zip(cuts[0::2], cuts[1::2])):
        length = min(end - begin, random.choice([1, 511, 4096, 65536, 300000]))
        data = bytearray(os.urandom(length))
        model[begin:begin + length] = data
        cookies[index % 4].append(h[index % 4].aio_pwrite(nbd.Buffer.from_bytearray(data), begin))
    for each, wanted in zip(h, cookies):
        finish(each, wanted)
    for index in range(8):
        begin = random.randrange(SIZE - 200000)
        assert h[index % 4].pread(200000, begin) == model[begin:begin + 200000], begin
h[1].zero(123456, 777); model[777:777 + 123456] = bytes(123456)
h[2].trim(1 << 20, 3 << 20); model[3 << 20:4 << 20] = bytes(1 << 20)
h[3].flush()
for each in h:
    assert each.pread(SIZE // 2, 0) == model[:SIZE // 2]
    assert each.pread(SIZE // 2, SIZE // 2) == model[SIZE // 2:]
for path in arguments[1:]:
    with open(path, 'rb') as file:
        assert file.read() == model
`;

async function expectNothingResident(what: string, probe: PageCacheProbe): Promise<void> {
  let last = -1;
  await eventually(`${what}: nothing is resident`, async () => {
    last = await probe.residentBytes();
    return last === 0 ? true : undefined;
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}; ${last} bytes are`);
  });
}

describe.each(CACHE_MODES.flatMap((cache) => [2, 4].map((threads) => [cache, threads] as const)))(
  'with --cache %s and %i threads',
  (cache, threads) => {
    test('nbdcopy over 4 connections copies in and out', async () => {
      await using directory = await temporaryDirectory();
      const [source, image, copy] = ['source', 'disk', 'copy'].map((name) => directory.file(name)) as [
        string,
        string,
        string,
      ];
      const size = 40 * MiB + 513;
      await createFullImage(source, size);
      await using server = await startServer([
        ...['file', image, '--create', String(size), '--cache', cache],
        ...['--threads', String(threads)],
      ]);
      await run(['nbdcopy', '--connections=4', '--threads=2', '--flush', source, server.uri]);
      await expectSameContent(source, image);
      await using probe = await PageCacheProbe.open(image);
      await probe.evict();
      await run(['nbdcopy', '--connections=4', '--threads=2', server.uri, copy]);
      if (cache === 'none') await expectNothingResident('read', probe);
      await server.stop();
      await expectSameContent(source, copy);
    });

    test('connections in all threads see one disk', async () => {
      await using directory = await temporaryDirectory();
      const image = directory.file('disk.img');
      await createImage(image, 16 * MiB);
      await using server = await startServer([
        ...['file', image, '--cache', cache],
        ...['--threads', String(threads)],
      ]);
      await python(server.uri, TOGETHER, [String(threads), image]);
    });
  },
);

test('without --threads, connections that come before and after the second thread see one RAM disk', async () => {
  await using server = await startServer(['memory', '16M']);
  for (let round = 0; round < 4; round += 1) {
    await python(server.uri, TOGETHER, [String(round)]);
    await python(server.uri, 'connect().zero(16 << 20, 0)');
  }
});

/** Dirty pages and pages under write-back. */
async function unwrittenPages(path: string): Promise<number> {
  await using file = await open(path, 'r');
  const counts = new Float64Array(5);
  const result = await call((done) => {
    native.cachestat(file.fd, 0, 0, counts, done);
  });
  expect(result).toBe(0);
  return (counts[1] ?? 0) + (counts[2] ?? 0);
}

test.each(CACHE_MODES.flatMap((cache) => ['main', 'second'].map((who) => [cache, who] as const)))(
  'FLUSH covers what another thread was answered, --cache %s, the %s thread flushes',
  async (cache, who) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, 16 * MiB);
    await using server = await startServer(['file', image, '--cache', cache, '--threads', '2']);
    // The main thread has the first connection.
    await using first = await RawClient.connect(server);
    await first.handshake();
    await using second = await RawClient.connect(server);
    await second.handshake();
    const [writer, flusher] = who === 'main' ? [second, first] : [first, second];
    for (let round = 0; round < 8; round += 1) {
      // Less than a window: with --cache none it is still filling.
      const data = noise(100_000 + round, round);
      await writer.send(encodeRequest({ type: COMMAND.write, offset: round * MiB, data }));
      expect(await writer.receiveReply()).toMatchObject({ error: 0 });
      expect(await unwrittenPages(image)).toBeGreaterThan(0);
      await flusher.send(encodeRequest({ type: COMMAND.flush }));
      expect(await flusher.receiveReply()).toMatchObject({ error: 0 });
      expect(await unwrittenPages(image)).toBe(0);
    }
  },
);

test.each(['flush', 'idle'])('nothing is resident after %s, in whichever thread', async (how) => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, 128 * MiB);
  await evict(image);
  await using probe = await PageCacheProbe.open(image);
  await using server = await startServer(['file', image, '--cache', 'none', '--threads', '2']);
  await using cleanup = new Cleanup();
  const clients: RawClient[] = [];
  for (let count = 0; count < 4; count += 1) clients.push(cleanup.use(await RawClient.connect(server)));
  for (const [index, client] of clients.entries()) {
    await client.handshake();
    for (let turn = index; turn < 64; turn += 4) {
      const data = noise(70_000, turn);
      await client.send(encodeRequest({ type: COMMAND.write, offset: turn * MiB + 777, data }));
      expect(await client.receiveReply()).toMatchObject({ error: 0 });
      const read = { type: COMMAND.read, offset: (64 + ((turn + 1) % 64)) * MiB + 1001, length: 100_000 };
      await client.send(encodeRequest(read));
      expect(await client.receiveReply(read.length)).toMatchObject({ error: 0 });
    }
  }
  if (how === 'flush') {
    await clients[1]?.send(encodeRequest({ type: COMMAND.flush }));
    expect(await clients[1]?.receiveReply()).toMatchObject({ error: 0 });
  }
  await expectNothingResident(how, probe);
  for (const client of clients) {
    const read = { type: COMMAND.read, offset: 3 * MiB, length: 100_000 };
    await client.send(encodeRequest(read));
    expect(await client.receiveReply(read.length)).toMatchObject({ error: 0 });
    await client.leave();
  }
  await expectNothingResident('close', probe);
  await server.stop();
  expect(await probe.residentBytes()).toBe(0);
});

test.each([
  [2, 2],
  [32, 4],
])(
  'requests of %i MiB over 4 connections keep the bounds of one thread, %i threads',
  async (mib, threads) => {
    await using directory = await temporaryDirectory();
    const [source, image] = [directory.file('source.img'), directory.file('disk.img')];
    await createFullImage(source, 128 * MiB);
    await createImage(image, 128 * MiB);
    await using probe = await PageCacheProbe.open(image);
    await using server = await startServer([
      ...['file', image, '--cache', 'none'],
      ...['--threads', String(threads)],
    ]);
    const copy = ['--connections=4', '--threads=2', '--requests=4', `--request-size=${mib * MiB}`] as const;
    const written = await probe.peakDuring(run(['nbdcopy', ...copy, '--flush', source, server.uri]));
    const read = await probe.peakDuring(run(['nbdcopy', ...copy, server.uri, 'null:']));
    process.stdout.write(`peaks: ${(written / MiB).toFixed(1)} and ${(read / MiB).toFixed(1)} MiB\n`);
    expect(written).toBeLessThanOrEqual(WRITING_PEAK_MAX);
    expect(read).toBeLessThanOrEqual(READING_PEAK_MAX);
    await server.stop();
    await expectSameContent(source, image);
  },
);

test('--keep-resident spares what was there before, and nothing that another thread has read', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, 64 * MiB);
  await evict(image);
  await using probe = await PageCacheProbe.open(image);
  await run(['dd', `if=${image}`, 'of=/dev/null', 'bs=1M', 'skip=32', 'count=2', 'status=none']);
  // What dd has read; its read-ahead went on behind that, and nobody counts on those pages.
  const kept = { offset: 32 * MiB, length: 2 * MiB };
  expect(await probe.keptBytes(kept.offset, kept.length)).toBe(kept.length);
  const options = ['--cache', 'none', '--keep-resident', '--threads', '2'];
  await using server = await startServer(['file', image, ...options]);
  const script = `
h = [connect() for _ in range(2)]
for offset in range(0, 32 << 20, 1 << 20):
    for each in h:
        each.pread(65536, offset)
        each.pread(65536, offset + 500000)
`;
  await python(server.uri, script);
  await eventually('the rest has left', async () =>
    (await probe.residentBytes(0, kept.offset)) === 0 ? true : undefined,
  );
  expect(await probe.keptBytes(kept.offset, kept.length)).toBe(kept.length);
});

test('--max-connections counts those of all threads', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  const options = ['--threads', '3', '--max-connections', '5'];
  await using server = await startServer(['file', image, ...options]);
  const clients: RawClient[] = [];
  try {
    for (let count = 0; count < 5; count += 1) {
      const client = await RawClient.connect(server);
      clients.push(client);
      await client.handshake();
    }
    await using refused = await RawClient.connect(server);
    await expect(refused.receive(1)).rejects.toThrow('closed the connection');
    await clients[2]?.leave();
    await eventually('there is room again', async () => {
      await using client = await RawClient.connect(server);
      return await client.handshake().then(
        () => true as const,
        () => undefined,
      );
    });
  } finally {
    for (const client of clients) await client.leave();
  }
});

test('SIGTERM lets requests in flight finish in every thread', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  const [pieces, length] = [96, 128 * 1024];
  await createImage(image, 2 * pieces * length);
  await using server = await startServer(['file', image, '--cache', 'none', '--threads', '2']);
  await using one = await RawClient.connect(server);
  await using other = await RawClient.connect(server);
  await using idle = await RawClient.connect(server);
  const data = noise(length, 3);
  const acknowledged: number[] = [];
  const ends = await Promise.all(
    [one, other].map(async (client, half) => {
      await client.handshake();
      const indexes = Array.from({ length: pieces }, (_, index) => half * pieces + index);
      const requests = indexes.map((index) =>
        encodeRequest({ type: COMMAND.write, cookie: BigInt(index), offset: index * length, data }),
      );
      void client.send(Buffer.concat(requests));
      const replies = async (): Promise<void> => {
        for (;;) {
          const { error, cookie } = await client.receiveReply();
          if (error === 0) acknowledged.push(Number(cookie));
        }
      };
      return { end: replies().catch(String) };
    }),
  );
  await eventually('both are answered', () =>
    [0, 1].every((half) => acknowledged.some((index) => Math.floor(index / pieces) === half))
      ? true
      : undefined,
  );
  await server.stop();
  for (const { end } of ends) expect(await end).toContain('closed the connection');
  for (const index of acknowledged) {
    const found = await readRange(image, { offset: index * length, length });
    expect(found.equals(data), `acknowledged write ${index}`).toBe(true);
  }
  await idle.receive(18);
  await expect(idle.receive(1)).rejects.toThrow('closed the connection');
});

const WRITE_FOR_EVER = `
import sys, nbd
handles = [nbd.NBD() for _ in range(4)]
for h in handles:
    h.connect_uri(sys.argv[1])
block = nbd.Buffer.from_bytearray(bytearray(b'k' * (1 << 20)))
i = 0
while True:
    for h in handles:
        while h.aio_in_flight() < 16:
            h.aio_pwrite(block, (i % 64) << 20)
            i += 1
        h.poll(-1)
        while h.aio_peek_command_completed() > 0:
            h.aio_command_completed(h.aio_peek_command_completed())
`;

test('a client killed while it writes over 4 connections leaves nothing behind', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, 64 * MiB);
  await using server = await startServer(['file', image, '--cache', 'none', '--threads', '2']);
  const count = await idleDescriptorCount(server);
  for (let round = 0; round < 2; round += 1) {
    let kill: () => unknown = () => undefined;
    const outcome = attempt([PYTHON, '-c', WRITE_FOR_EVER, server.uri], {
      started: (child) => {
        kill = () => child.kill('SIGKILL');
      },
    }).then(() => 'it ended by itself', String);
    await eventually('all its connections are open', async () =>
      (await server.descriptorCount()) >= count + 4 ? true : undefined,
    ).finally(() => kill());
    expect(await outcome).toContain('SIGKILL');
    await expectDescriptorCount(server, count);
  }
  await expectGoodService(server);
});

describe('a thread that', () => {
  interface Death {
    readonly code: number;
    readonly stderr: string;
    /** What both clients saw. */
    readonly client: string;
  }

  /** Opens a connection in each of the two threads, and makes the second one, which is not the main one, die. */
  async function dieOf(request: string): Promise<Death> {
    await using directory = await temporaryDirectory();
    const socket = directory.file('nbd.sock');
    const end = attempt([process.execPath, MORTAL_SERVER, socket]);
    await eventually('it listens', () => (existsSync(socket) ? true : undefined));
    const script = `
first, second = connect(), connect()
assert first.pread(4096, 0) == bytearray(4096)
try:
    second.${request}(4096, 0)
    print('answered')
except nbd.Error:
    # The other thread may still serve for a moment.
    while first.aio_is_ready():
        try:
            first.pread(4096, 0)
        except nbd.Error:
            print('both cut off')
            break
`;
    const client = await python(`nbd+unix:///?socket=${socket}`, script);
    const { code, stderr } = await end;
    expect(existsSync(socket), 'the socket is removed').toBe(false);
    return { code, stderr, client };
  }

  test.each([
    ['throws', 'trim', /Thread 1 ended: This thread was told to die/],
    ['exits', 'zero', /Thread 1 ended: exit code 3/],
  ])('%s ends the server, for all clients, with one line', async (_how, request, reason) => {
    const { code, stderr, client } = await dieOf(request);
    expect(code, stderr).toBe(1);
    expect(client.trim()).toBe('both cut off');
    const lines = stderr
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as { level: number; err?: { message: string } })
      .filter(({ level }) => level >= 40);
    expect(lines, stderr).toHaveLength(1);
    expect(lines[0]).toMatchObject({ level: 60, err: { message: expect.stringMatching(reason) } });
  });

  test('cannot begin fails the start, before anything listens', async () => {
    await using directory = await temporaryDirectory();
    const socket = directory.file('nbd.sock');
    const { code, stdout, stderr } = await attempt([process.execPath, MORTAL_SERVER, socket, 'refuse']);
    expect(code).toBe(1);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^Thread \d ended: This thread does not like its data\n$/);
    expect(existsSync(socket)).toBe(false);
  });
});

test('an image that another server holds is refused as ever', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server: NbdServer = await startServer(['file', image, '--threads', '2']);
  const again = ['file', image, '--threads', '2', '--unix', directory.file('again.sock')];
  expect(await expectRefusal(again, { lines: 3 })).toContain('is locked');
  await server.stop();
});
