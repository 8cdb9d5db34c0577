/** What is opened, what is refused, and what is made. */
import {
  closeSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { describe, expect, test } from 'vitest';
import { FileRefusedError, type OpenFile, openFile } from '../../../src/plugins/file/open-file.ts';
import { run } from '../../support/command.ts';
import { createImage } from '../../support/image.ts';
import { Files, GiB, MiB } from './files.ts';

function measure(path: string, isReadOnly = false, createSize?: number): Omit<OpenFile, 'fd'> {
  const { fd, ...measured } = openFile(path, isReadOnly, createSize);
  closeSync(fd);
  return measured;
}

/** The one line of a refusal, which leaves no descriptor open. */
function refusalOf(path: string, isReadOnly = false, createSize?: number): string {
  const before = readdirSync('/proc/self/fd').length;
  try {
    closeSync(openFile(path, isReadOnly, createSize).fd);
  } catch (error) {
    expect(error).toBeInstanceOf(FileRefusedError);
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
    const { message } = error as Error;
    expect(message).not.toContain('\n');
    expect(message).toContain(`"${path}"`);
    return message;
  }
  throw new Error('It was opened');
}

describe('a file', () => {
  test.each([0, 1, 513, MiB + 513, 2 ** 31, 2 ** 32 + 1, 1024 * GiB])(
    'of %d bytes is measured exactly',
    async (size) => {
      await using files = await Files.create();
      await createImage(files.path(), size);
      expect(measure(files.path())).toEqual({ size, isBlockDevice: false, isNew: false });
      expect(measure(files.path(), true)).toEqual({ size, isBlockDevice: false, isNew: false });
    },
  );

  test('is found behind a symbolic link', async () => {
    await using files = await Files.create();
    writeFileSync(files.path(), 'abc');
    symlinkSync(files.path(), files.path('link'));
    expect(measure(files.path('link'))).toMatchObject({ size: 3 });
  });
});

describe('what cannot be served is refused:', () => {
  test('a file that is not there', async () => {
    await using files = await Files.create();
    expect(refusalOf(files.path())).toContain('there is no such file');
    expect(refusalOf(files.path('missing/image'))).toContain('there is no such file');
    expect(existsSync(files.path())).toBe(false);
  });

  test('a directory, also with --create', async () => {
    await using files = await Files.create();
    mkdirSync(files.path());
    expect(refusalOf(files.path())).toContain('is a directory');
    expect(refusalOf(files.path(), true)).toContain('is a directory');
    expect(refusalOf(files.path(), false, MiB)).toContain('is a directory');
  });

  test('a FIFO, without waiting for its other end', async () => {
    await using files = await Files.create();
    await run(['mkfifo', files.path()]);
    expect(refusalOf(files.path())).toContain('is a FIFO');
    expect(refusalOf(files.path(), true)).toContain('is a FIFO');
    expect(refusalOf(files.path(), false, MiB)).toContain('is a FIFO');
  });

  test('a character device', () => {
    expect(refusalOf('/dev/null')).toContain('is neither a file nor a block device');
  });

  test('paths that lead nowhere', async () => {
    await using files = await Files.create();
    writeFileSync(files.path('file'), '');
    symlinkSync(files.path('loop'), files.path('loop'));
    expect(refusalOf(files.path('file/image'))).toContain('a part of the path is no directory');
    expect(refusalOf(files.path('x'.repeat(300)))).toContain('the path is too long');
    expect(refusalOf(files.path('loop'))).toContain('ELOOP');
  });
});

describe('--create', () => {
  test('makes a sparse file of exactly that size', async () => {
    await using files = await Files.create();
    expect(measure(files.path(), false, 1024 * GiB + 513)).toEqual({
      size: 1024 * GiB + 513,
      isBlockDevice: false,
      isNew: true,
    });
    const { size, blocks, mode } = statSync(files.path());
    expect({ size, blocks }).toEqual({ size: 1024 * GiB + 513, blocks: 0 });
    expect(mode & 0o777).toBe(0o666 & ~process.umask());
  });

  test('leaves an existing file as it is, whatever its size', async () => {
    await using files = await Files.create();
    writeFileSync(files.path(), 'precious');
    expect(measure(files.path(), false, MiB)).toMatchObject({ size: 8 });
    expect(readFileSync(files.path(), 'utf8')).toBe('precious');
  });

  test('may make an empty file', async () => {
    await using files = await Files.create();
    expect(measure(files.path(), false, 0)).toMatchObject({ size: 0 });
    expect(existsSync(files.path())).toBe(true);
  });

  test('refuses what the file system cannot hold, and leaves nothing behind', async () => {
    await using files = await Files.create();
    expect(refusalOf(files.path(), false, Number.MAX_SAFE_INTEGER)).toMatch(
      /^Cannot create .* holds no file of/,
    );
    expect(existsSync(files.path())).toBe(false);
    expect(refusalOf(files.path('missing/image'), false, MiB)).toContain('there is no such directory');
  });
});
