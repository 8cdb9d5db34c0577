/**
 * Where the pages lie: a directory of tables of slot numbers, shared by all threads without a lock.
 *
 *   directory: one word for each GiB of the disk         table: one word for each page of the GiB
 *   +---+---+---+---+---+--                              +---+---+---+--  --+---+
 *   | 0 | t | 0 | 0 | u |        0: nothing stored       | 0 | s | 0 |      | r |
 *   +---+---+---+---+---+--                              +---+---+---+--  --+---+
 *
 * Three rules make it safe; test/plugins/memory/interleavings.test.ts runs every order of small cases.
 *
 * 1. A page is used only while it is pinned. `users` of its slot counts pins, plus ATTACHED while the page is in
 *    its table; a slot with no users is free and cannot be pinned. A thread may have read the slot's number
 *    long ago, so after pinning it looks again: the slot must belong to the same GiB (`owner`, constant while
 *    there are users) and still stand in the table. Then it is the page, whatever happened in between.
 * 2. Tables lie in a pool of their own. What was a table once is a table for ever, all zeros while it is free:
 *    a thread that holds an old number reads a hole, or a slot that rule 1 turns away. `users` of a table counts its
 *    pages and those who are about to add one; the last to go takes it out of the directory.
 * 3. A page whose bytes are being judged by `unpinUnlessZero` has no users for that time: no byte can change.
 *
 * A thread that meets a state in between two steps of another one answers BUSY after a few tries; it never waits.
 *
 * Measured with four threads on two cores (npm run bench:sparse-array, 2026-11), times the rate of one mutex:
 *
 *   read/write/trim, block              80/10/10 64K   80/10/10 4K   20/40/40 64K   20/40/40 4K
 *   reader-writer lock with restart         0.9            0.5           0.5            0.4
 *   lock per table, unlocked reads          1.8            1.2           1.2            0.9
 *   this                                    2.1            1.8           2.0            1.5
 */
import { BUSY, type Directory, FULL, HOLE } from './directory.ts';
import { REGION_SLOT_COUNT, type SlotBytes, WORDS_PER_SLOT } from './slot-memory.ts';
import { NO_SLOT, type SlotPool } from './slot-pool.ts';

/** Pages of a table: 1 GiB of the disk. */
export const TABLE_PAGE_COUNT = WORDS_PER_SLOT;

/** Entries of the directory that one mark stands for, 1 TiB: empty petabytes are passed over in steps of it. */
const TABLES_PER_MARK = 1024;

/**
 * In `users` of a page's slot: the page is in its table. More than there are pins: one for each thread, and one for each loan
 * of the page, which is for a request in flight of more than 64 KiB.
 */
const ATTACHED = 1 << 24;

/** Words of a slot's record. */
const RECORD_WORDS = 2;
const USERS = 0;
const OWNER = 1;

/** Tries before BUSY: one is nearly always enough, and a thread that was interrupted takes its time anyway. */
const TRY_COUNT_MAX = 16;

/** Entries that one search for data looks at, some 50 us. */
const SEARCH_COUNT_MAX = TABLE_PAGE_COUNT;

/** What the threads share of the directory. Structured-cloneable. */
export interface DirectoryData {
  readonly tables: SharedArrayBuffer;
  /** One word for TABLES_PER_MARK entries: 1 when one of them was ever used. */
  readonly marks: SharedArrayBuffer;
  /** RECORD_WORDS for each slot of each pool. */
  readonly pageRecords: SharedArrayBuffer;
  readonly tableRecords: SharedArrayBuffer;
}

export function createDirectory(tableCount: number, pageSlots: number, tableSlots: number): DirectoryData {
  const words = (count: number): SharedArrayBuffer =>
    new SharedArrayBuffer(count * Int32Array.BYTES_PER_ELEMENT);
  return {
    tables: words(tableCount),
    marks: words(Math.ceil(tableCount / TABLES_PER_MARK)),
    pageRecords: words(pageSlots * RECORD_WORDS),
    tableRecords: words(tableSlots * RECORD_WORDS),
  };
}

/** A pool and the bytes behind it. */
export interface Store {
  readonly pool: SlotPool;
  readonly bytes: SlotBytes;
}

export class PageDirectory implements Directory {
  readonly #tables: Int32Array;
  readonly #marks: Int32Array;
  readonly #pageRecords: Int32Array;
  readonly #tableRecords: Int32Array;
  readonly #pageStore: Store;
  readonly #tableStore: Store;
  readonly #tryCountMax: number;

  constructor(data: DirectoryData, pageStore: Store, tableStore: Store, tryCountMax = TRY_COUNT_MAX) {
    this.#tables = new Int32Array(data.tables);
    this.#marks = new Int32Array(data.marks);
    this.#pageRecords = new Int32Array(data.pageRecords);
    this.#tableRecords = new Int32Array(data.tableRecords);
    this.#pageStore = pageStore;
    this.#tableStore = tableStore;
    this.#tryCountMax = tryCountMax;
  }

  pin(page: number): number {
    const index = tableIndex(page);
    const entry = page - index * TABLE_PAGE_COUNT;
    for (let count = 0; count < this.#tryCountMax; count += 1) {
      const table = Atomics.load(this.#tables, index);
      if (table === NO_SLOT) {
        return HOLE;
      }
      const slot = this.#entry(table, entry);
      if (slot === NO_SLOT) {
        return HOLE;
      }
      const record = slot * RECORD_WORDS;
      const users = Atomics.load(this.#pageRecords, record + USERS);
      if (
        users < ATTACHED ||
        Atomics.compareExchange(this.#pageRecords, record + USERS, users, users + 1) !== users
      ) {
        continue;
      }
      if (Atomics.load(this.#pageRecords, record + OWNER) === index && this.#entry(table, entry) === slot) {
        return slot;
      }
      this.unpin(slot);
    }
    return BUSY;
  }

  unpin(slot: number): void {
    this.#drop(slot, 1);
  }

  reserve(page: number, from: number, to: number): number {
    const index = tableIndex(page);
    const table = this.#holdTable(index);
    if (table < 0) {
      return table;
    }
    const slot = this.#pageStore.pool.take(from, to);
    if (slot === NO_SLOT) {
      this.#dropTable(table);
      return FULL;
    }
    Atomics.store(this.#pageRecords, slot * RECORD_WORDS + OWNER, index);
    return slot;
  }

  publish(page: number, slot: number): boolean {
    const index = tableIndex(page);
    // Held since `reserve`, so it is still there.
    const table = Atomics.load(this.#tables, index);
    Atomics.store(this.#pageRecords, slot * RECORD_WORDS + USERS, ATTACHED);
    if (this.#exchangeEntry(table, page - index * TABLE_PAGE_COUNT, NO_SLOT, slot)) {
      return true;
    }
    this.#drop(slot, ATTACHED);
    this.#dropTable(table);
    return false;
  }

  detach(page: number, slot: number): void {
    const index = tableIndex(page);
    const table = Atomics.load(this.#tables, index);
    // When another thread has detached it already, the page is a hole or a newer page: this one is done.
    if (table !== NO_SLOT && this.#exchangeEntry(table, page - index * TABLE_PAGE_COUNT, slot, NO_SLOT)) {
      this.#drop(slot, ATTACHED);
      this.#dropTable(table);
    }
  }

  unpinUnlessZero(page: number, slot: number): void {
    const users = slot * RECORD_WORDS + USERS;
    if (Atomics.compareExchange(this.#pageRecords, users, ATTACHED + 1, 0) !== ATTACHED + 1) {
      return this.unpin(slot);
    }
    if (!this.#pageStore.bytes.isZero(slot)) {
      Atomics.store(this.#pageRecords, users, ATTACHED);
      return;
    }
    const index = tableIndex(page);
    const table = Atomics.load(this.#tables, index);
    this.#exchangeEntry(table, page - index * TABLE_PAGE_COUNT, slot, NO_SLOT);
    this.#pageStore.pool.give(slot);
    this.#dropTable(table);
  }

  // Neither search pins anything. A page that stays what it is during the search keeps its table in its place;
  // for one that changes meanwhile either answer was true at some moment.

  findData(page: number, end: number): number {
    let at = page;
    for (let count = 0; at < end && count < SEARCH_COUNT_MAX; ) {
      const index = tableIndex(at);
      const table = Atomics.load(this.#tables, index);
      if (table === NO_SLOT) {
        at = this.#skipHoles(index) * TABLE_PAGE_COUNT;
        count += 1;
        continue;
      }
      const first = index * TABLE_PAGE_COUNT;
      const stop = Math.min(end, first + TABLE_PAGE_COUNT);
      for (; at < stop; at += 1, count += 1) {
        if (this.#entry(table, at - first) !== NO_SLOT) {
          return at;
        }
      }
    }
    return Math.min(at, end);
  }

  findHole(page: number, end: number): number {
    const index = tableIndex(page);
    const table = Atomics.load(this.#tables, index);
    const first = index * TABLE_PAGE_COUNT;
    const stop = Math.min(end, first + TABLE_PAGE_COUNT);
    let at = page;
    while (at < stop && table !== NO_SLOT && this.#entry(table, at - first) !== NO_SLOT) {
      at += 1;
    }
    return at;
  }

  /** Behind an entry that is empty: the next one, or the first that the next mark stands for. */
  #skipHoles(index: number): number {
    const mark = Math.floor(index / TABLES_PER_MARK);
    return Atomics.load(this.#marks, mark) === 0 ? (mark + 1) * TABLES_PER_MARK : index + 1;
  }

  /** A table with one user more, made if there is none; or FULL or BUSY. */
  #holdTable(index: number): number {
    for (let count = 0; count < this.#tryCountMax; count += 1) {
      const table = Atomics.load(this.#tables, index);
      if (table === NO_SLOT) {
        const made = this.#makeTable(index);
        if (made !== BUSY) {
          return made;
        }
        continue;
      }
      const record = table * RECORD_WORDS;
      const users = Atomics.load(this.#tableRecords, record + USERS);
      if (
        users === 0 ||
        Atomics.compareExchange(this.#tableRecords, record + USERS, users, users + 1) !== users
      ) {
        continue;
      }
      if (Atomics.load(this.#tables, index) === table) {
        return table;
      }
      this.#dropTable(table);
    }
    return BUSY;
  }

  /** A new table with one user; FULL; or BUSY when another thread was first. */
  #makeTable(index: number): number {
    const table = this.#tableStore.pool.take(0, 0);
    if (table === NO_SLOT) {
      return FULL;
    }
    const record = table * RECORD_WORDS;
    Atomics.store(this.#tableRecords, record + OWNER, index);
    Atomics.store(this.#tableRecords, record + USERS, 1);
    Atomics.store(this.#marks, Math.floor(index / TABLES_PER_MARK), 1);
    if (Atomics.compareExchange(this.#tables, index, NO_SLOT, table) === NO_SLOT) {
      return table;
    }
    this.#dropTable(table);
    return BUSY;
  }

  #dropTable(table: number): void {
    const record = table * RECORD_WORDS;
    if (Atomics.sub(this.#tableRecords, record + USERS, 1) === 1) {
      // Nobody can hold it any more, so the owner stays what it is. One that was never in its place is not there.
      const owner = Atomics.load(this.#tableRecords, record + OWNER);
      Atomics.compareExchange(this.#tables, owner, table, NO_SLOT);
      this.#tableStore.pool.give(table);
    }
  }

  #drop(slot: number, users: number): void {
    if (Atomics.sub(this.#pageRecords, slot * RECORD_WORDS + USERS, users) === users) {
      this.#pageStore.pool.give(slot);
    }
  }

  #entry(table: number, entry: number): number {
    return Atomics.load(this.#tableStore.bytes.words(table), wordOf(table, entry));
  }

  #exchangeEntry(table: number, entry: number, from: number, to: number): boolean {
    const words = this.#tableStore.bytes.words(table);
    return Atomics.compareExchange(words, wordOf(table, entry), from, to) === from;
  }
}

function tableIndex(page: number): number {
  return Math.floor(page / TABLE_PAGE_COUNT);
}

function wordOf(table: number, entry: number): number {
  return (table & (REGION_SLOT_COUNT - 1)) * WORDS_PER_SLOT + entry;
}
