/** Open file description locks: they belong to the open file, not to the process. */
import { closeSync, openSync } from 'node:fs';
import { expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { EAGAIN, EBADF, openForTest, runChild, temporaryFile } from './support.ts';

const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;

function twoOpens(): { path: string; first: number; second: number } {
  const { path, fd } = temporaryFile();
  return { path, first: fd, second: openForTest(path, 'r+') };
}

test('a write lock excludes another open of the same process', () => {
  const { first, second } = twoOpens();
  expect(native.ofd_setlk(first, F_WRLCK, 0, 0)).toBe(0);
  expect(native.ofd_setlk(second, F_WRLCK, 0, 0)).toBe(-EAGAIN);
  expect(native.ofd_setlk(second, F_RDLCK, 0, 0)).toBe(-EAGAIN);
  expect(native.ofd_getlk(second, F_RDLCK, 0, 0)).toBe(1);
  expect(native.ofd_getlk(first, F_WRLCK, 0, 0)).toBe(0);
  expect(native.ofd_setlk(first, F_UNLCK, 0, 0)).toBe(0);
  expect(native.ofd_setlk(second, F_WRLCK, 0, 0)).toBe(0);
});

test('read locks share and exclude a writer', () => {
  const { first, second } = twoOpens();
  expect(native.ofd_setlk(first, F_RDLCK, 0, 0)).toBe(0);
  expect(native.ofd_setlk(second, F_RDLCK, 0, 0)).toBe(0);
  expect(native.ofd_getlk(first, F_RDLCK, 0, 0)).toBe(0);
  expect(native.ofd_getlk(first, F_WRLCK, 0, 0)).toBe(1);
  expect(native.ofd_setlk(first, F_WRLCK, 0, 0)).toBe(-EAGAIN);
});

test('ranges that do not touch do not exclude each other, also above 2^32', () => {
  const { first, second } = twoOpens();
  expect(native.ofd_setlk(first, F_WRLCK, 2 ** 32, 100)).toBe(0);
  expect(native.ofd_setlk(second, F_WRLCK, 0, 2 ** 32)).toBe(0);
  expect(native.ofd_setlk(second, F_WRLCK, 2 ** 32 + 100, 0)).toBe(0);
  expect(native.ofd_setlk(second, F_WRLCK, 2 ** 32 + 99, 1)).toBe(-EAGAIN);
});

test('closing the descriptor gives the lock up', () => {
  const { path, second } = twoOpens();
  const holder = openSync(path, 'r+');
  expect(native.ofd_setlk(holder, F_WRLCK, 0, 0)).toBe(0);
  expect(native.ofd_setlk(second, F_WRLCK, 0, 0)).toBe(-EAGAIN);
  closeSync(holder);
  expect(native.ofd_setlk(second, F_WRLCK, 0, 0)).toBe(0);
});

test('another process is refused', async () => {
  const { path, first } = twoOpens();
  expect(native.ofd_setlk(first, F_WRLCK, 0, 0)).toBe(0);
  const child = await runChild('lock-child.mjs', [path]);
  expect(child).toMatchObject({ code: 0, signal: null, stdout: `${-EAGAIN} 1\n` });
});

test('a write lock wants a descriptor open for writing', () => {
  const { path } = temporaryFile();
  const reader = openForTest(path, 'r');
  expect(native.ofd_setlk(reader, F_WRLCK, 0, 0)).toBe(-EBADF);
  expect(native.ofd_getlk(99999, F_RDLCK, 0, 0)).toBe(-EBADF);
});

test('a type that fcntl does not know is refused by name', () => {
  expect(() => native.ofd_setlk(0, 3, 0, 0)).toThrow(/type/);
});
