/** The disk that all threads share: what it consists of, and one thread's way to it. */
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
  const slotCountMax = Math.min(Math.floor(limit / SLOT_BYTES), pageCount + tableCount);
  const pages = createPool(Math.min(slotCountMax, pageCount));
  const tables = createPool(Math.min(slotCountMax, tableCount));
  return {
    size,
    budget: { slotCountMax, used: new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT) },
    directory: createDirectory(tableCount, pages.slotCount, tables.slotCount),
    pages,
    tables,
  };
}

/** One thread's way to the disk. */
export function attachDisk({ size, budget, directory, pages, tables }: DiskData): SparseArray {
  const pageStore = openStore(pages, budget);
  const ways = new PageDirectory(directory, pageStore, openStore(tables, budget));
  return new SparseArray(size, ways, pageStore.bytes);
}

function openStore(data: PoolData, budget: SlotBudget): Store {
  const bytes = new SlotMemory(data.regions);
  return { bytes, pool: new SlotPool(data, budget, bytes) };
}
