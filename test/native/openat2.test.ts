/** openat2: what the kernel keeps inside of a directory, and what it answers for the rest. */
import { closeSync, fstatSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import {
  O_PATH,
  RESOLVE_BENEATH,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
} from '../../src/native/constants.ts';
import { defer, EBADF, EINVAL, openForTest, result, run, temporaryFolder } from './support.ts';

const ENOENT = 2;
const EXDEV = 18;
const ELOOP = 40;

function folder(): { path: string; fd: number } {
  const path = temporaryFolder();
  mkdirSync(join(path, 'in/sub'), { recursive: true });
  writeFileSync(join(path, 'secret'), 'secret');
  writeFileSync(join(path, 'in/file'), 'four');
  symlinkSync('../file', join(path, 'in/sub/up'));
  symlinkSync('../secret', join(path, 'in/out'));
  symlinkSync('/proc/self/exe', join(path, 'in/magic'));
  return { path, fd: openForTest(join(path, 'in'), 'r') };
}

function openat2(fd: number, path: string, resolve = RESOLVE_BENEATH, flags = O_PATH): Promise<number> {
  return result((done) => native.openat2(fd, path, flags, resolve, done));
}

test('opens what is inside, by way of links and dots, close-on-exec', async () => {
  const { fd } = folder();
  for (const path of ['file', 'sub/../file', 'sub/up', './sub/./up']) {
    const opened = await openat2(fd, path);
    expect(opened, path).toBeGreaterThan(0);
    defer(() => closeSync(opened));
    expect(fstatSync(opened).size).toBe(4);
    // 02000000 is O_CLOEXEC, 010000000 O_PATH.
    expect(run('grep', 'flags', `/proc/${process.pid}/fdinfo/${opened}`)).toMatch(/flags:\t012000000\n/);
  }
});

test.each<[string, number, number]>([
  ['../secret', RESOLVE_BENEATH, EXDEV],
  ['/etc/passwd', RESOLVE_BENEATH, EXDEV],
  ['out', RESOLVE_BENEATH, EXDEV],
  ['magic', RESOLVE_BENEATH, EXDEV],
  ['sub/../../secret', RESOLVE_BENEATH, EXDEV],
  ['sub/up', RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS, ELOOP],
  ['missing', RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS, ENOENT],
  ['file\0', RESOLVE_BENEATH, EINVAL],
  ['file', 1 << 30, EINVAL],
])('%j with resolve %i answers -%i', async (path, resolve, errno) => {
  const { fd } = folder();
  expect(await openat2(fd, path, resolve)).toBe(-errno);
});

test('without a directory answers -EBADF', async () => {
  expect(await openat2(99_999, 'file')).toBe(-EBADF);
});
