/**
 * The locks that the sparse array was measured against, on one or two words of shared memory. A thread that does
 * not get one looks again for a while, then sleeps in Atomics.wait: only for threads that serve nobody.
 */

/** Looks before sleeping, some microseconds: about as long as a page is copied. */
const LOOK_COUNT = 200;

export interface Lock {
  lockShared(): void;
  unlockShared(): void;
  lock(): void;
  unlock(): void;
}

/** Words that a lock needs. */
export const LOCK_WORDS = 2;

const FREE = 0;
const LOCKED = 1;
const CONTENDED = 2;

/** A plain mutex, as in Drepper's "Futexes Are Tricky" (2011), section 6; readers exclude each other, too. */
export class Mutex implements Lock {
  readonly #words: Int32Array;
  readonly #at: number;
  readonly #lookCount: number;

  constructor(words: Int32Array, at: number, lookCount = LOOK_COUNT) {
    this.#words = words;
    this.#at = at;
    this.#lookCount = lookCount;
  }

  lock(): void {
    for (let count = 0; count <= this.#lookCount; count += 1) {
      if (
        Atomics.load(this.#words, this.#at) === FREE &&
        Atomics.compareExchange(this.#words, this.#at, FREE, LOCKED) === FREE
      ) {
        return;
      }
    }
    // From here on as CONTENDED, so that whoever unlocks wakes the next.
    while (Atomics.exchange(this.#words, this.#at, CONTENDED) !== FREE) {
      Atomics.wait(this.#words, this.#at, CONTENDED);
    }
  }

  unlock(): void {
    if (Atomics.exchange(this.#words, this.#at, FREE) === CONTENDED) {
      Atomics.notify(this.#words, this.#at, 1);
    }
  }

  lockShared(): void {
    this.lock();
  }

  unlockShared(): void {
    this.unlock();
  }
}

const EXCLUSIVE = -1;

/** Readers share, a writer is alone. A word with the number of readers, and one with that of sleepers. */
export class ReadWriteLock implements Lock {
  readonly #words: Int32Array;
  readonly #at: number;
  readonly #lookCount: number;

  constructor(words: Int32Array, at: number, lookCount = LOOK_COUNT) {
    this.#words = words;
    this.#at = at;
    this.#lookCount = lookCount;
  }

  lockShared(): void {
    this.#acquire((state) => (state === EXCLUSIVE ? undefined : state + 1));
  }

  lock(): void {
    this.#acquire((state) => (state === FREE ? EXCLUSIVE : undefined));
  }

  unlockShared(): void {
    if (Atomics.sub(this.#words, this.#at, 1) === 1) {
      this.#wake();
    }
  }

  unlock(): void {
    Atomics.store(this.#words, this.#at, FREE);
    this.#wake();
  }

  /** `next`: the state to go to from this one, undefined when it has to wait. */
  #acquire(next: (state: number) => number | undefined): void {
    for (let count = 0; ; ) {
      const state = Atomics.load(this.#words, this.#at);
      const wanted = next(state);
      if (wanted !== undefined) {
        if (Atomics.compareExchange(this.#words, this.#at, state, wanted) === state) {
          return;
        }
      } else if (count < this.#lookCount) {
        count += 1;
      } else {
        // Counted before it looks for the last time, in wait: whoever unlocks after that look sees the count.
        Atomics.add(this.#words, this.#at + 1, 1);
        Atomics.wait(this.#words, this.#at, state);
        Atomics.sub(this.#words, this.#at + 1, 1);
      }
    }
  }

  #wake(): void {
    if (Atomics.load(this.#words, this.#at + 1) > 0) {
      Atomics.notify(this.#words, this.#at);
    }
  }
}
