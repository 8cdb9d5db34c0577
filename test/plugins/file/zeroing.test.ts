/** The zeroing ladder: every rung, in order, and what happens when the kernel refuses one. */
import { fstatSync, readSync } from 'node:fs';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { type Done, native } from '../../../src/native/binding.ts';
import { Zeroing } from '../../../src/plugins/file/zeroing.ts';
import type { ZeroOptions } from '../../../src/plugins/plugin.ts';
import { createFullImage } from '../../support/image.ts';
import { Files, KiB, MiB } from './files.ts';

const NOWHERE = 99_999;
const PUNCH = 'punch';
const ZERO_RANGE = 'zero range';
const ALLOCATE = 'allocate';

const EIO = 5;
const ENODEV = 19;
const EINVAL = 22;
const ENOTTY = 25;
const ENOSPC = 28;
const ENOSYS = 38;
const EOPNOTSUPP = 95;

const MAY_PUNCH: ZeroOptions = { mayPunch: true, isFast: false };
const NO_HOLE: ZeroOptions = { mayPunch: false, isFast: false };
const FAST: ZeroOptions = { mayPunch: true, isFast: true };

const MODES: ReadonlyMap<number, string> = new Map([
  [0x03, PUNCH],
  [0x11, ZERO_RANGE],
  [0x01, ALLOCATE],
]);

afterEach(() => {
  vi.restoreAllMocks();
});

/** Replaces the system calls: each answers from the table, or success; returns the names of those made. */
function fakeCalls(answers: Readonly<Record<string, number>>): string[] {
  const made: string[] = [];
  const answer = (name: string, done: Done): void => {
    made.push(name);
    setImmediate(() => done(-(answers[name] ?? 0)));
  };
  vi.spyOn(native, 'fallocate').mockImplementation((_fd, mode, _offset, _length, done) =>
    answer(MODES.get(mode) ?? `fallocate with mode ${mode}`, done),
  );
  vi.spyOn(native, 'blkzeroout').mockImplementation((_fd, _offset, _length, done) =>
    answer('BLKZEROOUT', done),
  );
  vi.spyOn(native, 'blkdiscard').mockImplementation((_fd, _offset, _length, done) =>
    answer('BLKDISCARD', done),
  );
  return made;
}

describe('on a file', () => {
  const SIZE = MiB;

  /** True when the range, and only it, reads as zeros; the image has no zero block before. */
  function isZeroed(fd: number, offset: number, length: number): boolean {
    const found = Buffer.alloc(SIZE);
    readSync(fd, found, 0, SIZE, 0);
    const before = found.subarray(0, offset);
    const after = found.subarray(offset + length);
    return (
      found.subarray(offset, offset + length).equals(Buffer.alloc(length)) &&
      before.subarray(-16).some((byte) => byte !== 0) === offset > 0 &&
      after.subarray(0, 16).some((byte) => byte !== 0)
    );
  }

  test.each([
    ['aligned', 64 * KiB, 128 * KiB],
    ['within a page', 5000, 100],
    ['across pages, unaligned', 5000, 100_001],
    ['from the beginning', 0, 4096],
  ])('zeroes a range %s, and gives blocks back where whole ones are in it', async (_, offset, length) => {
    await using files = await Files.create();
    await createFullImage(files.path(), SIZE);
    const fd = files.open('r+');
    const { blocks } = fstatSync(fd);
    expect(await new Zeroing(fd, false).zero(offset, length, MAY_PUNCH)).toBe(true);
    expect(isZeroed(fd, offset, length)).toBe(true);
    if (length >= 8192) expect(fstatSync(fd).blocks).toBeLessThan(blocks);
    expect(fstatSync(fd).size).toBe(SIZE);
  });

  test.each([{}, { [ZERO_RANGE]: EOPNOTSUPP }])(
    'NO_HOLE keeps every block (%j)',
    async (answers: Record<string, number>) => {
      await using files = await Files.create();
      await createFullImage(files.path(), SIZE);
      const fd = files.open('r+');
      const { blocks } = fstatSync(fd);
      const { fallocate } = native;
      vi.spyOn(native, 'fallocate').mockImplementation((...values) => {
        const errno = answers[MODES.get(values[1]) ?? ''];
        if (errno === undefined) fallocate(...values);
        else setImmediate(() => values[4](-errno));
      });
      expect(await new Zeroing(fd, false).zero(64 * KiB, 128 * KiB, NO_HOLE)).toBe(true);
      expect(isZeroed(fd, 64 * KiB, 128 * KiB)).toBe(true);
      expect(fstatSync(fd).blocks).toBe(blocks);
    },
  );

  test('trim gives blocks back', async () => {
    await using files = await Files.create();
    await createFullImage(files.path(), SIZE);
    const fd = files.open('r+');
    const { blocks } = fstatSync(fd);
    await new Zeroing(fd, false).trim(0, 512 * KiB);
    expect(fstatSync(fd).blocks).toBeLessThan(blocks);
    expect(fstatSync(fd).size).toBe(SIZE);
  });
});

describe('the rungs', () => {
  type Case = [string, boolean, ZeroOptions, Record<string, number>, string[], boolean];

  test.each<Case>([
    ['a file is punched', false, MAY_PUNCH, {}, [PUNCH], true],
    ['a file is zeroed in place for NO_HOLE', false, NO_HOLE, {}, [ZERO_RANGE], true],
    ['without punching: zero range', false, MAY_PUNCH, { [PUNCH]: EOPNOTSUPP }, [PUNCH, ZERO_RANGE], true],
    [
      'NO_HOLE without zero range: punch and allocate again',
      false,
      NO_HOLE,
      { [ZERO_RANGE]: EOPNOTSUPP },
      [ZERO_RANGE, PUNCH, ALLOCATE],
      true,
    ],
    [
      'a file without any of them: zeros must be written',
      false,
      MAY_PUNCH,
      { [PUNCH]: EOPNOTSUPP, [ZERO_RANGE]: ENOSYS },
      [PUNCH, ZERO_RANGE, PUNCH],
      false,
    ],
    ['a device is unmapped', true, MAY_PUNCH, {}, [PUNCH], true],
    ['a device is zeroed in place for NO_HOLE', true, NO_HOLE, {}, [ZERO_RANGE], true],
    [
      'a device that knows neither: BLKZEROOUT',
      true,
      MAY_PUNCH,
      { [PUNCH]: EOPNOTSUPP, [ZERO_RANGE]: ENODEV },
      [PUNCH, ZERO_RANGE, 'BLKZEROOUT'],
      true,
    ],
    [
      'a device without any of them: zeros must be written',
      true,
      NO_HOLE,
      { [ZERO_RANGE]: EOPNOTSUPP, BLKZEROOUT: ENOTTY },
      [ZERO_RANGE, 'BLKZEROOUT'],
      false,
    ],
    [
      'a range that a device cannot align: zeros must be written',
      true,
      MAY_PUNCH,
      { [PUNCH]: EINVAL, [ZERO_RANGE]: EINVAL, BLKZEROOUT: EINVAL },
      [PUNCH, ZERO_RANGE, 'BLKZEROOUT'],
      false,
    ],
  ])('%s', async (_, isBlockDevice, options, answers, calls, isDone) => {
    const made = fakeCalls(answers);
    expect(await new Zeroing(NOWHERE, isBlockDevice).zero(0, 4096, options)).toBe(isDone);
    expect(made).toEqual(calls);
  });

  test('that do not exist are not tried again', async () => {
    const made = fakeCalls({ [PUNCH]: EOPNOTSUPP, [ZERO_RANGE]: EOPNOTSUPP });
    const zeroing = new Zeroing(NOWHERE, false);
    expect(await zeroing.zero(0, 4096, MAY_PUNCH)).toBe(false);
    made.length = 0;
    expect(await zeroing.zero(0, 4096, MAY_PUNCH)).toBe(false);
    expect(await zeroing.zero(0, 4096, NO_HOLE)).toBe(false);
    expect(made).toEqual([]);
  });

  test('that could not do one range are tried for the next', async () => {
    const made = fakeCalls({ [PUNCH]: EINVAL });
    const zeroing = new Zeroing(NOWHERE, false);
    for (const range of [1, 2]) expect(await zeroing.zero(range, 1, MAY_PUNCH)).toBe(true);
    expect(made).toEqual([PUNCH, ZERO_RANGE, PUNCH, ZERO_RANGE]);
  });

  test.each([EIO, ENOSPC])('are left when the disk fails (errno %d), which is the answer', async (errno) => {
    const made = fakeCalls({ [PUNCH]: errno });
    await expect(new Zeroing(NOWHERE, false).zero(100, 200, MAY_PUNCH)).rejects.toMatchObject({
      name: 'BackendError',
      errno,
      operation: 'punch',
      offset: 100,
      length: 200,
    });
    expect(made).toEqual([PUNCH]);
  });
});

describe('a fast zero', () => {
  test('uses no rung that may write', async () => {
    const made = fakeCalls({ [PUNCH]: EOPNOTSUPP });
    await expect(new Zeroing(NOWHERE, true).zero(1, 2, FAST)).rejects.toMatchObject({
      errno: EOPNOTSUPP,
      operation: 'fast zero',
      offset: 1,
      length: 2,
    });
    expect(made).toEqual([PUNCH]);
  });

  test('that must stay allocated is refused by a device at once', async () => {
    const made = fakeCalls({});
    await expect(
      new Zeroing(NOWHERE, true).zero(0, 1, { mayPunch: false, isFast: true }),
    ).rejects.toMatchObject({
      errno: EOPNOTSUPP,
    });
    expect(made).toEqual([]);
  });

  test('works on a file, also one that must stay allocated', async () => {
    fakeCalls({});
    expect(await new Zeroing(NOWHERE, false).zero(0, 1, FAST)).toBe(true);
    expect(await new Zeroing(NOWHERE, false).zero(0, 1, { mayPunch: false, isFast: true })).toBe(true);
  });
});

describe('trim', () => {
  test('punches a file and discards on a device', async () => {
    const made = fakeCalls({});
    await new Zeroing(NOWHERE, false).trim(0, 1);
    await new Zeroing(NOWHERE, true).trim(0, 1);
    expect(made).toEqual([PUNCH, 'BLKDISCARD']);
  });

  test('that is not possible is no error, and is not tried again', async () => {
    const made = fakeCalls({ BLKDISCARD: EOPNOTSUPP });
    const zeroing = new Zeroing(NOWHERE, true);
    await zeroing.trim(0, 512);
    await zeroing.trim(0, 512);
    expect(made).toEqual(['BLKDISCARD']);
  });

  test('of a range that is not aligned is no error, and the next one is tried', async () => {
    const made = fakeCalls({ BLKDISCARD: EINVAL });
    const zeroing = new Zeroing(NOWHERE, true);
    await zeroing.trim(1, 512);
    await zeroing.trim(0, 512);
    expect(made).toEqual(['BLKDISCARD', 'BLKDISCARD']);
  });

  test('fails when the disk does', async () => {
    fakeCalls({ [PUNCH]: EIO });
    await expect(new Zeroing(NOWHERE, false).trim(1, 2)).rejects.toMatchObject({
      errno: EIO,
      operation: 'trim',
    });
  });
});
