/** `nbd-serve cachestat`: fixed columns of plain numbers, one row for each file. */
import { closeSync, fsyncSync, openSync, writeFileSync } from 'node:fs';
import { describe, expect, test, vi } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { call } from '../../src/native/call.ts';
import { POSIX_FADV_DONTNEED } from '../../src/native/constants.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { nbdServe } from './captured-output.ts';

const PAGES = 5;
const BYTES = PAGES * native.page_size - 100;

/** Writes the file back; evicts it, too, when asked to. */
async function settle(path: string, evict: boolean): Promise<void> {
  const fd = openSync(path, 'r+');
  fsyncSync(fd);
  if (evict) {
    await call((done) => {
      native.posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED, done);
    });
  }
  closeSync(fd);
}

/** The cells of each line. */
function cells(stdout: string): string[][] {
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.trim().split(/\s+/));
}

test('prints pages, bytes and a percentage', async () => {
  await using directory = await temporaryDirectory();
  const cached = directory.file('cached');
  const evicted = directory.file('evicted');
  const empty = directory.file('empty');
  writeFileSync(cached, Buffer.alloc(BYTES, 1));
  writeFileSync(evicted, Buffer.alloc(BYTES, 1));
  writeFileSync(empty, '');
  await settle(cached, false);
  await settle(evicted, true);

  const { code, stdout, stderr } = await nbdServe('cachestat', cached, evicted, empty);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const [header, ofCached, ofEvicted, ofEmpty] = cells(stdout);
  expect(header).toEqual([
    'pages',
    'resident',
    'dirty',
    'writeback',
    'evicted',
    'recently-evicted',
    'bytes',
    'percent',
    'file',
  ]);
  expect(ofCached).toEqual([
    ...[PAGES, PAGES, 0, 0, 0, 0, PAGES * native.page_size].map(String),
    '100.00',
    cached,
  ]);
  expect(ofEvicted?.slice(0, 4)).toEqual([String(PAGES), '0', '0', '0']);
  expect(ofEvicted?.slice(6)).toEqual(['0', '0.00', evicted]);
  expect(ofEmpty).toEqual(['0', '0', '0', '0', '0', '0', '0', '0.00', empty]);
});

test('counts dirty pages', async () => {
  await using directory = await temporaryDirectory();
  const path = directory.file('dirty');
  writeFileSync(path, Buffer.alloc(BYTES, 1));
  const { stdout } = await nbdServe('cachestat', path);
  const [, row] = cells(stdout);
  // The kernel may have begun to write them back.
  expect(Number(row?.[2]) + Number(row?.[3])).toBe(PAGES);
  expect(row?.[1]).toBe(String(PAGES));
});

test('goes on after a file that it cannot open, says so in one line, and fails', async () => {
  await using directory = await temporaryDirectory();
  const path = directory.file('there');
  writeFileSync(path, 'x');
  const { code, stdout, stderr } = await nbdServe(
    'cachestat',
    directory.file('missing'),
    path,
    directory.path,
  );
  expect(code).toBe(1);
  expect(cells(stdout)).toHaveLength(2);
  expect(cells(stdout)[1]?.at(-1)).toBe(path);
  expect(stderr.trimEnd().split('\n')).toHaveLength(2);
});

test('does not advise an option that it does not have', async () => {
  const { stderr } = await nbdServe('cachestat', '/nonexistent');
  expect(stderr).toContain('no such file');
  expect(stderr).not.toContain('--create');
});

test('a line break in a name does not break the row', async () => {
  await using directory = await temporaryDirectory();
  const path = directory.file('two\nlines');
  writeFileSync(path, 'x');
  const { stdout } = await nbdServe('cachestat', path);
  expect(stdout.trimEnd().split('\n')).toHaveLength(2);
  expect(stdout).toContain('two\\nlines');
});

test('--json gives pages, bytes and percent of each kind', async () => {
  await using directory = await temporaryDirectory();
  const [path, empty] = [directory.file('cached'), directory.file('empty')];
  writeFileSync(path, Buffer.alloc(BYTES, 1));
  writeFileSync(empty, '');
  await settle(path, false);
  const { code, stdout, stderr } = await nbdServe(
    'cachestat',
    '--json',
    path,
    directory.file('missing'),
    empty,
  );
  expect(code).toBe(1);
  expect(stderr).toContain('missing');
  const none = { pages: 0, bytes: 0, percent: 0 };
  const nothing = { dirty: none, writeback: none, evicted: none, recentlyEvicted: none };
  expect(JSON.parse(stdout)).toEqual([
    {
      file: path,
      size: { pages: PAGES, bytes: BYTES },
      pageBytes: native.page_size,
      resident: { pages: PAGES, bytes: PAGES * native.page_size, percent: 100 },
      ...nothing,
    },
    { file: empty, size: { pages: 0, bytes: 0 }, pageBytes: native.page_size, resident: none, ...nothing },
  ]);
});

test('--json of nothing but missing files is an empty array', async () => {
  const { code, stdout } = await nbdServe('cachestat', '--json', '/nonexistent');
  expect(code).toBe(1);
  expect(JSON.parse(stdout)).toEqual([]);
});

describe('what mincore cannot tell', () => {
  function withoutCachestat(): void {
    vi.spyOn(native, 'cachestat').mockImplementation((_fd, _offset, _length, counts, done) => {
      counts.set([2, -1, -1, -1, -1]);
      setImmediate(done, 0);
    });
  }

  test('is null in JSON', async () => {
    withoutCachestat();
    const { stdout } = await nbdServe('cachestat', '--json', import.meta.filename);
    const [file] = JSON.parse(stdout) as Record<string, unknown>[];
    expect(file).toMatchObject({
      resident: { pages: 2 },
      dirty: null,
      writeback: null,
      evicted: null,
      recentlyEvicted: null,
    });
  });

  test('is a dash in the table', async () => {
    withoutCachestat();
    const { stdout } = await nbdServe('cachestat', import.meta.filename);
    expect(cells(stdout)[1]?.slice(1, 6)).toEqual(['2', '-', '-', '-', '-']);
  });
});

test('says who is told when the kernel does not tell', async () => {
  vi.spyOn(native, 'cachestat').mockImplementation((_fd, _offset, _length, _counts, done) => {
    setImmediate(done, -1);
  });
  const { code, stderr } = await nbdServe('cachestat', import.meta.filename);
  expect(code).toBe(1);
  expect(stderr).toContain('only its owner, or who may write to it, is told');
});

test('--map draws a strip of at most 64 cells and lists the ranges', async () => {
  await using directory = await temporaryDirectory();
  const path = directory.file('cached');
  writeFileSync(path, Buffer.alloc(BYTES, 1));
  const { stdout } = await nbdServe('cachestat', '--map', '--ascii', path);
  const [, , strip, legend, head, range] = stdout.split('\n');
  expect(strip).toBe(`  |${'#'.repeat(PAGES)}|`);
  expect(legend).toContain(`a cell is ${native.page_size} bytes`);
  expect(head?.trim().split(/\s+/)).toEqual(['offset', 'length', 'resident']);
  expect(range?.trim().split(/\s+/)).toEqual(['0', String(BYTES), String(PAGES)]);
});
