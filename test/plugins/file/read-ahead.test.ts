/** Our own read-ahead: who gets it, how far it goes, and that it stays within the file. */
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { CacheEviction } from '../../../src/plugins/file/cache-eviction.ts';
import { CHUNK_BYTES } from '../../../src/plugins/file/chunks.ts';
import { ReadAhead } from '../../../src/plugins/file/read-ahead.ts';
import { FakeLog } from '../../server/fake-log.ts';
import { KiB } from './files.ts';

const SIZE = 10 * CHUNK_BYTES + 513;

/** Ranges asked for: first byte and the one behind the last. */
let asked: [number, number][] = [];
let eviction: CacheEviction;

beforeEach(() => {
  asked = [];
  eviction = new CacheEviction({
    fd: 1,
    size: SIZE,
    drainWindows: async () => {},
    drained: () => {},
    keepsResident: false,
    log: new FakeLog(),
  });
  vi.spyOn(eviction, 'readAhead').mockImplementation((offset, length) => {
    asked.push([offset, offset + length]);
  });
});

afterEach(() => {
  vi.restoreAllMocks();
});

function follow(
  readAhead: ReadAhead,
  offset: number,
  length: number,
  count: number,
  isClientAhead = false,
): void {
  for (let index = 0; index < count; index += 1)
    readAhead.follow(offset + index * length, length, isClientAhead);
}

describe('a stream', () => {
  test('is read ahead of to the end of the next chunk, and each byte once', () => {
    follow(new ReadAhead(eviction, SIZE, false), 0, 64 * KiB, 5 * 32);
    expect(asked[0]?.[0]).toBe(3 * 64 * KiB);
    for (const [index, [begin, end]] of asked.entries()) {
      if (index > 0) expect(begin).toBe(asked[index - 1]?.[1]);
      expect(end % CHUNK_BYTES).toBe(0);
      expect(end - begin).toBeLessThanOrEqual(2 * CHUNK_BYTES);
    }
    expect(asked.at(-1)?.[1]).toBe(6 * CHUNK_BYTES);
  });

  test('is read ahead of from its first read on when the operator says so', () => {
    follow(new ReadAhead(eviction, SIZE, true), 0, 4096, 1);
    expect(asked).toEqual([[4096, 2 * CHUNK_BYTES]]);
  });

  test('ends at the end of the file', () => {
    follow(new ReadAhead(eviction, SIZE, false), SIZE - 4 * 512, 512, 4);
    expect(asked).toEqual([[SIZE - 512, SIZE]]);
  });

  test('of a client that reads ahead itself is left to that client, from its second read on', () => {
    const readAhead = new ReadAhead(eviction, SIZE, false);
    follow(readAhead, 0, 64 * KiB, 1);
    follow(readAhead, 64 * KiB, 64 * KiB, 20, true);
    expect(asked).toEqual([]);
  });

  test('of a client that stops to read ahead is taken up where it is', () => {
    const readAhead = new ReadAhead(eviction, SIZE, false);
    follow(readAhead, 0, 64 * KiB, 20, true);
    follow(readAhead, 20 * 64 * KiB, 64 * KiB, 3);
    expect(asked).toEqual([[23 * 64 * KiB, 2 * CHUNK_BYTES]]);
  });
});

test('reads that do not follow each other are not read ahead of', () => {
  const readAhead = new ReadAhead(eviction, SIZE, false);
  for (const offset of [0, 8192, 4096, CHUNK_BYTES, CHUNK_BYTES + 8192]) follow(readAhead, offset, 4096, 1);
  expect(asked).toEqual([]);
});
