/**
 * `--cache none`: what of the file this export has touched, and how it leaves the page cache again.
 *
 * POSIX_FADV_DONTNEED skips folios that are only partly inside its range, and ext4 (since Linux 6.16) and XFS
 * build folios of up to 2 MiB that straddle requests: evicting each request's own range left 91-99.9 % of a
 * sequentially read file (measured on 6.18). So reads are evicted by chunks of 2 MiB, aligned, when a chunk
 * falls off an LRU: later than the request, which spares the read-ahead that is still of use.
 *
 * Written ranges go through the write windows (write-back.ts), which wait for the disk before they evict.
 * What remains of both (folios across window edges, read-ahead beyond the last request) is swept by `drain`:
 * after a FLUSH, after a second without requests, and when the last handle closes.
 */

import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '../../log.ts';
import { type Done, native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import { POSIX_FADV_DONTNEED } from '../../native/constants.ts';
import { CHUNK_BYTES, chunkOf, lastChunkOf } from './chunks.ts';
import { type ChunkMarks, KeptChunks } from './kept-chunks.ts';

/**
 * Chunks that stay behind the readers: sixteen while reads are small, so that the stream of a client that gets
 * no processor for a while still finds its chunk when three others have gone on (with eight, disk reads of
 * 1.06x). Reads in flight are resident, too: for every chunk's worth of them one less, down to eight.
 */
const LRU_CHUNKS_MAX = 16;
const LRU_CHUNKS_MIN = 8;

/** Chunks, and bytes read of them, that are evicted in one call to the pool. */
const LEAVING_CHUNKS_MAX = 32;
const LEAVING_BYTES_MAX = CHUNK_BYTES / 2;

/** Chunks remembered one by one until the next drain; beyond that the sweep covers the whole file. */
const TOUCHED_CHUNKS_MAX = 65_536;

/** Milliseconds without requests after which the cache is swept; design: 2 s or less. */
const IDLE_MS = 1000;

/** Milliseconds from a successful FLUSH to the sweep; several FLUSHes share one. */
const AFTER_FLUSH_MS = 200;

/** Tries of a sweep, and the pause between them: read-ahead may still be under way, its pages locked. */
const SWEEP_TRIES = 5;
const SWEEP_PAUSE_MS = 20;

export interface EvictionOptions {
  readonly fd: number;
  /** Bytes of the file. */
  readonly size: number;
  /** Writes back and evicts what is in the write windows. */
  readonly drainWindows: () => Promise<void>;
  /** Called after every drain, for whatever else is kept for requests only. */
  readonly drained: () => void;
  /** Spare chunks that were resident before (`--keep-resident`). */
  readonly keepsResident: boolean;
  /** With `keepsResident` in one thread of several. */
  readonly chunkMarks?: ChunkMarks | undefined;
  /** Threads that serve the file, each with an eviction of its own; they divide the chunks. Default: 1. */
  readonly threadCount?: number;
  readonly log: Logger;
}

export class CacheEviction {
  readonly #fd: number;
  readonly #size: number;
  readonly #log: Logger;
  readonly #threadCount: number;
  readonly #kept: KeptChunks | undefined;
  readonly #drainWindows: () => Promise<void>;
  readonly #drained: () => void;
  /** Chunk numbers, the least recently touched first, each with the bytes read of it. */
  readonly #lru = new Map<number, number>();
  /** Chunks that fell off the LRU and are still to be evicted, as pairs of offset and length. */
  readonly #leaving = new Float64Array(2 * LEAVING_CHUNKS_MAX);
  #leavingCount = 0;
  #leavingBytes = 0;
  #latestRead = -1;
  #latestWritten = -1;
  /** Chunks with reads in the pool, each with their number, and the bytes of all of them. */
  readonly #reading = new Map<number, number>();
  #readingBytes = 0;
  #touched = new Set<number>();
  #hasTouchedAll = false;
  #lastTouchedAt = 0;
  #lastWrittenAt = Number.NEGATIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  /** The timer runs for a FLUSH: it neither waits for idling nor moves when further ones follow. */
  #isFlushSweep = false;
  /** Calls that nobody waits for; a drain does, lest they bring pages in behind it. */
  readonly #background = new Set<Promise<void>>();
  #draining: Promise<void> | undefined;

  constructor(options: EvictionOptions) {
    this.#fd = options.fd;
    this.#size = options.size;
    this.#drainWindows = options.drainWindows;
    this.#drained = options.drained;
    this.#log = options.log;
    this.#threadCount = options.threadCount ?? 1;
    this.#kept = options.keepsResident ? new KeptChunks(options.fd, options.chunkMarks) : undefined;
  }

  /** To be called before a range is read or written. */
  meet(offset: number, length: number): void {
    this.#kept?.meet(offset, length);
  }

  /** The parts of a written range that are to leave the cache, as `part(offset, length)`. */
  eachEvictable(offset: number, length: number, part: (offset: number, length: number) => void): void {
    if (this.#kept === undefined) {
      part(offset, length);
      return;
    }
    const end = offset + length;
    for (let begin = offset; begin < end; begin = (chunkOf(begin) + 1) * CHUNK_BYTES) {
      if (!this.#kept.has(chunkOf(begin))) {
        part(begin, Math.min(end, (chunkOf(begin) + 1) * CHUNK_BYTES) - begin);
      }
    }
  }

  /**
   * To be called before a read that can wait. Until `endRead` its chunks are not evicted: between the disk and
   * the reader's copy pages are in the cache and unlocked, and would be read again.
   */
  beginRead(offset: number, length: number): void {
    this.meet(offset, length);
    this.#readingBytes += length;
    const last = lastChunkOf(offset, length);
    for (let chunk = chunkOf(offset); chunk <= last; chunk += 1) {
      this.#reading.set(chunk, (this.#reading.get(chunk) ?? 0) + 1);
    }
  }

  endRead(offset: number, length: number): void {
    this.#readingBytes -= length;
    const last = lastChunkOf(offset, length);
    for (let chunk = chunkOf(offset); chunk <= last; chunk += 1) {
      const count = this.#reading.get(chunk) ?? 0;
      if (count > 1) {
        this.#reading.set(chunk, count - 1);
      } else {
        this.#reading.delete(chunk);
      }
    }
    this.touchRead(offset, length);
  }

  /** Records that the range was read; evicts the chunks that fall off the LRU. */
  touchRead(offset: number, length: number): void {
    this.#lastTouchedAt = performance.now();
    const first = chunkOf(offset);
    const last = lastChunkOf(offset, length);
    for (let chunk = first; chunk <= last; chunk += 1) {
      if (this.#kept?.has(chunk) !== true) {
        if (chunk !== this.#latestRead) {
          this.#remember(chunk);
        }
        this.#renew(chunk, length);
      }
    }
    this.#schedule(IDLE_MS);
  }

  /** For a request that left nothing in the cache, and goes on with what a drain lets go of: drain a second after it. */
  postponeDrain(): void {
    this.#lastTouchedAt = performance.now();
    this.#schedule(IDLE_MS);
  }

  /** Records that the range was written or zeroed, for the sweep; the windows evict it before that. */
  touchWrite(offset: number, length: number): void {
    this.#lastTouchedAt = performance.now();
    this.#lastWrittenAt = this.#lastTouchedAt;
    const first = chunkOf(offset);
    const last = lastChunkOf(offset, length);
    if (first === this.#latestWritten && last === first) {
      return;
    }
    this.#rememberRange(offset, length);
    this.#latestWritten = last;
    this.#schedule(IDLE_MS);
  }

  /** Something was written through the cache in the last second, by whomever. */
  get isBeingWritten(): boolean {
    return performance.now() - this.#lastWrittenAt < IDLE_MS;
  }

  /** After a successful FLUSH: sweep soon, also while requests go on. */
  flushed(): void {
    if (!this.#isFlushSweep && (this.#touched.size > 0 || this.#hasTouchedAll)) {
      this.#stopTimer();
      this.#isFlushSweep = true;
      this.#schedule(AFTER_FLUSH_MS);
    }
  }

  /** Brings a range in ahead of its reads, as a hint: where it fails the reads bring it in themselves. */
  readAhead(offset: number, length: number): void {
    this.meet(offset, length);
    this.#rememberRange(offset, length);
    this.#inBackground((done) => {
      native.read_ahead(this.#fd, offset, length, done);
    });
  }

  /** Writes back, evicts and verifies everything touched so far. Runs one at a time. */
  async drain(): Promise<void> {
    this.#stopTimer();
    while (this.#draining !== undefined) {
      await this.#draining;
    }
    this.#draining = this.#drain().finally(() => {
      this.#draining = undefined;
    });
    return this.#draining;
  }

  #rememberRange(offset: number, length: number): void {
    const last = lastChunkOf(offset, length);
    for (let chunk = chunkOf(offset); chunk <= last && !this.#hasTouchedAll; chunk += 1) {
      this.#remember(chunk);
    }
  }

  #remember(chunk: number): void {
    if (this.#kept !== undefined) {
      if (!this.#kept.has(chunk)) {
        this.#touched.add(chunk);
      }
    } else if (this.#touched.size < TOUCHED_CHUNKS_MAX) {
      this.#touched.add(chunk);
    } else if (!this.#touched.has(chunk)) {
      this.#hasTouchedAll = true;
    }
  }

  /** Makes a chunk the youngest of the LRU; those that fall off are evicted. */
  #renew(chunk: number, length: number): void {
    const bytes = (this.#lru.get(chunk) ?? 0) + length;
    if (chunk === this.#latestRead) {
      this.#lru.set(chunk, bytes);
      return;
    }
    this.#lru.delete(chunk);
    this.#lru.set(chunk, bytes);
    this.#latestRead = chunk;
    const readingChunks = Math.ceil(this.#readingBytes / CHUNK_BYTES);
    const chunksMax = Math.max(
      LRU_CHUNKS_MAX / this.#threadCount - readingChunks,
      LRU_CHUNKS_MIN / this.#threadCount,
      1,
    );
    for (const [oldest, oldestBytes] of this.#lru) {
      if (this.#lru.size <= chunksMax) {
        break;
      }
      this.#lru.delete(oldest);
      // Otherwise the end of that read makes it the youngest again.
      if (!this.#reading.has(oldest)) {
        this.#leave(oldest, oldestBytes);
      }
    }
  }

  /** Evicts chunks together: after scattered small reads a chunk holds a page or two, and a call each is dear. */
  #leave(chunk: number, bytes: number): void {
    this.#leaving[this.#leavingCount] = chunk * CHUNK_BYTES;
    this.#leaving[this.#leavingCount + 1] = CHUNK_BYTES;
    this.#leavingCount += 2;
    this.#leavingBytes += bytes;
    if (this.#leavingBytes >= LEAVING_BYTES_MAX || this.#leavingCount === this.#leaving.length) {
      // Errors show in the sweep: a chunk that stayed is found by cachestat there.
      this.#inBackground((done) => {
        native.evict_ranges(this.#fd, this.#leaving, this.#leavingCount, done);
      });
      this.#leavingCount = 0;
      this.#leavingBytes = 0;
    }
  }

  #inBackground(start: (done: Done) => void): void {
    const work = call(start).then(() => {
      this.#background.delete(work);
    });
    this.#background.add(work);
  }

  #stopTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#isFlushSweep = false;
  }

  #schedule(delayMs: number): void {
    this.#timer ??= setTimeout(() => {
      const idleMs = performance.now() - this.#lastTouchedAt;
      const isDue = this.#isFlushSweep || idleMs >= IDLE_MS;
      this.#stopTimer();
      if (isDue) {
        void this.drain();
      } else {
        this.#schedule(IDLE_MS - idleMs);
      }
    }, delayMs).unref();
  }

  async #drain(): Promise<void> {
    const ranges = this.#takeTouched();
    this.#lru.clear();
    this.#leavingCount = 0;
    this.#leavingBytes = 0;
    this.#latestRead = -1;
    this.#latestWritten = -1;
    await this.#drainWindows();
    await Promise.all(this.#background);
    let left = ranges;
    for (let attempt = 0; attempt < SWEEP_TRIES && left.length > 0; attempt += 1) {
      if (attempt > 0) {
        await delay(SWEEP_PAUSE_MS * 2 ** attempt);
      }
      left = await this.#sweep(left);
    }
    const residentBytes = left.reduce((sum, { residentPages }) => sum + residentPages, 0) * native.page_size;
    this.#drained();
    this.#log.debug({ residentBytes }, 'Drained the page cache');
    // Not to be forgotten, but without a timer: what somebody else holds would keep it running for ever.
    for (const { offset, length } of left) {
      this.#rememberRange(offset, length);
    }
  }

  /** Evicts ranges: those of which something stayed. */
  async #sweep(ranges: readonly ByteRange[]): Promise<ByteRange[]> {
    const left: ByteRange[] = [];
    for (const { offset, length } of ranges) {
      await call((done) => {
        native.posix_fadvise(this.#fd, offset, length, POSIX_FADV_DONTNEED, done);
      });
      const counts = new Float64Array(5);
      const result = await call((done) => {
        native.cachestat(this.#fd, offset, length, counts, done);
      });
      // EPERM: the kernel does not tell the pages of another user's file; then the eviction has to do.
      const residentPages = result < 0 ? 0 : (counts[0] ?? 0);
      if (residentPages > 0) {
        left.push({ offset, length, residentPages });
      }
    }
    return left;
  }

  /** The touched chunks, merged; they count as untouched from now on. */
  #takeTouched(): ByteRange[] {
    const chunks = [...this.#touched].sort((one, other) => one - other);
    const isAll = this.#hasTouchedAll;
    this.#touched = new Set();
    this.#hasTouchedAll = false;
    if (isAll) {
      return [{ offset: 0, length: roundUp(this.#size), residentPages: 0 }];
    }
    const ranges: ByteRange[] = [];
    for (const chunk of chunks) {
      const end = Math.min((chunk + 1) * CHUNK_BYTES, roundUp(this.#size));
      const last = ranges.at(-1);
      if (last !== undefined && chunk * CHUNK_BYTES <= last.offset + last.length) {
        last.length = end - last.offset;
      } else {
        const offset = chunk * CHUNK_BYTES;
        ranges.push({ offset, length: end - offset, residentPages: 0 });
      }
    }
    return ranges;
  }
}

interface ByteRange {
  readonly offset: number;
  length: number;
  /** Counted by the last sweep. */
  readonly residentPages: number;
}

/** To a whole chunk, so that a partial last page is inside the range, too. */
function roundUp(size: number): number {
  return Math.min(Math.ceil(size / CHUNK_BYTES) * CHUNK_BYTES, Number.MAX_SAFE_INTEGER);
}
