/** A RAM disk as an export. It is empty at first, and what is in it goes with the process. */
import { ALLOCATION_CONTEXT, type Handle, type Plugin, type PluginInfo } from '../plugin.ts';
import { attachDisk, createDisk, type DiskData } from './disk.ts';
import { MemoryHandle } from './memory-handle.ts';
import type { SparseArray } from './sparse-array.ts';

export interface MemoryOptions {
  /** Bytes, up to 2^53-1. */
  readonly size: number;
  /** Bytes of memory that pages and tables may take; writes beyond get ENOSPC. Up to MEMORY_LIMIT_BYTES_MAX. */
  readonly limit: number;
  readonly isReadOnly: boolean;
}

/** What a worker thread needs to serve the same disk. Structured-cloneable. */
export interface MemoryData {
  readonly disk: DiskData;
  readonly isReadOnly: boolean;
}

export class MemoryPlugin implements Plugin {
  readonly info: PluginInfo;
  readonly sharing: { readonly module: string; readonly data: MemoryData };
  readonly #array: SparseArray;

  private constructor(data: MemoryData) {
    this.info = describe(data);
    this.sharing = { module: import.meta.url, data };
    this.#array = attachDisk(data.disk);
  }

  /** Throws a RangeError when this machine has no addresses for the limit. */
  static create({ size, limit, isReadOnly }: MemoryOptions): MemoryPlugin {
    return new MemoryPlugin({ disk: createDisk(size, limit), isReadOnly });
  }

  /** The same disk in another thread; `data` is that of `sharing`. */
  static attach(data: MemoryData): MemoryPlugin {
    return new MemoryPlugin(data);
  }

  open(): Handle {
    return new MemoryHandle(this.#array);
  }

  async close(): Promise<void> {}
}

/** What `sharing` promises: the export in another thread. */
export function attachPlugin(data: unknown): Plugin {
  return MemoryPlugin.attach(data as MemoryData);
}

function describe({ disk, isReadOnly }: MemoryData): PluginInfo {
  return {
    size: disk.size,
    isReadOnly,
    isRotational: false,
    // FLUSH and FUA have nothing to do: what is acknowledged is as safe as it will ever be.
    canFlush: true,
    canFua: true,
    canTrim: true,
    canZero: true,
    canFastZero: true,
    canCache: true,
    canMultiConn: true,
    blockSize: { minimum: 1, preferred: 4096 },
    metaContexts: [ALLOCATION_CONTEXT],
  };
}
