/** The system calls behind the promises: one fdatasync for every FLUSH, none without need, and each one failing. */
import { describe, expect, test } from 'vitest';
import { createFullImage, createImage } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { CACHE_MODES, type NbdServer, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { callsIn, callsUntilEnd, faults, straceTo } from '../support/strace.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const SYNCS = ['fdatasync', 'fsync', 'sync', 'syncfs', 'msync'];
const TRACE = ['-e', 'trace=fdatasync,fsync,sync,syncfs,msync,sync_file_range,pwritev2'];

interface Traced {
  readonly cache: string;
  readonly image: string;
  readonly log: string;
}

async function startTraced({ cache, image, log }: Traced, ...options: string[]): Promise<NbdServer> {
  return startServer(['file', image, '--cache', cache, ...options], { through: straceTo(log, ...TRACE) });
}

describe.each(CACHE_MODES)('with --cache %s', (cache) => {
  test('every FLUSH and every FUA is one fdatasync', async () => {
    await using directory = await temporaryDirectory();
    const [image, log] = [directory.file('disk.img'), directory.file('strace')];
    await createImage(image, 4 * MiB);
    await using server = await startTraced({ cache, image, log });
    expect(await callsIn(log, SYNCS)).toEqual([]);
    await python(server.uri, 'h = connect()\nfor _ in range(5): h.flush()\nh.shutdown()');
    expect(await callsIn(log, SYNCS)).toEqual(Array(5).fill('fdatasync'));
    await python(
      server.uri,
      `
h = connect()
h.pwrite(bytearray(b'f' * 4096), 0, nbd.CMD_FLAG_FUA)
h.pwrite(bytearray(b'f' * (1 << 20)), 1 << 20, nbd.CMD_FLAG_FUA)
h.zero(4096, 0, nbd.CMD_FLAG_FUA)
h.trim(4096, 8192, nbd.CMD_FLAG_FUA)
h.pwrite(bytearray(b'p' * 4096), 0)
h.flush()
h.flush()
h.shutdown()
`,
    );
    await server.stop();
    // Nothing has changed since the last FLUSH: the shutdown has nothing to do.
    expect(await callsUntilEnd(log, SYNCS)).toEqual(Array(11).fill('fdatasync'));
  });

  test('reading and doing nothing need none, and neither does the shutdown after it', async () => {
    await using directory = await temporaryDirectory();
    const [image, log] = [directory.file('disk.img'), directory.file('strace')];
    await createFullImage(image, 4 * MiB);
    await using server = await startTraced({ cache, image, log }, '--log-level', 'debug');
    await python(server.uri, 'h = connect(); h.pread(4 << 20, 0); h.pread(512, 512); h.shutdown()');
    await eventually('the connection is closed', () =>
      server.log.some(({ msg }) => msg === 'Connection closed') ? true : undefined,
    );
    await server.stop();
    expect(await callsUntilEnd(log, SYNCS)).toEqual([]);
  });

  test.each([
    ['a small write', 'h.pwrite(bytearray(4096), 0)'],
    ['a large write', 'h.pwrite(bytearray(1 << 20), 0)'],
    ['a zero', 'h.zero(4096, 0)'],
    ['a trim', 'h.trim(4096, 0)'],
  ])('%s that no FLUSH followed is one at the shutdown', async (_what, change) => {
    await using directory = await temporaryDirectory();
    const [image, log] = [directory.file('disk.img'), directory.file('strace')];
    await createFullImage(image, 4 * MiB);
    await using server = await startTraced({ cache, image, log });
    await python(server.uri, `h = connect(); h.flush(); ${change}; h.shutdown()`);
    expect(await callsIn(log, SYNCS)).toEqual(['fdatasync']);
    await server.stop();
    expect(await callsUntilEnd(log, SYNCS)).toEqual(['fdatasync', 'fdatasync']);
  });
});

test('a new image is made durable by name: its directory is synced before anything is served', async () => {
  await using directory = await temporaryDirectory();
  const [image, log] = [directory.file('new.img'), directory.file('strace')];
  await using server = await startTraced({ cache: 'default', image, log }, '--create', '1M');
  expect(await callsIn(log, SYNCS)).toEqual(['fsync']);
  await server.stop();
});

const TOLD = `
def told(call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        return errno.errorcode[error.errnum]
    return 'success'
FUA = nbd.CMD_FLAG_FUA
h, other = connect(), connect()
`;

const LARGE = 'h.pwrite, bytearray(1 << 20), 0';

/** The payload of the second one goes to the file as it comes in. */
const LARGE_TWICE = 'lambda: [h.pwrite(bytearray(1 << 20), index << 20) for index in range(2)]';

interface Fault {
  readonly injection: string;
  readonly cache: string;
  /** Python: what meets the fault, as arguments of told(). */
  readonly call: string;
  readonly answer: string;
  /** Of the first FLUSH after it. */
  readonly flush: string;
}

const LATCHED: readonly Fault[] = [
  { injection: 'fdatasync:error=EIO:when=1', cache: 'default', call: 'h.flush', answer: 'EIO', flush: 'EIO' },
  {
    injection: 'fdatasync:error=EDQUOT:when=1',
    cache: 'none',
    call: 'h.flush',
    answer: 'ENOSPC',
    flush: 'EIO',
  },
  {
    injection: 'pwritev2:error=EIO:when=1',
    cache: 'default',
    call: 'h.pwrite, bytearray(512), 0',
    answer: 'EIO',
    flush: 'EIO',
  },
  { injection: 'pwritev2:error=EIO:when=1', cache: 'none', call: LARGE, answer: 'EIO', flush: 'EIO' },
  // The header may come alone, and then the payload goes to the file as it comes in.
  {
    injection: 'pwritev2,splice:error=EROFS:when=1',
    cache: 'default',
    call: LARGE,
    answer: 'EPERM',
    flush: 'EPERM',
  },
  { injection: 'splice:error=EIO:when=1', cache: 'default', call: LARGE_TWICE, answer: 'EIO', flush: 'EIO' },
  {
    injection: 'splice:error=EROFS:when=1',
    cache: 'default',
    call: LARGE_TWICE,
    answer: 'EPERM',
    flush: 'EPERM',
  },
  {
    injection: 'fallocate:error=EIO',
    cache: 'default',
    call: 'h.zero, 4096, 0',
    answer: 'EIO',
    flush: 'EIO',
  },
  { injection: 'fallocate:error=EIO', cache: 'none', call: 'h.trim, 4096, 0', answer: 'EIO', flush: 'EIO' },
  // when=2+: the first call asks, before anything is served, whether the file system knows it. strace counts the
  // calls of each thread: from the ninth window on, one thread starts a window and then waits for another.
  {
    injection: 'sync_file_range:error=ENOSPC:when=2+',
    cache: 'none',
    call: 'lambda: [h.pwrite(bytearray(1 << 20), index << 20) for index in range(12)]',
    answer: 'success',
    flush: 'ENOSPC',
  },
];

const NOT_LATCHED: readonly Omit<Fault, 'flush'>[] = [
  ...['EDQUOT', 'EFBIG', 'ENOSPC'].flatMap((error) => [
    {
      injection: `pwritev2:error=${error}:when=1`,
      cache: 'default',
      call: 'h.pwrite, bytearray(512), 0',
      answer: 'ENOSPC',
    },
    { injection: `pwritev2:error=${error}:when=1`, cache: 'none', call: LARGE, answer: 'ENOSPC' },
    { injection: `splice:error=${error}:when=1`, cache: 'default', call: LARGE_TWICE, answer: 'ENOSPC' },
  ]),
  { injection: 'fallocate:error=ENOSPC:when=1', cache: 'default', call: 'h.zero, 4096, 0', answer: 'ENOSPC' },
  // What is interrupted is done again, what comes back short is finished.
  {
    injection: 'pwritev2:error=EINTR:when=1',
    cache: 'default',
    call: 'h.pwrite, bytearray(512), 0',
    answer: 'success',
  },
  { injection: 'pwritev2:error=EINTR:when=1', cache: 'none', call: LARGE, answer: 'success' },
  { injection: 'splice:error=EINTR:when=1', cache: 'default', call: LARGE_TWICE, answer: 'success' },
  // A file system whose files take no splices.
  { injection: 'splice:error=EINVAL', cache: 'default', call: LARGE_TWICE, answer: 'success' },
  { injection: 'fdatasync:error=EINTR:when=1', cache: 'default', call: 'h.flush', answer: 'success' },
  { injection: 'fallocate:error=EINTR:when=1', cache: 'default', call: 'h.zero, 4096, 0', answer: 'success' },
  { injection: 'preadv2:error=EINTR:when=1', cache: 'default', call: 'h.pread, 512, 0', answer: 'success' },
  { injection: 'preadv2:error=EAGAIN', cache: 'none', call: 'h.pread, 512, 0', answer: 'success' },
  { injection: 'preadv2:error=EIO', cache: 'default', call: 'h.pread, 512, 0', answer: 'success' },
  {
    injection: 'pread64:error=EINTR:when=1',
    cache: 'default',
    call: 'h.pread, 1 << 20, 0',
    answer: 'success',
  },
  { injection: 'pread64:error=EIO', cache: 'default', call: 'h.pread, 1 << 20, 0', answer: 'EIO' },
];

/** What the call, then FLUSH on two connections, then `last` were answered. */
async function answers(
  fault: Omit<Fault, 'flush'>,
  last: string,
  check: (server: NbdServer, answers: string[]) => Promise<void>,
) {
  await using directory = await temporaryDirectory();
  const [image, log] = [directory.file('disk.img'), directory.file('strace')];
  await createFullImage(image, 16 * MiB);
  await using server = await startServer(['file', image, '--cache', fault.cache], {
    through: faults(log, image, fault.injection),
  });
  const script = `${TOLD}
print(json.dumps([told(${fault.call}), told(other.flush), told(h.flush), ${last}]))
`;
  await check(server, JSON.parse(await python(server.uri, script)) as string[]);
}

describe('a system call that fails', () => {
  test.each(LATCHED)('is latched: $injection, --cache $cache, $call', async (fault) => {
    await answers(
      fault,
      'told(h.pwrite, bytearray(512), 0, FUA)',
      async (server, [answer, flush, ...later]) => {
        expect([answer, flush]).toEqual([fault.answer, fault.flush]);
        expect(later).toEqual(['EIO', 'EIO']);
        server.signal('SIGTERM');
        const end = await server.ended();
        expect(end.signal).toBeNull();
        expect(end.code).not.toBe(0);
        const errno = /error=(\w+)/.exec(fault.injection)?.[1];
        const lines = server.log.filter(({ level, errno: logged }) => level === 50 && logged === errno);
        expect(lines.length, server.stderr).toBeGreaterThan(0);
        // A window can fail twice: when it is started and when it is waited for.
        const linesMax = fault.injection.startsWith('sync_file_range') ? 2 : 1;
        const lineCounts = new Map<string, number>();
        for (const { offset, length } of lines) {
          const range = `${offset} ${length}`;
          lineCounts.set(range, (lineCounts.get(range) ?? 0) + 1);
        }
        expect(Math.max(...lineCounts.values()), server.stderr).toBeLessThanOrEqual(linesMax);
      },
    );
  });

  test.each(NOT_LATCHED)('is not latched: $injection, --cache $cache, $call', async (fault) => {
    // A write would meet the fault again: strace counts the calls of each thread.
    await answers(fault, 'told(h.flush)', async (server, outcome) => {
      expect(outcome).toEqual([fault.answer, 'success', 'success', 'success']);
      await server.stop();
    });
  });

  test('is latched when it is close(2), at the very end', async () => {
    await using directory = await temporaryDirectory();
    const [image, log] = [directory.file('disk.img'), directory.file('strace')];
    await createFullImage(image, MiB);
    await using server = await startServer(['file', image], {
      through: faults(log, image, 'close:error=EDQUOT'),
    });
    await python(server.uri, 'h = connect(); h.pwrite(bytearray(512), 0); h.flush()');
    server.signal('SIGTERM');
    expect((await server.ended()).code).toBe(1);
    expect(server.log.find(({ operation }) => operation === 'close')).toMatchObject({
      level: 50,
      errno: 'EDQUOT',
      offset: 0,
      length: MiB,
      lossCount: 1,
    });
  });
});
