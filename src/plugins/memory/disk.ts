/** The disk that all threads share: what it consists of, and one thread's way to it. */
import { SharedLoans, SLOTS_PER_LOAN } from './loans.ts';
import {
  createDirectory,
  type DirectoryData,
  PageDirectory,
  type Store,
  TABLE_PAGE_COUNT,
} from './page-directory.ts';
import { SLOT_BYTES, SlotMemory } from './slot-memory.ts';
import { createPool, type PoolData, type SlotBudget, SlotPool } from './slot-pool.ts';
import { SparseArray } from './sparse-array.ts';

/** Structured-cloneable: SharedArrayBuffers and numbers. */
export interface DiskData {
  /** Bytes. */
  readonly size: number;
  readonly budget: SlotBudget;
  /** One word: see SharedLoans. */
  readonly lent: SharedArrayBuffer;
  readonly directory: DirectoryData;
  readonly pages: PoolData;
  readonly tables: PoolData;
}

/**
 * A disk of zeros of `size` bytes, up to 2^53-1, that takes at most `limit` bytes of memory for its pages and
 * tables, each 64 KiB. It takes none of it now. Throws a RangeError when there are no addresses for it.
 */
export function createDisk(size: number, limit: number): DiskData {
  const pageCount = Math.ceil(size / SLOT_BYTES);
  const tableCount = Math.ceil(pageCount / TABLE_PAGE_COUNT);
  // With as many more as may be lent, a disk that fits in the limit can always be written to.
  const pageSlotCount = pageCount + Math.ceil((pageCount + tableCount) / (SLOTS_PER_LOAN - 1));
  const slotCountMax = Math.min(Math.floor(limit / SLOT_BYTES), pageSlotCount + tableCount);
  const pages = createPool(Math.min(slotCountMax, pageSlotCount));
  const tables = createPool(Math.min(slotCountMax, tableCount));
  return {
    size,
    budget: { slotCountMax, used: new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT) },
    lent: new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT),
    directory: createDirectory(tableCount, pages.slotCount, tables.slotCount),
    pages,
    tables,
  };
}

/** One thread's way to the disk. */
export function attachDisk({ size, budget, lent, directory, pages, tables }: DiskData): SparseArray {
  const pageStore = openStore(pages, budget);
  const ways = new PageDirectory(directory, pageStore, openStore(tables, budget));
  return new SparseArray(size, ways, pageStore.bytes, new SharedLoans(budget.slotCountMax, lent));
}

function openStore(data: PoolData, budget: SlotBudget): Store {
  const bytes = new SlotMemory(data.regions);
  return { bytes, pool: new SlotPool(data, budget, bytes) };
}
