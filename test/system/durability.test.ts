/** Storage that fails after it was trusted: what clients are told, what the operator sees, and for how long. */
import { truncate } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { attempt } from '../support/command.ts';
import { type OverpromisedFileSystem, overpromisedFileSystem } from '../support/failing-storage.ts';
import { createFullImage, createImage, expectBytes, noise } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { CACHE_MODES, type LogLine, type NbdServer, startServer } from '../support/server.ts';
import { MiB, scratchFileSystem } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const IMAGE_BYTES = 32 * MiB;

/** `told(call, ...)` is the errno that a call fails with, as a name; "success" when it does not fail. */
const TOLD = `
def told(call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        return errno.errorcode[error.errnum]
    return 'success'
FUA = nbd.CMD_FLAG_FUA
`;

/** On connections of their own: everything that promises durability. */
const EVERY_PROMISE = `
h = [connect() for _ in range(int(arguments[0]))]
print(json.dumps([told(h[-1].flush), told(h[0].flush), told(h[0].pwrite, bytearray(512), 0, FUA),
                  told(h[-1].zero, 4096, 0, FUA), told(h[-1].trim, 4096, 0, FUA),
                  told(h[-1].flush)]))
for each in h: each.shutdown()
`;

/** Small windows, so that write-back is waited for while data flows and its error is consumed there. */
function cacheOptions(cache: string): string[] {
  return cache === 'none'
    ? ['--cache', 'none', '--windows', '1', '--window-size', '64K']
    : ['--cache', cache];
}

async function everyPromise(server: NbdServer, connections: number): Promise<string[]> {
  return JSON.parse(await python(server.uri, TOLD + EVERY_PROMISE, [String(connections)])) as string[];
}

function lossLines(server: NbdServer): LogLine[] {
  return server.log.filter(({ msg }) => msg?.startsWith('Acknowledged data was lost') === true);
}

/** To be called when the server has ended: only then the log is complete. */
function expectLossLogged(server: NbdServer): void {
  const [line] = lossLines(server);
  expect(line, server.stderr).toMatchObject({
    level: 50,
    operation: expect.stringMatching(/^(sync_file_range|fdatasync)$/),
    errno: expect.stringMatching(/^(ENOSPC|EIO)$/),
    offset: expect.any(Number),
    length: expect.any(Number),
    lossCount: 1,
  });
  expect(Number(line?.['length'])).toBeGreaterThan(0);
  const ranges = lossLines(server).map(({ operation, errno, offset, length }) =>
    [operation, errno, offset, length].join(' '),
  );
  expect(ranges.filter((range, index) => range === ranges[index - 1])).toEqual([]);
}

async function endsWithFailure(server: NbdServer): Promise<void> {
  server.signal('SIGTERM');
  const { code, signal } = await server.ended();
  expect({ signal, failed: code !== 0 && code !== null }, server.stderr).toEqual({
    signal: null,
    failed: true,
  });
}

/** 4 MiB that the page cache takes and the disk does not: every write is acknowledged. */
const LOSE = `
h = [connect() for _ in range(int(arguments[0]))]
for index, offset in enumerate(range(8 << 20, 12 << 20, 32768)):
    h[index % len(h)].pwrite(bytearray(b'x' * 32768), offset)
`;

async function servedOnFullStore(
  fileSystem: OverpromisedFileSystem,
  cache: string,
  ...options: string[]
): Promise<NbdServer> {
  const image = await fileSystem.createImage('disk.img', IMAGE_BYTES);
  const server = await startServer(['file', image, ...cacheOptions(cache), ...options]);
  await fileSystem.fill();
  return server;
}

describe.each(['ext4', 'xfs'] as const)(
  'write-back that fails on %s after the write was acknowledged',
  (type) => {
    test.each([
      ...CACHE_MODES.flatMap((cache) => [1, 3].map((connections) => [cache, connections, 1] as const)),
      // The loss is met in one thread, and told to all of them.
      ...CACHE_MODES.map((cache) => [cache, 3, type === 'ext4' ? 2 : 3] as const),
    ])('is never forgotten, --cache %s, %i connections, %i threads', async (cache, connections, threads) => {
      await using fileSystem = await overpromisedFileSystem(type);
      await using server = await servedOnFullStore(fileSystem, cache, '--threads', String(threads));
      const script = `${TOLD}${LOSE}
# One connection after the other, the writers last: FLUSH and FUA count for all of them.
print(json.dumps([told(each.flush) for each in reversed(h)] + [told(each.flush) for each in h]
                 + [told(each.pwrite, bytearray(512), 0, FUA) for each in h]))
`;
      const [first, ...later] = JSON.parse(
        await python(server.uri, script, [String(connections)]),
      ) as string[];
      expect(['ENOSPC', 'EIO']).toContain(first);
      expect(new Set(later)).toEqual(new Set(['EIO']));
      // Also on connections that never wrote.
      expect(new Set(await everyPromise(server, connections))).toEqual(new Set(['EIO']));

      await fileSystem.free();
      // The disk works again: writes succeed, and the promise stays broken.
      await python(server.uri, 'connect().pwrite(bytearray(4096), 8 << 20)');
      expect(new Set(await everyPromise(server, connections))).toEqual(new Set(['EIO']));
      await endsWithFailure(server);
      expectLossLogged(server);
    });
  },
);

describe('write-back that fails', () => {
  test('in the background, while nobody asks, is told to the next FLUSH', async () => {
    await using fileSystem = await overpromisedFileSystem('ext4');
    await using server = await servedOnFullStore(fileSystem, 'none');
    await python(server.uri, "connect().pwrite(bytearray(b'x' * 4096), 8 << 20)");
    // The connection is closed, its window drained: the kernel has told its error and will not tell it again.
    await eventually('the loss is in the log', () => (lossLines(server).length > 0 ? true : undefined));
    const [first, ...later] = await everyPromise(server, 2);
    expect(['ENOSPC', 'EIO']).toContain(first);
    expect(new Set(later)).toEqual(new Set(['EIO']));
    await endsWithFailure(server);
    expectLossLogged(server);
  });

  test.each(CACHE_MODES)('at the shutdown makes the exit code non-zero, --cache %s', async (cache) => {
    await using fileSystem = await overpromisedFileSystem('ext4');
    await using server = await servedOnFullStore(fileSystem, cache);
    await python(server.uri, LOSE, ['1']);
    await endsWithFailure(server);
    expectLossLogged(server);
  });

  test.each([
    ['default', 1],
    ['none', 1],
    ['none', 2],
  ])('ends the server with --on-flush-error exit, --cache %s, %i threads', async (cache, threads) => {
    await using fileSystem = await overpromisedFileSystem('ext4');
    const options = ['--on-flush-error', 'exit', '--threads', String(threads)];
    await using server = await servedOnFullStore(fileSystem, cache, ...options);
    // The loss is met in the last of the threads, the main one only where there is no other.
    const others = `others = [connect() for _ in range(${threads - 1})]`;
    const told = await python(server.uri, `${TOLD}${others}\n${LOSE}\nprint(told(h[0].flush))`, ['1']).catch(
      () => 'cut off',
    );
    expect(told).not.toContain('success');
    const { code, signal } = await server.ended();
    expect({ signal, failed: code !== 0 && code !== null }, server.stderr).toEqual({
      signal: null,
      failed: true,
    });
    expectLossLogged(server);
  });

  test('is explained in the message of a structured reply', async () => {
    await using fileSystem = await overpromisedFileSystem('ext4');
    await using server = await servedOnFullStore(fileSystem, 'default');
    const script = `${LOSE}
h[0].set_debug(True)
messages = []
h[0].set_debug_callback(lambda context, message: messages.append(message) and 0 or 0)
for _ in range(2):
    try:
        h[0].flush()
    except nbd.Error:
        pass
print('\\n'.join(messages))
`;
    expect(await python(server.uri, script, ['1'])).toMatch(
      /was lost.*fdatasync of \d+ bytes at \d+ failed with/,
    );
    await endsWithFailure(server);
  });
});

describe('a file system that is full when the write comes', () => {
  test.each(CACHE_MODES)('answers ENOSPC, and nothing is latched, --cache %s', async (cache) => {
    await using fileSystem = await scratchFileSystem('ext4', 24 * MiB);
    const [image, filler] = [fileSystem.file('disk.img'), fileSystem.file('filler')];
    await createImage(image, 64 * MiB);
    await using server = await startServer(['file', image, ...cacheOptions(cache)]);
    await python(server.uri, "h = connect(); h.pwrite(bytearray(b'k' * 65536), 0); h.flush()");
    await attempt(['dd', 'if=/dev/zero', `of=${filler}`, 'bs=64K', 'status=none']);
    const script = `${TOLD}
h = connect()
outcomes = [told(h.pwrite, bytearray(b'x' * 65536), offset) for offset in range(1 << 20, 33 << 20, 65536)]
assert outcomes[-1] == 'ENOSPC', outcomes
assert set(outcomes) <= {'success', 'ENOSPC'}, outcomes
assert told(h.pwrite, bytearray(b'y' * (1 << 20)), 40 << 20) == 'ENOSPC'
assert told(h.pwrite, bytearray(b'y' * 4096), 40 << 20, FUA) in ('ENOSPC', 'success')
# What was acknowledged has its blocks: it can still be made durable.
print(told(h.flush))
`;
    expect((await python(server.uri, script)).trim()).toBe('success');
    await attempt(['rm', filler]);
    await python(
      server.uri,
      "h = connect(); h.pwrite(bytearray(b'z' * 4096), 40 << 20, nbd.CMD_FLAG_FUA); h.flush()",
    );
    await server.stop();
    expect(lossLines(server)).toEqual([]);
    await expectBytes(image, 0, Buffer.alloc(65_536, 'k'));
    await expectBytes(image, 40 * MiB, Buffer.alloc(4096, 'z'));
  });

  test('and has a limit for the size of files answers ENOSPC, too', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, 4 * MiB);
    // EFBIG: bytes past RLIMIT_FSIZE cannot be written. Node ignores SIGXFSZ.
    await using server = await startServer(['file', image], { through: ['prlimit', '--fsize=1048576'] });
    const script = `${TOLD}
h = connect()
print(json.dumps([told(h.pwrite, bytearray(4096), 0), told(h.pwrite, bytearray(4096), 2 << 20),
                  told(h.pwrite, bytearray(1 << 20), 2 << 20), told(h.flush)]))
`;
    expect(JSON.parse(await python(server.uri, script))).toEqual(['success', 'ENOSPC', 'ENOSPC', 'success']);
  });
});

test.each(CACHE_MODES)(
  'what a truncated file lacks is EIO, neither zeros nor a crash, --cache %s',
  async (cache) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, 4 * MiB);
    await using server = await startServer(['file', image, '--cache', cache]);
    await truncate(image, MiB + 1000);
    const script = `${TOLD}
M = 1 << 20
h = connect(setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
big = connect()
def now(*calls):
    return [told(*call) for call in calls]
gone = now((h.pread, 4096, 2 * M), (h.pread, 4096, M), (h.pread, M, 3 * M), (h.pread, 4 * M, 0),
           (h.pwrite, bytearray(512), 2 * M), (big.pwrite, bytearray(M), 3 * M), (h.pwrite, bytearray(4096), M),
           (h.pwrite, bytearray(512), 4 * M - 512, FUA), (h.zero, 4096, 2 * M), (h.trim, 4096, 2 * M),
           (h.zero, 4096, 2 * M, nbd.CMD_FLAG_NO_HOLE), (status, h, M, 2 * M), (status, h, 512, M + 1000))
there = now((h.pread, M, 0), (h.pread, 1000, M), (h.pwrite, bytearray(b'w' * 1000), M), (h.zero, 4096, 4096),
            (h.trim, 4096, 8192), (h.flush,), (h.pwrite, bytearray(b'f' * 512), 0, FUA))
print(json.dumps([gone, there, sum(length for length, _ in status(h, 4 * M, 0))]))
`;
    const [gone, there, mapped] = JSON.parse(await python(server.uri, script)) as [
      string[],
      string[],
      number,
    ];
    expect(new Set(gone), gone.join()).toEqual(new Set(['EIO']));
    expect(new Set(there), there.join()).toEqual(new Set(['success']));
    // A map that covers the request from its start, and ends where the file ends.
    expect(mapped).toBe(MiB + 1000);
    await server.stop();
    await expectBytes(image, 16_384, noise(MiB, 0).subarray(16_384));
    expect((await attempt(['stat', '--format=%s', image])).stdout.trim()).toBe(String(MiB + 1000));
  },
);
