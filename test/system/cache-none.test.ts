import { describe, expect, test } from 'vitest';
import { attempt, run } from '../support/command.ts';
import {
  createFullImage,
  createImage,
  evict,
  expectSameContent,
  type Residency,
  residentPages,
} from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { startServer } from '../support/server.ts';
import { GiB, MiB, scratchFileSystem } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

/** Of the pages of an image, at most one in a thousand may be left in the page cache. */
const TOLERANCE = 0.001;

/** What may be resident while data flows: far more than windows and chunks need, far less than the image. */
const MOVING_LIMIT = 256 * MiB;
const PAGE = 4096;

/** Shows what cachestats says in the log of the test run, and returns it. */
async function report(what: string, image: string): Promise<Residency> {
  const residency = await residentPages(image);
  process.stdout.write(`${what}: ${await run(['cachestats', image])}`);
  return residency;
}

function isClean({ resident, pages }: Residency): boolean {
  return resident <= pages * TOLERANCE;
}

/** Watches a file until `work` is done, and returns the highest number of resident pages it saw. */
async function peakDuring(image: string, work: Promise<unknown>): Promise<number> {
  let busy = true;
  const done = work.finally(() => {
    busy = false;
  });
  let peak = 0;
  const watch = (async () => {
    while (busy) peak = Math.max(peak, (await residentPages(image)).resident);
  })();
  await Promise.all([done, watch]);
  return peak;
}

async function expectClean(what: string, image: string): Promise<void> {
  await eventually(`${what} leaves the page cache clean`, async () =>
    isClean(await residentPages(image)) ? true : undefined,
  ).catch(() => undefined);
  const { resident, pages } = await report(what, image);
  expect(resident, `resident pages of ${pages}`).toBeLessThanOrEqual(pages * TOLERANCE);
}

test('copying a 1 GiB image in and out over 4 connections leaves it out of the page cache', async () => {
  await using directory = await temporaryDirectory();
  const [source, image, copy] = [
    directory.file('source.img'),
    directory.file('disk.img'),
    directory.file('copy.img'),
  ];
  await createFullImage(source, GiB + 513);
  {
    await using server = await startServer(['file', image, '--create', String(GiB + 513), '--cache', 'none']);
    const writing = run([
      'nbdcopy',
      '--connections=4',
      '--threads=4',
      '--requests=16',
      '--flush',
      source,
      server.uri,
    ]);
    const peak = await peakDuring(image, writing);
    process.stdout.write(`most pages resident while it was written: ${peak}\n`);
    expect(peak * PAGE).toBeLessThan(MOVING_LIMIT);
    await expectClean('written, server running', image);
    await server.stop();
    expect(isClean(await report('written, server ended', image))).toBe(true);
  }
  await expectSameContent(source, image);

  await evict(image);
  await using server = await startServer(['file', image, '--cache', 'none']);
  const reading = run(['nbdcopy', '--connections=4', '--threads=4', '--requests=16', server.uri, copy]);
  const peak = await peakDuring(image, reading);
  process.stdout.write(`most pages resident while it was read: ${peak}\n`);
  expect(peak * PAGE).toBeLessThan(MOVING_LIMIT);
  await expectClean('read, server running', image);
  await server.stop();
  expect(isClean(await report('read, server ended', image))).toBe(true);
  await expectSameContent(source, copy);
});

test('unaligned writes and reads of an image of odd size leave nothing of it after a flush', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, 64 * MiB + 513);
  await evict(image);
  await using server = await startServer(['file', image, '--cache', 'none']);
  await python(
    server.uri,
    `
h = connect()
size = h.get_size()
for offset in range(512, size - 70000, 65536):
    h.pwrite(bytearray(b'u' * 65536), offset)
for offset in range(1001, size - 70000, 300007):
    h.pread(65536, offset)
    h.zero(5000, offset)
h.pwrite(bytearray(b'e'), size - 1)
h.pread(700, size - 700)
h.flush()
h.shutdown()
`,
  );
  await expectClean('unaligned', image);
  await server.stop();
  expect((await report('unaligned, server ended', image)).resident).toBe(0);
});

test('an idle connection keeps nothing of what it read and wrote', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, 64 * MiB);
  await evict(image);
  await using server = await startServer(['file', image, '--cache', 'none']);
  // The script only ends when its input does: until then the client is connected, and does nothing.
  let release: () => unknown = () => undefined;
  const client = attempt(
    [
      '/usr/bin/python3',
      '-c',
      `
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for offset in range(0, 32 << 20, 1 << 20):
    h.pwrite(bytearray(b'i' * 100000), offset)
for offset in range(32 << 20, 64 << 20, 1 << 20):
    h.pread(100000, offset)
while True:
    h.poll(-1)
`,
      server.uri,
    ],
    {
      started: (child) => {
        release = () => child.kill('SIGKILL');
      },
    },
  ).then(
    () => 'it ended by itself',
    () => 'killed',
  );
  try {
    await eventually('it has read and written', async () =>
      (await residentPages(image)).resident > 0 ? true : undefined,
    );
    await expectClean('idle client', image);
  } finally {
    release();
  }
  expect(await client).toBe('killed');
});

test('--windows and --window-size change nothing about the result', async () => {
  await using directory = await temporaryDirectory();
  const [source, image] = [directory.file('source.img'), directory.file('disk.img')];
  await createFullImage(source, 96 * MiB);
  for (const [windows, size] of [
    ['1', '4K'],
    ['3', '64K'],
    ['32', '4M'],
  ] as const) {
    await createImage(image, 96 * MiB);
    await using server = await startServer([
      'file',
      image,
      '--cache',
      'none',
      '--windows',
      windows,
      '--window-size',
      size,
    ]);
    await run(['nbdcopy', '--connections=4', '--threads=4', '--flush', source, server.uri]);
    await expectClean(`${windows} windows of ${size}`, image);
    await server.stop();
    await expectSameContent(source, image);
  }
});

describe.each(['ext4', 'xfs', 'btrfs'] as const)('on %s', (type) => {
  test('copying in and out leaves the image out of the page cache', async () => {
    await using directory = await temporaryDirectory();
    await using fileSystem = await scratchFileSystem(type);
    const [source, image, copy] = [
      directory.file('source.img'),
      fileSystem.file('disk.img'),
      directory.file('copy.img'),
    ];
    await createFullImage(source, 128 * MiB);
    await createImage(image, 128 * MiB);
    await using server = await startServer(['file', image, '--cache', 'none']);
    await run(['nbdcopy', '--connections=4', '--threads=4', '--flush', source, server.uri]);
    await expectClean(`${type}, written`, image);
    await run(['nbdcopy', '--connections=4', '--threads=4', server.uri, copy]);
    await expectClean(`${type}, read`, image);
    await server.stop();
    expect(isClean(await report(`${type}, server ended`, image))).toBe(true);
    await expectSameContent(source, copy);
  });
});

describe('nbd-serve cachestat', () => {
  interface Row {
    readonly resident?: string;
  }

  async function cachestat(...files: readonly string[]): Promise<Row[]> {
    const [head = '', ...lines] = (await run([process.execPath, 'dist/main.js', 'cachestat', ...files]))
      .trimEnd()
      .split('\n');
    const columns = head.trim().split(/\s+/);
    return lines.map((line) => {
      const cells = line.trim().split(/\s+/);
      return Object.fromEntries(columns.map((column, index) => [column, cells[index] ?? '']));
    });
  }

  // The kernel takes pages when it likes, as DAMON does without any shortage.
  test('agrees with cachestats about files that are cached, partly cached and not cached', {
    retry: 4,
  }, async () => {
    await using directory = await temporaryDirectory();
    const files = ['all.img', 'some.img', 'none.img'].map((name) => directory.file(name));
    const [all = '', some = ''] = files;
    for (const file of files) {
      await createFullImage(file, 8 * MiB + 513);
      await evict(file);
    }
    await run(['dd', `if=${all}`, 'of=/dev/null', 'bs=1M', 'status=none']);
    await run(['dd', `if=${some}`, 'of=/dev/null', 'bs=4096', 'skip=500', 'count=1', 'status=none']);
    const rows = await cachestat(...files);
    expect(rows).toHaveLength(files.length);
    for (const [index, file] of files.entries()) {
      const { resident, pages } = await residentPages(file);
      expect(rows[index]).toMatchObject({
        pages: String(pages),
        resident: String(resident),
        bytes: String(resident * PAGE),
        dirty: '0',
        writeback: '0',
        file,
      });
    }
    const [full, part, empty] = rows.map((row) => Number(row.resident));
    expect(full).toBe(2049);
    expect(part).toBeGreaterThan(0);
    expect(part).toBeLessThan(2049);
    expect(empty).toBe(0);
  });

  test('names a file that is missing and still shows the others', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, MiB);
    const missing = directory.file('missing.img');
    const { code, stdout, stderr } = await attempt([
      process.execPath,
      'dist/main.js',
      'cachestat',
      missing,
      image,
    ]);
    expect(code).not.toBe(0);
    expect(stderr).toContain(missing);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    expect(stdout).toContain(image);
  });
});
