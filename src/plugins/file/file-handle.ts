/**
 * One connection's open of a file: reads and writes that try without waiting and hop to the addon's thread
 * pool when they must.
 */
import { native } from '../../native/binding.ts';
import { call, callQueued } from '../../native/call.ts';
import { RWF_NOWAIT } from '../../native/constants.ts';
import { EINVAL, EIO, ENOSYS, EOPNOTSUPP, errnoOf } from '../../native/errno.ts';
import type { StatusExtent } from '../../protocol/reply.ts';
import { BackendError } from '../backend-error.ts';
import type { Extent, Handle, IncomingWrite, ZeroOptions } from '../plugin.ts';
import { CHUNK_BYTES } from './chunks.ts';
import { FileIncomingWrite } from './incoming-write.ts';
import { ReadAhead } from './read-ahead.ts';
import { findResident, RESIDENT_CONTEXT } from './residency.ts';
import type { SharedFile } from './shared-file.ts';
import { WriteBet } from './write-bet.ts';

/** Longest read that is tried on the event loop: a copy of 128 KiB from the cache takes some 20 us. */
const READ_NOW_BYTES_MAX = 128 * 1024;

/**
 * Shortest read that always bypasses the page cache with `--cache none` (native/direct_file.h). Below it a disk
 * request costs more than what read-ahead through the cache does (4 KiB: 0.28 against 0.4 GB/s), where reads follow
 * each other; where they do not, each is a disk request anyway (native/direct_queue.h).
 */
const DIRECT_READ_BYTES_MIN = 64 * 1024;

/** Shorter reads bypass the page cache only in whole blocks: a part of one would read the whole from the disk. */
const DIRECT_BLOCK_BYTES = 4096;

/**
 * Longest read that needs no thread (native/direct_queue.h). So long ones do without while the file is being written, too: a
 * thread that waits for the disk keeps writes from it. 64 KiB mixed at depth 16, MiB/s with threads and without: one connection
 * 985 and 1515, four 1108 and 1969. Reads alone are better copied by several threads, random ones over four connections 1103
 * and 883 (2 cores, ext4 on virtio, Linux 6.18, 2026-11-27).
 */
const QUEUED_READ_BYTES_MAX = 64 * 1024;

/** Bytes of shorter reads in flight with which a client reads ahead itself; of longer ones any will do. */
const CLIENT_AHEAD_BYTES = CHUNK_BYTES;

/**
 * Longest write that is made on the event loop; longer ones overlap with the socket in the pool. 256 KiB at depth 8 took
 * 118 us of server time instead of 152, and 8.4 k/s instead of 7.3 (2 cores, 2026-11); 1 MiB was as fast either way.
 */
const WRITE_NOW_BYTES_MAX = 256 * 1024;

/** Shortest write whose payload goes from the socket to the file. */
const RECEIVED_WRITE_BYTES_MIN = 128 * 1024;

/** Longest read of what was read ahead that the event loop copies: the pool copies parts of one long READ side by side. */
const AHEAD_READ_NOW_BYTES_MAX = 64 * 1024;

/** Zeros for the last rung of the zeroing ladder. */
const ZEROS = new Uint8Array(1024 * 1024);

export class FileHandle implements Handle {
  readonly #file: SharedFile;
  readonly #closed: (handle: FileHandle) => Promise<void>;
  readonly #readAhead: ReadAhead | undefined;
  #pendingReadBytes = 0;
  #canReadNow = true;
  #canQueue = true;
  /** Of the latest `readNow`, whose `read` follows in the same turn, when nothing of it was in the cache; else -1. */
  #uncachedOffset = -1;
  readonly #writeBet = new WriteBet();

  constructor(file: SharedFile, closed: (handle: FileHandle) => Promise<void>) {
    this.#file = file;
    this.#closed = closed;
    this.#readAhead =
      file.eviction === undefined || file.fadvise === 'random'
        ? undefined
        : new ReadAhead(file.eviction, file.size, file.fadvise === 'sequential');
  }

  readNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    if (length > READ_NOW_BYTES_MAX || !this.#canReadNow) {
      return false;
    }
    if (this.#isDirect(offset, length) && native.cached_pages(this.#file.fd, offset, length) === 0) {
      // The kernel's try without waiting would start to bring in single pages.
      this.#uncachedOffset = offset;
      return this.#takeAhead(buffer, start, length, offset);
    }
    this.#uncachedOffset = -1;
    this.#file.eviction?.meet(offset, length);
    const result = native.preadv2(this.#file.fd, buffer, start, length, offset, RWF_NOWAIT);
    if (result === length) {
      this.#follow(offset, length);
      this.#file.eviction?.touchRead(offset, length);
      return true;
    }
    if (result === -EOPNOTSUPP || result === -EINVAL) {
      // The file system knows no RWF_NOWAIT. EAGAIN is for this read; a real error shows again in the pool.
      this.#canReadNow = false;
    }
    return false;
  }

  #takeAhead(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    const { directReadAhead, eviction } = this.#file;
    if (
      length < DIRECT_READ_BYTES_MIN ||
      length > AHEAD_READ_NOW_BYTES_MAX ||
      directReadAhead?.take(buffer, start, length, offset) !== true
    ) {
      return false;
    }
    this.#follow(offset, length);
    directReadAhead.follow(this, offset, length);
    eviction?.postponeDrain();
    return true;
  }

  residentFile(offset: number, length: number): number | undefined {
    const { fd, canSendPages } = this.#file;
    return canSendPages && native.is_resident(fd, offset, length) === 1 ? fd : undefined;
  }

  async read(buffer: Uint8Array, start: number, length: number, offset: number): Promise<void> {
    const { fd, eviction, directReadAhead } = this.#file;
    const directFile = this.#isDirect(offset, length) ? this.#file.directFile : undefined;
    this.#follow(offset, length);
    if (length >= DIRECT_READ_BYTES_MIN) {
      directReadAhead?.follow(this, offset, length);
    }
    this.#pendingReadBytes += length;
    if (directFile !== undefined && this.#mayQueue(offset, length)) {
      const result = await callQueued((done) => directFile.read_queued(buffer, start, length, offset, done));
      this.#canQueue = result !== -ENOSYS;
      if (result === length) {
        // Nothing of it was in the cache, on whose account nobody has to remember it.
        this.#pendingReadBytes -= length;
        if (length >= DIRECT_READ_BYTES_MIN) {
          eviction?.postponeDrain();
        }
        return;
      }
      // The word on every error comes from the ordinary way.
    }
    eviction?.beginRead(offset, length);
    const result = await call((done) => {
      if (directFile === undefined) {
        native.pread_async(fd, buffer, start, length, offset, done);
      } else {
        directFile.read(buffer, start, length, offset, directReadAhead?.changeCount ?? 0, done);
      }
    });
    this.#pendingReadBytes -= length;
    // Now, not before: many reads may wait in the pool, and a chunk evicted ahead of its reads would stay.
    eviction?.endRead(offset, length);
    if (result !== length) {
      // Short: the file was truncated under the server. Zeros would be a lie.
      throw new BackendError(result < 0 ? errnoOf(result) : EIO, 'pread', offset, length);
    }
  }

  writeNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean | Promise<void> {
    const { largeFolios, directWrites, directReadAhead } = this.#file;
    if (
      length > WRITE_NOW_BYTES_MAX ||
      largeFolios?.areInTheWay(offset, length) === true ||
      directWrites?.isUnderWay === true ||
      directWrites?.wants(offset, length) === true ||
      directReadAhead?.isUnderWay === true
    ) {
      return false;
    }
    const begin = performance.now();
    if (this.#writeBet.isPaused(begin) || this.#needsPages(offset, length)) {
      return false;
    }
    this.#file.bounds.assertPresentNow('pwrite', offset, length, begin);
    if (this.#file.writeBack?.tryBegin(length) === false) {
      return false;
    }
    this.#file.eviction?.meet(offset, length);
    const result = native.pwritev2(this.#file.fd, buffer, start, length, offset, 0);
    // Afterwards: a flush in another thread that takes the mark must cover the write.
    this.#file.durability.changed();
    const end = performance.now();
    largeFolios?.observe(offset, length, end - begin, end);
    this.#writeBet.observe(end - begin, end);
    const windowFull = this.#wrote(offset, length);
    this.#assertWritten(result, offset, length);
    return windowFull ?? true;
  }

  /**
   * A write that begins or ends inside pages that are not in the cache waits until they are read from the disk. A page that
   * is being read counts as there: mincore(2) would tell, but takes three calls. Unaligned writes of 5 KiB to a cached file,
   * depth 32, MiB/s: 300 without asking, 245 so, 160 with mincore (2 cores, 2026-11).
   */
  #needsPages(offset: number, length: number): boolean {
    const { fd } = this.#file;
    const end = offset + length;
    return (
      (offset % native.page_size !== 0 && native.cached_pages(fd, offset, 1) === 0) ||
      (end % native.page_size !== 0 && native.cached_pages(fd, end - 1, 1) === 0)
    );
  }

  receiveWrite(offset: number, length: number): IncomingWrite | undefined {
    const file = this.#file;
    if (
      length < RECEIVED_WRITE_BYTES_MIN ||
      this.#writeBet.isPaused(performance.now()) ||
      file.writeBack !== undefined ||
      file.largeFolios?.areInTheWay(offset, length) === true ||
      this.#needsPages(offset, length)
    ) {
      return undefined;
    }
    return new FileIncomingWrite(file, offset, length, this.#writeBet);
  }

  async write(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    isFua: boolean,
  ): Promise<void> {
    const { bounds, directWrites } = this.#file;
    bounds.assertPresent('pwrite', offset, length);
    if ((await directWrites?.write(buffer, start, length, offset)) === true) {
      this.#file.durability.changed();
      return this.#makeDurable(isFua);
    }
    const pieceBytesMax = this.#file.writeBack?.pieceBytesMax ?? Number.POSITIVE_INFINITY;
    if (length > pieceBytesMax) {
      for (let done = 0; done < length; done += pieceBytesMax) {
        const pieceBytes = Math.min(pieceBytesMax, length - done);
        await this.write(buffer, start + done, pieceBytes, offset + done, false);
      }
      return this.#makeDurable(isFua);
    }
    this.#file.eviction?.meet(offset, length);
    await this.#file.largeFolios?.split(offset, length);
    await this.#file.writeBack?.begin(length);
    const write = (): Promise<number> => bounds.write(buffer, start, length, offset);
    const result = await (directWrites?.buffered(offset, length, write) ?? write());
    this.#file.durability.changed();
    const windowFull = this.#wrote(offset, length);
    bounds.assertNotTruncated(result, offset, length);
    this.#assertWritten(result, offset, length);
    await windowFull;
    await this.#makeDurable(isFua);
  }

  async flush(): Promise<void> {
    await this.#file.durability.flush();
    this.#file.eviction?.flushed();
    this.#file.sweepOthers?.();
  }

  async trim(offset: number, length: number, isFua: boolean): Promise<void> {
    this.#file.bounds.assertPresent('trim', offset, length);
    this.#meetEdges(offset, length);
    await this.#orLatched(this.#file.zeroing.trim(offset, length));
    this.#file.durability.changed();
    await this.#zeroedEdges(offset, length);
    await this.#makeDurable(isFua);
  }

  async zero(offset: number, length: number, options: ZeroOptions, isFua: boolean): Promise<void> {
    if (length > 0) {
      this.#file.bounds.assertPresent('zero', offset, length);
      this.#meetEdges(offset, length);
      if (await this.#orLatched(this.#file.zeroing.zero(offset, length, options))) {
        this.#file.durability.changed();
        await this.#zeroedEdges(offset, length);
      } else {
        await this.#writeZeros(offset, length);
      }
    }
    await this.#makeDurable(isFua);
  }

  async cache(offset: number, length: number): Promise<void> {
    // A hint: where read-ahead cannot be asked for, nothing is lost.
    await call((done) => {
      native.read_ahead(this.#file.fd, offset, length, done);
    });
  }

  extents(offset: number, length: number, isRequestOne: boolean): Promise<readonly Extent[]> {
    return this.#file.extents.find(offset, length, isRequestOne);
  }

  contextExtents(context: string, offset: number, length: number): Promise<readonly StatusExtent[]> {
    if (context !== RESIDENT_CONTEXT) {
      throw new Error(`Bug: no meta context ${context}`);
    }
    return findResident(this.#file.fd, offset, length);
  }

  close(): Promise<void> {
    this.#file.directReadAhead?.left(this);
    return this.#closed(this);
  }

  /**
   * Nothing of it was read ahead, nor is anything in the cache: pages that the try without waiting has begun to bring in would
   * be on nobody's account.
   */
  #mayQueue(offset: number, length: number): boolean {
    const isUncached = this.#uncachedOffset === offset;
    this.#uncachedOffset = -1;
    return (
      (length < DIRECT_READ_BYTES_MIN ||
        (length <= QUEUED_READ_BYTES_MAX && this.#file.eviction?.isBeingWritten === true)) &&
      this.#canQueue &&
      this.#file.directReadAhead?.isAhead(offset, length) !== true &&
      (isUncached || native.cached_pages(this.#file.fd, offset, length) === 0)
    );
  }

  #follow(offset: number, length: number): void {
    const isClientAhead =
      length >= DIRECT_READ_BYTES_MIN && this.#file.directFile !== undefined
        ? this.#pendingReadBytes > 0 || this.#file.directReadAhead !== undefined
        : this.#pendingReadBytes >= CLIENT_AHEAD_BYTES;
    this.#readAhead?.follow(offset, length, isClientAhead);
  }

  /** A read that bypasses the page cache, where nothing of it is cached. */
  #isDirect(offset: number, length: number): boolean {
    if (this.#file.directFile === undefined) {
      return false;
    }
    return (
      length >= DIRECT_READ_BYTES_MIN ||
      (offset % DIRECT_BLOCK_BYTES === 0 &&
        length % DIRECT_BLOCK_BYTES === 0 &&
        this.#readAhead?.isFollowed(offset) !== true)
    );
  }

  /** See WriteBack.wrote. */
  #wrote(offset: number, length: number): Promise<void> | undefined {
    const { eviction, writeBack } = this.#file;
    return eviction === undefined ? undefined : writeBack?.wrote(eviction, offset, length);
  }

  /** Only the edges of a punched range come into the cache; a TRIM of 6 TiB has three million chunks between. */
  #meetEdges(offset: number, length: number): void {
    this.#file.eviction?.meet(offset, 1);
    this.#file.eviction?.meet(offset + Math.max(length, 1) - 1, 1);
  }

  /** The kernel zeroes partial pages at the edges of a punched range in the cache. */
  async #zeroedEdges(offset: number, length: number): Promise<void> {
    const { eviction, writeBack } = this.#file;
    if (length > 0 && eviction !== undefined) {
      await writeBack?.record(eviction, offset, 1);
      await writeBack?.record(eviction, offset + length - 1, 1);
    }
  }

  async #writeZeros(offset: number, length: number): Promise<void> {
    for (let done = 0; done < length; done += ZEROS.length) {
      await this.write(ZEROS, 0, Math.min(ZEROS.length, length - done), offset + done, false);
    }
  }

  async #makeDurable(isFua: boolean): Promise<void> {
    if (isFua) {
      // fdatasync rather than RWF_DSYNC: FUA writes that are in flight together share one, and an error of
      // the disk stays apart from an error of this write.
      await this.#file.durability.flush();
    }
  }

  #assertWritten(result: number, offset: number, length: number): void {
    if (result < 0) {
      throw this.#file.durability.failed(new BackendError(errnoOf(result), 'pwrite', offset, length));
    }
  }

  /** The result of a call that changes the file; an error feeds the latch on its way to the client. */
  async #orLatched<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      throw this.#file.durability.failed(error);
    }
  }
}
