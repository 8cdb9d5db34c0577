/** Orders of steps of the locks that the sparse array is measured against (test/bench/sparse-array). */
import { describe, expect, test } from 'vitest';
import { LOCK_WORDS, type Lock, Mutex, ReadWriteLock } from '../../bench/sparse-array/locks.ts';
import { explore } from './interleavings.ts';

const LOCKS: readonly (readonly [name: string, make: (words: Int32Array) => Lock])[] = [
  ['mutex', (words) => new Mutex(words, 0, 0)],
  ['reader-writer lock', (words) => new ReadWriteLock(words, 0, 0)],
];

function setUp(): { words: Int32Array; counters: Int32Array } {
  return {
    words: new Int32Array(new SharedArrayBuffer(LOCK_WORDS * 4)),
    counters: new Int32Array(new SharedArrayBuffer(8)),
  };
}

/** Of three threads; sleeping and going on again does not count. */
const INTERRUPTION_COUNT_MAX = 4;

describe.each(LOCKS)('%s, in every order with four interruptions', { timeout: 120_000 }, (_name, make) => {
  test('three writers are alone, and none sleeps for ever', () => {
    const { words, counters } = setUp();
    const write = (): void => {
      const lock = make(words);
      lock.lock();
      Atomics.store(counters, 0, Atomics.load(counters, 0) + 1);
      lock.unlock();
    };
    const { stateCount } = explore(
      () => {},
      [write, write, write],
      ({ inspect }) => {
        expect(inspect(() => Atomics.load(counters, 0))).toBe(3);
      },
      INTERRUPTION_COUNT_MAX,
    );
    expect(stateCount).toBeGreaterThan(100);
  });

  test('readers see nothing half done, and nobody sleeps for ever', () => {
    const { words, counters } = setUp();
    const write = (): void => {
      const lock = make(words);
      lock.lock();
      Atomics.store(counters, 0, 1);
      Atomics.store(counters, 1, 1);
      lock.unlock();
    };
    const read = (): number[] => {
      const lock = make(words);
      lock.lockShared();
      const seen = [Atomics.load(counters, 0), Atomics.load(counters, 1)];
      lock.unlockShared();
      return seen;
    };
    explore(
      () => {},
      [write, read, read],
      ({ results }) => {
        for (const [first, second] of results.slice(1) as number[][]) {
          expect(first).toBe(second);
        }
      },
      INTERRUPTION_COUNT_MAX,
    );
  });
});
