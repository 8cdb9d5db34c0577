/** The scratch file: it has no name, whatever the file system supports. */
import fs, { constants, readdirSync, statSync, writeFileSync } from 'node:fs';
import { afterEach, expect, test, vi } from 'vitest';
import { isSameFile, ScratchFile } from '../../../src/cli/tune/scratch-file.ts';
import { temporaryDirectory } from '../../support/temporary-directory.ts';

const MIB = 1024 * 1024;

/** open(2), before which a test may look at the flags. */
const opening = vi.hoisted(() => ({ before: (_flags: number): void => {} }));

vi.mock('node:fs', async (original) => {
  const real = await original<typeof fs>();
  return {
    ...real,
    openSync: (path: string, flags: number, mode?: number) => {
      opening.before(flags);
      return real.openSync(path, flags, mode);
    },
  };
});

afterEach(() => {
  opening.before = () => {};
});

function errorOf(code: string): Error {
  return Object.assign(new Error(code), { code });
}

test.each(['EOPNOTSUPP', 'EISDIR', 'EINVAL'])(
  'has no name, also where O_TMPFILE is answered with %s',
  async (code) => {
    await using directory = await temporaryDirectory();
    const flags: number[] = [];
    opening.before = (each) => {
      flags.push(each);
      if ((each & constants.O_DIRECTORY) !== 0) throw errorOf(code);
    };
    const scratch = ScratchFile.create(directory.path);
    try {
      expect(flags).toHaveLength(2);
      expect(readdirSync(directory.path)).toEqual([]);
      scratch.resize(MIB);
      expect(statSync(scratch.path).size).toBe(MIB);
      writeFileSync(scratch.path, Buffer.alloc(4096, 1));
      expect(await scratch.residentBytes()).toBe(4096);
    } finally {
      await scratch.close();
    }
  },
);

test.each([
  ['EACCES', 'permission denied'],
  ['EROFS', 'the file system is read-only'],
  ['ENOSPC', 'there is no space left'],
  ['EIO', 'EIO'],
])('%s is said in words', async (code, words) => {
  await using directory = await temporaryDirectory();
  opening.before = () => {
    throw errorOf(code);
  };
  expect(() => ScratchFile.create(directory.path)).toThrow(
    `Cannot make a scratch file in "${directory.path}": ${words}`,
  );
});

test('two names of one file are the same file', async () => {
  await using directory = await temporaryDirectory();
  const [one, other] = [directory.file('one'), directory.file('other')];
  writeFileSync(one, '');
  expect(isSameFile(one, other)).toBe(false);
  fs.linkSync(one, other);
  expect(isSameFile(one, other)).toBe(true);
  expect(isSameFile(directory.file('missing'), directory.file('missing'))).toBe(false);
});
