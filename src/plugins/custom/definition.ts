/** What the author of a device writes: the public contract, from which a Plugin is made (custom-plugin.ts). */
import { assertDefinition } from './definition-check.ts';

/** Sizes in bytes that a client keeps to. */
export interface ExportBlockSize {
  /**
   * Every offset and length is a multiple of it: a power of two from 1 (the default) to 65536. The size of the
   * export must be a multiple, too.
   */
  readonly minimum?: number | undefined;
  /** What is fast: a power of two from 512 to 32 MiB, 4096 unless given, and at least the minimum. */
  readonly preferred?: number | undefined;
}

/** A run of bytes with one allocation status. */
export interface ExportExtent {
  /** First byte. */
  readonly offset: number;
  /** Bytes, above zero. */
  readonly length: number;
  /** True: nothing is allocated, so that a write may fail for want of space. False unless given. */
  readonly isHole?: boolean | undefined;
  /** True: it reads as zeros; clients then do not read it. False unless given. */
  readonly isZero?: boolean | undefined;
}

/** How `zero` is to be done. */
export interface ZeroRequest {
  /** False: the range must stay allocated, so that a later write cannot fail for want of space. */
  readonly mayPunch: boolean;
}

/**
 * A block device. Only `size` and `read` are required; which other methods are there decides what clients are
 * offered. A method returns a plain value or a promise. `Handle` is what `open` returns, for each connection.
 *
 * The server calls with ranges inside the device only, aligned to `blockSize.minimum`, of 1 byte to 32 MiB in
 * `read` and `write`. Many calls may be under way at a time, also in one range: order them yourself where it counts.
 *
 * What a method throws, or rejects with, fails that one request: with the error in its `code` (an ExportError, or
 * any error with a code such as `ENOSPC`), and with EIO where there is none. The log gets one line with the cause.
 * An answer of the wrong type or length counts as thrown, too.
 */
export interface ExportDefinition<Handle = undefined> {
  /** Bytes, 0 to 2^53-1, served exactly. It is read once. */
  readonly size: number;
  /** For people, when the one who serves it says nothing else; at most 4096 bytes of UTF-8. */
  readonly description?: string | undefined;
  /** Bytes that clients keep to; any byte may be read and written unless given. */
  readonly blockSize?: ExportBlockSize | undefined;
  /** True for media where seeking is slow. */
  readonly isRotational?: boolean | undefined;
  /**
   * True: a flush on one connection covers the writes of all, and all see the same data, so that clients may use
   * several at once. Unless given, true when there is no `open`.
   */
  readonly canMultiConn?: boolean | undefined;
  /** A connection begins, within 10 s. The other methods get what it returns. */
  open?(): Handle | Promise<Handle>;
  /** Exactly `length` bytes; they are copied before anything else happens. */
  read(offset: number, length: number, handle: Handle): Uint8Array | Promise<Uint8Array>;
  /** `data` is a copy, yours to keep. Without this method the device is read-only. */
  write?(offset: number, data: Uint8Array, handle: Handle): void | Promise<void>;
  /**
   * Everything that was written before, through any handle, is on stable storage when it is done. Without it
   * neither FLUSH nor FUA is offered, and clients take a write for as safe as it gets once it is answered.
   */
  flush?(handle: Handle): void | Promise<void>;
  /** The range is not needed any more; what it reads as is up to you. Without it TRIM is not offered. */
  trim?(offset: number, length: number, handle: Handle): void | Promise<void>;
  /**
   * The range reads as zeros afterwards. Define it only where that is faster than writing them. Without it, and
   * when it fails with ENOTSUP, the server calls `write`.
   */
  zero?(offset: number, length: number, request: ZeroRequest, handle: Handle): void | Promise<void>;
  /** A hint that the range will be read soon. Without it CACHE is not offered. */
  cache?(offset: number, length: number, handle: Handle): void | Promise<void>;
  /**
   * Where there is data: extents that follow each other without gap or overlap, the first at `offset`; they may
   * end early, or run past the range. Without it `base:allocation` is not offered.
   */
  extents?(
    offset: number,
    length: number,
    handle: Handle,
  ): readonly ExportExtent[] | Promise<readonly ExportExtent[]>;
  /** A connection has ended; it was flushed if there was something to flush. */
  close?(handle: Handle): void | Promise<void>;
  /** The server ends, after every `close`, and waits for it for 5 s. */
  unload?(): void | Promise<void>;
}

/**
 * Checks a definition as far as it can be checked without calling it, and gives it its type. Throws a TypeError
 * or a RangeError of one line.
 */
export function defineExport<Handle = undefined>(
  definition: ExportDefinition<Handle>,
): ExportDefinition<Handle> {
  assertDefinition(definition);
  return definition;
}
