import { expect, test } from 'vitest';
import { attempt, run } from '../support/command.ts';
import { createImage, fileExtents } from '../support/image.ts';
import { startServer } from '../support/server.ts';
import { MiB, TiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

interface ExportInfo {
  readonly 'export-name': string;
  readonly 'export-size': number;
  readonly contexts: readonly string[];
  readonly description?: string;
  readonly is_read_only: boolean;
  readonly [feature: string]: unknown;
}

interface Info {
  readonly protocol: string;
  readonly TLS: boolean;
  readonly structured: boolean;
  readonly exports: readonly ExportInfo[];
}

interface MapEntry {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
  readonly description: string;
}

const SIZE = 8 * MiB;
const DATA = [
  { offset: MiB, length: MiB },
  { offset: 4 * MiB, length: 64 * 1024 },
];

const FEATURES = [
  'connect',
  'cache',
  'df',
  'fast-zero',
  'flush',
  'fua',
  'multi-conn',
  'read',
  'structured-reply',
  'trim',
  'write',
  'zero',
];

test('nbdinfo prints the export as text', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE, DATA);
  await using server = await startServer(['file', image]);
  const text = await run(['nbdinfo', server.uri]);
  expect(text).toContain('protocol: newstyle-fixed without TLS');
  expect(text).toContain('using structured packets');
  expect(text).toContain('export=""');
  expect(text).toContain(`export-size: ${SIZE} (8M)`);
  expect(text).toContain('base:allocation');
  expect(text).toMatch(/is_read_only: false/);
  expect(text).toMatch(/can_multi_conn: true/);
  expect(text).toMatch(/block_size_minimum: 1\b/);
  expect(text).toMatch(/block_size_maximum: 33554432\b/);
});

test('nbdinfo --json tells everything that is advertised', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE, DATA);
  await using server = await startServer(['file', image, '--description', 'a disk for everyone']);
  const info = JSON.parse(await run(['nbdinfo', '--json', server.uri])) as Info;
  expect(info).toMatchObject({ protocol: 'newstyle-fixed', TLS: false, structured: true });
  expect(info.exports).toHaveLength(1);
  expect(info.exports[0]).toMatchObject({
    'export-name': '',
    'export-size': SIZE,
    description: 'a disk for everyone',
    contexts: ['base:allocation', 'x-nbd-serve:resident'],
    is_read_only: false,
    can_cache: true,
    can_df: true,
    can_fast_zero: true,
    can_flush: true,
    can_fua: true,
    can_multi_conn: true,
    can_trim: true,
    can_zero: true,
    block_size_minimum: 1,
    block_size_maximum: 32 * MiB,
  });
});

test('nbdinfo --map shows exactly the holes that lseek finds', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE, DATA);
  await using server = await startServer(['file', image]);
  const map = JSON.parse(await run(['nbdinfo', '--map', '--json', server.uri])) as MapEntry[];
  const expected = (await fileExtents(image)).map(({ offset, length, hole }) => ({
    offset,
    length,
    type: hole ? 3 : 0,
    description: hole ? 'hole,zero' : 'data',
  }));
  expect(map).toEqual(expected);

  const text = await run(['nbdinfo', '--map', server.uri]);
  const lines = text
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/));
  expect(lines).toEqual(
    expected.map(({ offset, length, type, description }) => [
      `${offset}`,
      `${length}`,
      `${type}`,
      description,
    ]),
  );
});

test('nbdinfo --map=x-nbd-serve:resident shows what is in the page cache', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await run(['dd', 'if=/dev/urandom', `of=${image}`, 'bs=1M', 'count=8', 'conv=fsync']);
  await run(['dd', `of=${image}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0']);
  await using server = await startServer(['file', image, '--fadvise', 'random']);
  const residentMap = async (): Promise<(readonly [number, number, number])[]> => {
    const map = await run(['nbdinfo', '--map=x-nbd-serve:resident', '--json', server.uri]);
    return (JSON.parse(map) as MapEntry[]).map(({ offset, length, type }) => [offset, length, type]);
  };
  expect(await residentMap()).toEqual([[0, SIZE, 0]]);
  await run(['qemu-io', '--read-only', '-f', 'raw', '-c', 'read 3M 1M', server.uri]);
  expect(await residentMap()).toEqual([
    [0, 3 * MiB, 0],
    [3 * MiB, MiB, 1],
    [4 * MiB, 4 * MiB, 0],
  ]);
});

test('nbdinfo --map --totals adds up to the size of the export', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE, DATA);
  await using server = await startServer(['file', image, '--cache', 'none']);
  const totals = (await run(['nbdinfo', '--map', '--totals', server.uri]))
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/));
  const data = MiB + 64 * 1024;
  expect(new Map(totals.map(([bytes, , , description]) => [description, Number(bytes)]))).toEqual(
    new Map([
      ['data', data],
      ['hole,zero', SIZE - data],
    ]),
  );
});

test('nbdinfo --map of an empty 1 TiB image is one hole', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, TiB);
  await using server = await startServer(['file', image]);
  const totals = await run(['nbdinfo', '--map', '--totals', server.uri]);
  expect(totals.trim()).toMatch(new RegExp(`^${TiB}\\s+100.0%\\s+3\\s+hole,zero$`));
});

test('nbdinfo --list shows the one export with its name and description', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE);
  await using server = await startServer([
    'file',
    image,
    '--export-name',
    'première disk',
    '--description',
    'one of a kind',
  ]);
  const text = await run(['nbdinfo', '--list', server.uri]);
  expect(text.match(/^export=/gm)).toHaveLength(1);
  expect(text).toContain('export="première disk"');
  expect(text).toContain('description: one of a kind');
  const info = JSON.parse(await run(['nbdinfo', '--list', '--json', server.uri])) as Info;
  expect(info.exports.map((each) => each['export-name'])).toEqual(['première disk']);
});

test.each([0, 1, 512, MiB + 513, 5 * 2 ** 30 + 1])('nbdinfo --size is exact for %d bytes', async (size) => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, size);
  await using server = await startServer(['file', image]);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${size}\n`);
});

test('nbdinfo --can finds every feature on a writable export', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE);
  await using server = await startServer(['file', image]);
  for (const feature of FEATURES) {
    const { code } = await attempt(['nbdinfo', '--can', feature, server.uri]);
    expect([feature, code]).toEqual([feature, 0]);
  }
  // nbdinfo answers "no" with exit code 2.
  expect((await attempt(['nbdinfo', '--is', 'read-only', server.uri])).code).toBe(2);
});

test('nbdinfo --can finds no way to write to a read-only export', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE);
  await using server = await startServer(['file', image, '--read-only']);
  expect((await attempt(['nbdinfo', '--is', 'read-only', server.uri])).code).toBe(0);
  expect((await attempt(['nbdinfo', '--can', 'write', server.uri])).code).toBe(2);
  for (const feature of ['connect', 'read', 'multi-conn', 'df', 'structured-reply', 'cache']) {
    const { code } = await attempt(['nbdinfo', '--can', feature, server.uri]);
    expect([feature, code]).toEqual([feature, 0]);
  }
});

test('nbdinfo over TCP sees the same export as over a Unix socket', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE, DATA);
  await using server = await startServer(['file', image, '--port', '0']);
  expect(server.uri).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+\/?$/);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${SIZE}\n`);
});

test('nbdinfo is told when the export does not exist', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE);
  await using server = await startServer(['file', image]);
  const wrong = server.uri.replace(':///', ':///wrong');
  const { code, stderr } = await attempt(['nbdinfo', wrong]);
  expect(code).not.toBe(0);
  expect(stderr).toMatch(/No such file|wrong|unknown/i);
});
