/** A directory for threads that are kept apart by locks: it pins nothing, and changes only when it may. */
import { BUSY, type Directory, FULL, HOLE } from '../../../src/plugins/memory/directory.ts';
import type { DirectoryData, Store } from '../../../src/plugins/memory/page-directory.ts';
import { REGION_SLOT_COUNT, WORDS_PER_SLOT } from '../../../src/plugins/memory/slot-memory.ts';
import { NO_SLOT } from '../../../src/plugins/memory/slot-pool.ts';

/** Pages of a table, 64 MiB: a lock for each table is to keep few threads out. */
export const PLAIN_TABLE_PAGE_COUNT = 1024;

/** Thrown in the middle of an operation that may not change the directory, and would have to. */
export class Restart extends Error {}

const RESTART = new Restart();

export class PlainDirectory implements Directory {
  /** Set by the holder of the lock. */
  mayChange = false;
  readonly #tables: Int32Array;
  readonly #tableRecords: Int32Array;
  readonly #pages: Store;
  readonly #tableStore: Store;

  constructor(data: DirectoryData, pages: Store, tableStore: Store) {
    this.#tables = new Int32Array(data.tables);
    this.#tableRecords = new Int32Array(data.tableRecords);
    this.#pages = pages;
    this.#tableStore = tableStore;
  }

  pin(page: number): number {
    const index = tableIndex(page);
    const table = this.#tables[index] ?? NO_SLOT;
    return table === NO_SLOT ? HOLE : this.#entry(table, page - index * PLAIN_TABLE_PAGE_COUNT);
  }

  unpin(): void {}

  reserve(page: number, from: number, to: number): number {
    this.#assertMayChange();
    const index = tableIndex(page);
    let table = this.#tables[index] ?? NO_SLOT;
    if (table === NO_SLOT) {
      table = this.#tableStore.pool.take(0, 0);
      this.#tables[index] = table;
    }
    const slot = table === NO_SLOT ? NO_SLOT : this.#pages.pool.take(from, to);
    return slot === NO_SLOT ? FULL : slot;
  }

  publish(page: number, slot: number): boolean {
    this.#setEntry(page, slot, 1);
    return true;
  }

  detach(page: number, slot: number): void {
    this.#assertMayChange();
    this.#setEntry(page, NO_SLOT, -1);
    this.#pages.pool.give(slot);
  }

  unpinUnlessZero(page: number, slot: number): void {
    this.detach(page, slot);
  }

  findData(page: number, end: number): number {
    let at = page;
    while (at < end && this.pin(at) === HOLE) {
      at += 1;
    }
    return at;
  }

  findHole(page: number, end: number): number {
    let at = page;
    while (at < end && this.pin(at) !== HOLE && this.pin(at) !== BUSY) {
      at += 1;
    }
    return at;
  }

  #assertMayChange(): void {
    if (!this.mayChange) {
      throw RESTART;
    }
  }

  #entry(table: number, entry: number): number {
    return this.#tableStore.bytes.words(table)[wordOf(table, entry)] ?? NO_SLOT;
  }

  #setEntry(page: number, slot: number, change: number): void {
    const index = tableIndex(page);
    const table = this.#tables[index] ?? NO_SLOT;
    this.#tableStore.bytes.words(table)[wordOf(table, page - index * PLAIN_TABLE_PAGE_COUNT)] = slot;
    const users = (this.#tableRecords[table] ?? 0) + change;
    this.#tableRecords[table] = users;
    if (users === 0) {
      this.#tables[index] = NO_SLOT;
      this.#tableStore.pool.give(table);
    }
  }
}

function tableIndex(page: number): number {
  return Math.floor(page / PLAIN_TABLE_PAGE_COUNT);
}

function wordOf(table: number, entry: number): number {
  return (table & (REGION_SLOT_COUNT - 1)) * WORDS_PER_SLOT + entry;
}
