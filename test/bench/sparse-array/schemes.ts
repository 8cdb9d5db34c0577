/** The ways to share the sparse array that are measured. The array and the pools are the same in all of them. */
import { attachDisk, createDisk, type DiskData } from '../../../src/plugins/memory/disk.ts';
import { NO_LOANS } from '../../../src/plugins/memory/loans.ts';
import { SLOT_BYTES, SlotMemory } from '../../../src/plugins/memory/slot-memory.ts';
import { type PoolData, SlotPool } from '../../../src/plugins/memory/slot-pool.ts';
import { SparseArray } from '../../../src/plugins/memory/sparse-array.ts';
import { LOCK_WORDS, type Lock, Mutex, ReadWriteLock } from './locks.ts';
import { PLAIN_TABLE_PAGE_COUNT, PlainDirectory, Restart } from './plain-directory.ts';

export const SCHEMES = ['mutex', 'rwlock with restart', 'lock per table, unlocked reads', 'pins'] as const;
export type Scheme = (typeof SCHEMES)[number];

const STRIPE_BYTES = PLAIN_TABLE_PAGE_COUNT * SLOT_BYTES;

/** Words of a stripe: its lock and its version, in cache lines of their own. */
const STRIPE_WORDS = 32;
const VERSION = 16;

/** Unlocked reads of one range before the lock is taken. */
const UNLOCKED_READ_COUNT = 4;

/** What a mix consists of. `offset` and `length` stay inside a stripe. */
export interface SharedArray {
  read(buffer: Uint8Array, length: number, offset: number): void;
  write(buffer: Uint8Array, length: number, offset: number): void;
  trim(length: number, offset: number): void;
}

/** What the threads share. Structured-cloneable. */
export interface SchemeData {
  readonly scheme: Scheme;
  readonly disk: DiskData;
  readonly stripes: SharedArrayBuffer;
}

export function createScheme(scheme: Scheme, size: number): SchemeData {
  const stripeCount = Math.ceil(size / STRIPE_BYTES);
  // Of a disk of 1 TiB more, so that there are tables enough for the smaller ones of the plain directory.
  const disk = createDisk(size + 2 ** 40, 2 * size);
  return { scheme, disk, stripes: new SharedArrayBuffer(stripeCount * STRIPE_WORDS * 4) };
}

export function attachScheme({ scheme, disk, stripes }: SchemeData): SharedArray {
  const words = new Int32Array(stripes);
  switch (scheme) {
    case 'pins':
      return new PinnedArray(attachDisk(disk));
    case 'mutex':
      return new LockedArray(disk, [new Mutex(words, 0)], 'always exclusive');
    case 'rwlock with restart':
      return new LockedArray(disk, [new ReadWriteLock(words, 0)], 'restart');
    case 'lock per table, unlocked reads': {
      const locks = Array.from(
        { length: words.length / STRIPE_WORDS },
        (_, index) => new ReadWriteLock(words, index * STRIPE_WORDS),
      );
      return new LockedArray(disk, locks, 'restart', words);
    }
  }
}

class PinnedArray implements SharedArray {
  readonly #array: SparseArray;

  constructor(array: SparseArray) {
    this.#array = array;
  }

  read(buffer: Uint8Array, length: number, offset: number): void {
    untilDone(length, (done) => this.#array.read(buffer, done, length - done, offset + done));
  }

  write(buffer: Uint8Array, length: number, offset: number): void {
    untilDone(length, (done) => this.#array.write(buffer, done, length - done, offset + done));
  }

  trim(length: number, offset: number): void {
    untilDone(length, (done) =>
      this.#array.zero(offset + done, length - done, true, Number.POSITIVE_INFINITY),
    );
  }
}

class LockedArray implements SharedArray {
  readonly #array: SparseArray;
  readonly #directory: PlainDirectory;
  readonly #locks: readonly Lock[];
  readonly #mode: 'always exclusive' | 'restart';
  /** Where the versions are, when reads try without the lock. */
  readonly #versions: Int32Array | undefined;

  constructor(
    disk: DiskData,
    locks: readonly Lock[],
    mode: 'always exclusive' | 'restart',
    versions?: Int32Array,
  ) {
    const open = (pool: PoolData) => {
      const bytes = new SlotMemory(pool.regions);
      return { bytes, pool: new SlotPool(pool, disk.budget, bytes) };
    };
    const pages = open(disk.pages);
    this.#directory = new PlainDirectory(disk.directory, pages, open(disk.tables));
    this.#array = new SparseArray(disk.size, this.#directory, pages.bytes, NO_LOANS);
    this.#locks = locks;
    this.#mode = mode;
    this.#versions = versions;
  }

  read(buffer: Uint8Array, length: number, offset: number): void {
    if (this.#versions !== undefined && this.#readUnlocked(this.#versions, buffer, length, offset)) {
      return;
    }
    const lock = this.#lock(offset);
    lock.lockShared();
    this.#array.read(buffer, 0, length, offset);
    lock.unlockShared();
  }

  write(buffer: Uint8Array, length: number, offset: number): void {
    this.#change(offset, () => this.#array.write(buffer, 0, length, offset));
  }

  trim(length: number, offset: number): void {
    this.#change(offset, () => this.#array.zero(offset, length, true, Number.POSITIVE_INFINITY));
  }

  /** A version is odd while the directory changes; what was read between two equal even ones is right. */
  #readUnlocked(versions: Int32Array, buffer: Uint8Array, length: number, offset: number): boolean {
    const at = this.#stripe(offset) * STRIPE_WORDS + VERSION;
    for (let count = 0; count < UNLOCKED_READ_COUNT; count += 1) {
      const version = Atomics.load(versions, at);
      if (version % 2 === 0) {
        this.#array.read(buffer, 0, length, offset);
        if (Atomics.load(versions, at) === version) {
          return true;
        }
      }
    }
    return false;
  }

  #change(offset: number, operation: () => void): void {
    const lock = this.#lock(offset);
    if (this.#mode === 'restart') {
      lock.lockShared();
      this.#directory.mayChange = false;
      try {
        return operation();
      } catch (error) {
        if (!(error instanceof Restart)) {
          throw error;
        }
      } finally {
        lock.unlockShared();
      }
    }
    lock.lock();
    this.#countChange(offset);
    this.#directory.mayChange = true;
    operation();
    this.#countChange(offset);
    lock.unlock();
  }

  #countChange(offset: number): void {
    if (this.#versions !== undefined) {
      Atomics.add(this.#versions, this.#stripe(offset) * STRIPE_WORDS + VERSION, 1);
    }
  }

  #lock(offset: number): Lock {
    const lock = this.#locks[this.#stripe(offset)];
    if (lock === undefined) {
      throw new RangeError(`no lock for ${offset}`);
    }
    return lock;
  }

  #stripe(offset: number): number {
    return this.#locks.length === 1 ? 0 : Math.floor(offset / STRIPE_BYTES);
  }
}

function untilDone(length: number, step: (done: number) => number): void {
  for (let done = 0; done < length; ) {
    done += step(done);
  }
}

/** So that the words of a lock fit their cache line. */
if (LOCK_WORDS > VERSION) {
  throw new Error('Bug: locks and versions overlap');
}
