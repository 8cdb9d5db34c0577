/** Who may open an image beside whom: servers by flock, QEMU by its byte ranges. */
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { native } from '../../../src/native/binding.ts';
import { F_RDLCK, F_UNLCK } from '../../../src/native/constants.ts';
import { ImageLockedError, lockImage } from '../../../src/plugins/file/image-lock.ts';
import { run } from '../../support/command.ts';
import { PYTHON } from '../../support/python.ts';
import { Files } from './files.ts';

// QEMU's bytes: 100 + permission for what is used, 200 + permission for what others may not.
const READ = 0;
const WRITE = 1;
const WRITE_UNCHANGED = 2;
const RESIZE = 3;

async function image(): Promise<Files> {
  const files = await Files.create();
  writeFileSync(files.path(), 'an image');
  return files;
}

function holdAsQemu(fd: number, used: readonly number[], denied: readonly number[]): void {
  for (const byte of [...used.map((bit) => 100 + bit), ...denied.map((bit) => 200 + bit)]) {
    expect(native.ofd_setlk(fd, F_RDLCK, byte, 1)).toBe(0);
  }
}

describe('two servers', () => {
  test('may both read', async () => {
    await using files = await image();
    await lockImage(files.open('r'), files.path(), true);
    await expect(lockImage(files.open('r'), files.path(), true)).resolves.toBeUndefined();
  });

  test.each([
    [false, false],
    [false, true],
    [true, false],
  ])('exclude each other otherwise (read-only: %s, %s)', async (first, second) => {
    await using files = await image();
    await lockImage(files.open(first ? 'r' : 'r+'), files.path(), first);
    const attempt = lockImage(files.open(second ? 'r' : 'r+'), files.path(), second);
    await expect(attempt).rejects.toThrow(ImageLockedError);
    await expect(attempt).rejects.toThrow(
      /^".*" is locked: another server holds it\. Stop that process first/,
    );
    await expect(attempt).rejects.toThrow(second ? /first$/ : /--read-only beside other readers$/);
  });

  test('one after the other may both write', async () => {
    await using files = await image();
    const first = openSync(files.path(), 'r+');
    await lockImage(first, files.path(), false);
    closeSync(first);
    await expect(lockImage(files.open('r+'), files.path(), false)).resolves.toBeUndefined();
  });
});

describe('QEMU and a server', () => {
  test.each<[string, number[], number[], string | undefined, string | undefined]>([
    // What QEMU does; what a reader is told; what a writer is told. Undefined: it may.
    ['a virtual machine that writes', [READ, WRITE], [WRITE, RESIZE], 'writes to it', 'writes to it'],
    ['a virtual machine that reads', [READ], [WRITE, RESIZE], undefined, 'reads it'],
    [
      'one that shares everything and reads',
      [READ],
      [],
      undefined,
      'reads it. Stop that process first, or use',
    ],
    ['one that shares everything and writes', [READ, WRITE], [], 'writes to it', 'writes to it'],
    ['one that grows it', [RESIZE], [], 'resizes it', 'resizes it'],
    ['a block job', [WRITE_UNCHANGED], [], undefined, 'writes to it'],
    ['one that lets nobody read', [], [READ], 'does not share it', 'does not share it'],
    ['one that is gone', [], [], undefined, undefined],
  ])('%s', async (_, used, denied, readerRefusal, writerRefusal) => {
    for (const [isReadOnly, refusal] of [
      [true, readerRefusal],
      [false, writerRefusal],
    ] as const) {
      await using files = await image();
      holdAsQemu(files.open('r'), used, denied);
      const attempt = lockImage(files.open(isReadOnly ? 'r' : 'r+'), files.path(), isReadOnly);
      if (refusal === undefined) {
        await expect(attempt).resolves.toBeUndefined();
      } else {
        await expect(attempt).rejects.toThrow(ImageLockedError);
        await expect(attempt).rejects.toThrow(refusal);
      }
    }
  });

  test('a server that was refused holds nothing any more', async () => {
    await using files = await image();
    const qemu = files.open('r');
    holdAsQemu(qemu, [READ, WRITE], []);
    const server = files.open('r+');
    await expect(lockImage(server, files.path(), false)).rejects.toThrow(ImageLockedError);
    // Alone on the file, QEMU would find no lock but its own.
    expect(native.ofd_getlk(qemu, 1, 0, 0)).toBe(0);
  });

  test('a server that writes denies QEMU everything; one that reads denies it writing', async () => {
    await using files = await image();
    const qemu = files.open('r');
    const bytesHeld = (): number[] =>
      [100, 101, 102, 103, 200, 201, 202, 203].filter((byte) => native.ofd_getlk(qemu, 1, byte, 1) === 1);
    const writer = openSync(files.path(), 'r+');
    await lockImage(writer, files.path(), false);
    expect(bytesHeld()).toEqual([100, 101, 200, 201, 202, 203]);
    closeSync(writer);
    expect(bytesHeld()).toEqual([]);
    await lockImage(files.open('r'), files.path(), true);
    expect(bytesHeld()).toEqual([100, 201, 203]);
  });

  test('a byte that somebody holds exclusively is a refusal with a way out', async () => {
    await using files = await image();
    const other = files.open('r+');
    expect(native.ofd_setlk(other, 1, 100, 1)).toBe(0);
    await expect(lockImage(files.open('r+'), files.path(), false)).rejects.toThrow(/EAGAIN.*--no-lock/);
    native.ofd_setlk(other, F_UNLCK, 100, 1);
  });
});

test('another process with a lock of QEMU is seen, too', async () => {
  await using files = await image();
  await lockImage(files.open('r+'), files.path(), false);
  const script = `
import fcntl, struct, sys
F_OFD_GETLK = 36
with open(sys.argv[1], 'r') as image:
    for byte in (101, 201):
        lock = struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, byte, 1, 0)
        print(struct.unpack('hhqqi4x', fcntl.fcntl(image, F_OFD_GETLK, lock))[0] != fcntl.F_UNLCK)
`;
  expect(await run([PYTHON, '-c', script, files.path()])).toBe('True\nTrue\n');
});
