/**
 * The contract between the server and whatever gives an export its contents. A Plugin stands for one export;
 * a Handle is one connection's open of it. Requests reach a handle already judged: inside the export, flags
 * legal, writes only when it is not read-only. Many may run at a time; overlapping ones have no order.
 *
 * A method returns nothing when it is done and a promise when it is not, and throws or rejects with a
 * BackendError; anything else that is thrown counts as EIO.
 */
import type { Logger } from '../log.ts';
import type { ExportInfo } from '../protocol/export-info.ts';
import type { StatusExtent } from '../protocol/reply.ts';
import type { WindowCounter } from './window-counter.ts';

/** The meta context of the specification: where a write may fail for want of space, and what reads as zeros. */
export const ALLOCATION_CONTEXT = 'base:allocation';

/** What a plugin says of its export; the server adds name and description. */
export type PluginInfo = Omit<ExportInfo, 'name' | 'description'>;

/** A run of bytes with one allocation status. `isZero`: it reads as zeros. */
export interface Extent {
  /** Bytes, above zero. */
  readonly length: number;
  readonly isHole: boolean;
  readonly isZero: boolean;
}

export interface ZeroOptions {
  /** False: the range must stay allocated (NBD_CMD_FLAG_NO_HOLE). */
  readonly mayPunch: boolean;
  /** True: fail with EOPNOTSUPP, quickly, where zeroing is no faster than writing (NBD_CMD_FLAG_FAST_ZERO). */
  readonly isFast: boolean;
}

export interface Plugin {
  /** Constant while the plugin lives. */
  readonly info: PluginInfo;
  /** For people, where the operator gives no other; the empty string when undefined. */
  readonly description?: string | undefined;
  /**
   * How worker threads serve beside the main one: `module` is the URL of a module that exports `attachPlugin(data,
   * context)`; absent: the export is served by the main thread alone.
   */
  readonly sharing?: { readonly module: string; readonly data: unknown };
  open(): Handle | Promise<Handle>;
  /**
   * Flushes and lets go of everything; all handles are closed before. Rejects when something that was
   * acknowledged may not be on stable storage.
   */
  close(): Promise<void>;
  /**
   * Called instead of `close` when the server must end although handles are in use, by requests that do not end:
   * flushes like `close`, and keeps what they use, such as descriptors, whose numbers others might get. Absent:
   * `close` does.
   */
  settle?(): Promise<void>;
  /** Errors so far that cost acknowledged data, for operators: from the first one on FLUSH and FUA fail. */
  readonly lossCount?: number | undefined;
  /**
   * Bytes of a range that are in the host's page cache, for operators; whole pages, so that they may be more
   * than the range. Rejects when that cannot be told, and once the plugin is being closed.
   */
  residentBytes?(offset: number, length: number): Promise<number>;
  /** Called instead of `close` when the server cannot start after all: undoes what opening has made. */
  abandon?(): Promise<void>;
}

/** What `attachPlugin` is told beside the plugin's data. */
export interface AttachContext {
  readonly log: Logger;
  /** From 1 to below `threadCount`, another one in each thread; the main thread has 0. */
  readonly thread: number;
  /** Threads that serve, the main one included. */
  readonly threadCount: number;
  readonly windowCounter: WindowCounter;
}

/**
 * A worker thread's own face of a plugin that lives in the main thread: it opens handles there. Its `close` lets
 * go of what this thread holds; the plugin itself is closed after those of all threads. `data` is a structured
 * clone: shared memory in it is shared, and a descriptor is valid in every thread and stays the plugin's.
 */
export type AttachPlugin = (data: unknown, context: AttachContext) => Plugin | Promise<Plugin>;

/** A WRITE that goes to a file as its payload comes in. Whoever makes it may stop after any piece, and for good. */
export interface IncomingWrite {
  /** Where the pieces go, at the offsets of the export. It stays open until the handle's `close`. */
  readonly fd: number;
  /** The file may have been truncated: what lies past its end must not be written. */
  readonly mustBeInside: boolean;
  /**
   * A piece was written, with an `outcome`: 0, the microseconds that it took when it had to wait, or -errno when it is not
   * all there (-ENODATA: it lies past the end). False: no more pieces. Throws a BackendError when the WRITE has failed.
   */
  wrote(outcome: number): boolean;
}

/**
 * Memory in which a part of the export lies, lent to whoever moves its bytes: parts in their order. What others do to the
 * export meanwhile shows in it, or, where they have freed it, what is put into it vanishes: either is an order in which
 * requests that overlap may have happened.
 */
export interface LentMemory {
  readonly arrays: readonly Uint8Array[];
  /** For each array where the part begins in it, and its bytes. */
  readonly ranges: Float64Array;
  /** Bytes of all parts together, above zero. */
  readonly length: number;
  /** To be called once, before the handle's `close`, whether or not what was lent to be filled was filled. */
  giveBack(): void;
}

export interface Handle {
  /** Fills `buffer` from `start` on without waiting for anything: false when it cannot, and nothing counts. */
  readNow?(buffer: Uint8Array, start: number, length: number, offset: number): boolean;
  /**
   * A descriptor whose bytes from `offset` on are those of the export, when all of the range is in the page cache and can
   * be sent from there without waiting for a disk. It stays open, and the file's bytes the export's, until `close`.
   */
  residentFile?(offset: number, length: number): number | undefined;
  /** Fills `length` bytes of `buffer` from `start` on. */
  read(buffer: Uint8Array, start: number, length: number, offset: number): void | Promise<void>;
  /**
   * Takes the data out of `buffer` before it returns: true when done, a promise when the reply must wait,
   * false when it could not and nothing counts.
   */
  writeNow?(buffer: Uint8Array, start: number, length: number, offset: number): boolean | Promise<void>;
  /**
   * A WRITE whose payload is still to come, all of it, and may go to a file piece by piece without waiting for anything.
   * Undefined when it cannot; then, and for what is left of it after a piece that was the last, `write` is called.
   */
  receiveWrite?(offset: number, length: number): IncomingWrite | undefined;
  /**
   * Memory of the export itself, of all that is asked for (`read`), or from `offset` on of as much as may be lent at a time
   * (`write`). Undefined when it cannot be lent now; then `readNow`, `read` or `write` are called. Never throws.
   */
  lend?(offset: number, length: number, purpose: 'read' | 'write'): LentMemory | undefined;
  /** `buffer` stays as it is until the promise is settled. `isFua`: durable before it is done. */
  write(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    isFua: boolean,
  ): void | Promise<void>;
  /** Everything acknowledged before, on any handle of the export, is durable when it is done. */
  flush(): void | Promise<void>;
  trim(offset: number, length: number, isFua: boolean): void | Promise<void>;
  zero(offset: number, length: number, options: ZeroOptions, isFua: boolean): void | Promise<void>;
  cache(offset: number, length: number): void | Promise<void>;
  /** Consecutive extents from `offset` on, at least one; they may end early or run past the range. */
  extents(
    offset: number,
    length: number,
    isRequestOne: boolean,
  ): readonly Extent[] | Promise<readonly Extent[]>;
  /**
   * The status in a meta context of `info.metaContexts` other than `base:allocation`, by the same rules;
   * needed only where there is one.
   */
  contextExtents?(
    context: string,
    offset: number,
    length: number,
    isRequestOne: boolean,
  ): readonly StatusExtent[] | Promise<readonly StatusExtent[]>;
  /** Called once, when nothing is in flight. */
  close(): void | Promise<void>;
}
