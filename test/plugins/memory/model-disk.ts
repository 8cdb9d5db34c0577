/** A disk for the exploration of interleavings: the real array, directory and pools, with bytes made of words. */
import { createDisk, type DiskData } from '../../../src/plugins/memory/disk.ts';
import { NO_LOANS } from '../../../src/plugins/memory/loans.ts';
import { PageDirectory } from '../../../src/plugins/memory/page-directory.ts';
import { SLOT_BYTES, type SlotBytes, WORDS_PER_SLOT } from '../../../src/plugins/memory/slot-memory.ts';
import { SlotPool } from '../../../src/plugins/memory/slot-pool.ts';
import { SparseArray } from '../../../src/plugins/memory/sparse-array.ts';
import { pause } from './interleavings.ts';

export const HALF = SLOT_BYTES / 2;

/** Each half of a slot is one word, which stands for equal bytes. Copying a slot takes two steps. */
class ModelBytes implements SlotBytes {
  readonly #words: Int32Array<SharedArrayBuffer>;

  constructor(words: Int32Array<SharedArrayBuffer>) {
    this.#words = words;
  }

  isUsable(): boolean {
    return true;
  }

  copyIn(slot: number, at: number, buffer: Uint8Array, start: number, length: number): void {
    for (let done = 0; done < length; done += HALF) {
      Atomics.store(this.#words, word(slot, at + done), buffer[start + done] ?? 0);
    }
  }

  copyOut(slot: number, at: number, buffer: Uint8Array, start: number, length: number): void {
    for (let done = 0; done < length; done += HALF) {
      buffer[start + done] = Atomics.load(this.#words, word(slot, at + done));
    }
  }

  view(): Uint8Array {
    throw new Error('the model lends nothing');
  }

  clear(slot: number, at: number, length: number): void {
    for (let done = 0; done < length; done += HALF) {
      Atomics.store(this.#words, word(slot, at + done), 0);
    }
  }

  isZero(slot: number): boolean {
    return (
      Atomics.load(this.#words, word(slot, 0)) === 0 && Atomics.load(this.#words, word(slot, HALF)) === 0
    );
  }

  discard(): void {
    throw new Error('more slots were freed than a thread keeps');
  }

  words(): Int32Array<SharedArrayBuffer> {
    return this.#words;
  }
}

function word(slot: number, at: number): number {
  return slot * 2 + at / HALF;
}

/** A table's bytes are its words and nothing else; it is all zeros when it is free. */
class ModelTables extends ModelBytes {
  override clear(): void {}
}

export class ModelDisk {
  readonly data: DiskData;
  // The model of the memory knows words by buffer and index, so that no buffer needs to be as long as it seems.
  readonly #pageWords = new Int32Array(new SharedArrayBuffer(4));
  readonly #tableWords = new Int32Array(new SharedArrayBuffer(4));

  constructor(size: number, slotCountMax: number) {
    this.data = createDisk(size, slotCountMax * SLOT_BYTES);
  }

  /** One thread's way to the disk. */
  attach(): ModelThread {
    const { data } = this;
    const pages = new ModelBytes(this.#pageWords);
    const tables = new ModelTables(this.#tableWords);
    const directory = new PageDirectory(
      data.directory,
      { bytes: pages, pool: new SlotPool(data.pages, data.budget, pages) },
      { bytes: tables, pool: new SlotPool(data.tables, data.budget, tables) },
      1,
    );
    return new ModelThread(new SparseArray(data.size, directory, pages, NO_LOANS));
  }

  /** Far from the limit it does not matter when they count. */
  get counters(): SharedArrayBuffer[] {
    return [this.data.budget.used, this.data.pages.counts, this.data.tables.counts];
  }

  /** Slots in use. */
  get used(): number {
    return Atomics.load(new Int32Array(this.data.budget.used), 0);
  }

  /** Users of each page's slot that has any. */
  users(): number[] {
    const records = new Int32Array(this.data.directory.pageRecords);
    return Array.from({ length: 64 }, (_, slot) => Atomics.load(records, slot * 2)).filter(
      (count) => count !== 0,
    );
  }
}

/** One for all: a thread that is run again fills it again. */
const BUFFER = new Uint8Array(2 * SLOT_BYTES);

/** Operations on halves of pages, repeated until they are done. */
export class ModelThread {
  readonly #array: SparseArray;
  readonly #buffer = BUFFER;

  constructor(array: SparseArray) {
    this.#array = array;
  }

  write(offset: number, ...halves: number[]): void {
    for (const [index, value] of halves.entries()) {
      this.#buffer[index * HALF] = value;
    }
    untilDone(halves.length * HALF, (done, rest) =>
      this.#array.write(this.#buffer, done, rest, offset + done),
    );
  }

  read(offset: number, halfCount: number): number[] {
    const { length } = this.#buffer;
    const start = length - halfCount * HALF;
    untilDone(halfCount * HALF, (done, rest) =>
      this.#array.read(this.#buffer, start + done, rest, offset + done),
    );
    return Array.from({ length: halfCount }, (_, index) => this.#buffer[start + index * HALF] ?? 0);
  }

  zero(offset: number, halfCount: number, mayPunch = true): void {
    untilDone(halfCount * HALF, (done, rest) =>
      this.#array.zero(offset + done, rest, mayPunch, Number.POSITIVE_INFINITY),
    );
  }
}

function untilDone(length: number, step: (done: number, rest: number) => number): void {
  for (let done = 0; done < length; ) {
    const more = step(done, length - done);
    done += more;
    if (done < length) {
      pause();
    }
  }
}

export const PAGE = SLOT_BYTES;
export const TABLE = SLOT_BYTES * WORDS_PER_SLOT;
