/**
 * `--cache none`: long reads in order are read ahead past the page cache (native/ahead_chunks.h), for one client at a time
 * of a regular file that one thread serves. At depth 8 in order, MiB/s with and without, and of nbdkit's cache=none, which
 * has the kernel's read-ahead: 256 KiB 1950, 1130 and 1520, 1 MiB 1700, 1340 and 1600 (2 cores, ext4 on virtio, Linux 6.18,
 * 2026-11-27). Several clients keep the disk busy between them, and with this they were slower (0.85, four of them).
 */
import type { DirectFile } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import type { CacheEviction } from './cache-eviction.ts';
import { CHUNK_BYTES } from './chunks.ts';

/** Chunks that are read ahead of the latest read: with four, half of the gain. */
const AHEAD_CHUNKS_MAX = 8;

/** So much of what was read in order is read ahead, so that one who goes elsewhere has cost the disk little. */
const AHEAD_SHARE = 1 / 4;

/**
 * Milliseconds for which nothing is read ahead: after long reads by two handles in turn, and after a change of the file, which
 * makes what was read ahead useless.
 */
const PAUSE_MS = 1000;

export interface DirectReadAheadOptions {
  readonly file: DirectFile;
  /** Bytes of the file. */
  readonly size: number;
  /** See Durability. */
  readonly changeCount: () => number;
  readonly eviction: Pick<CacheEviction, 'touchRead'>;
}

export class DirectReadAhead {
  readonly #file: DirectFile;
  readonly #size: number;
  readonly #changeCount: () => number;
  readonly #eviction: Pick<CacheEviction, 'touchRead'>;
  readonly #fills = new Set<Promise<void>>();
  #reader: object | undefined;
  #pausedAt = Number.NEGATIVE_INFINITY;
  #knownChanges: number;
  #nextOffset = 0;
  #streakBytes = 0;
  /** First byte that was not read ahead yet; 0 when nothing was. */
  #aheadEnd = 0;
  /** First byte that was. */
  #aheadBegin = 0;
  #isDue = false;

  constructor({ file, size, changeCount, eviction }: DirectReadAheadOptions) {
    this.#file = file;
    this.#size = size;
    this.#changeCount = changeCount;
    this.#eviction = eviction;
    this.#knownChanges = changeCount();
  }

  /** Chunks are being read: ext4 and XFS hold the file for them, so that a write would wait on the event loop. */
  get isUnderWay(): boolean {
    return this.#fills.size > 0;
  }

  /** Done when no chunk is being read any more. */
  async settled(): Promise<void> {
    await Promise.all(this.#fills);
  }

  /** For the reads: see DirectFile.read. */
  get changeCount(): number {
    return this.#changeCount();
  }

  /** To be told of every long read, in the order of the requests, by the handle that makes it. Never waits. */
  follow(reader: object, offset: number, length: number): void {
    if (reader !== this.#reader || offset !== this.#nextOffset) {
      if (reader !== this.#reader && this.#reader !== undefined) {
        this.#pausedAt = performance.now();
      }
      this.#reader = reader;
      this.#streakBytes = 0;
      this.forget();
    }
    this.#nextOffset = offset + length;
    this.#streakBytes += length;
    if (this.#streakBytes * AHEAD_SHARE >= CHUNK_BYTES && !this.#isDue) {
      this.#isDue = true;
      // Behind the requests that came with this one: they are about to read for themselves.
      queueMicrotask(() => {
        this.#isDue = false;
        this.#advance();
      });
    }
  }

  /** The handle is closed. */
  left(reader: object): void {
    if (reader === this.#reader) {
      this.#reader = undefined;
      this.forget();
    }
  }

  /** A copy of what was read ahead, without waiting: true when all of the range was there. */
  take(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    return (
      this.#aheadEnd > 0 &&
      this.#file.take_ahead(buffer, start, length, offset, this.#changeCount()) === length
    );
  }

  /** Some of the range was read ahead, or is being. */
  isAhead(offset: number, length: number): boolean {
    return offset < this.#aheadEnd && offset + length > this.#aheadBegin;
  }

  /** Lets go of what was read ahead. */
  forget(): void {
    if (this.#aheadEnd > 0) {
      this.#aheadEnd = 0;
      this.#file.forget_ahead();
    }
  }

  #advance(): void {
    const count = Math.min(Math.floor((this.#streakBytes * AHEAD_SHARE) / CHUNK_BYTES), AHEAD_CHUNKS_MAX);
    const changes = this.#changeCount();
    if (changes !== this.#knownChanges) {
      this.#knownChanges = changes;
      this.#pausedAt = performance.now();
      this.forget();
    }
    if (performance.now() - this.#pausedAt < PAUSE_MS) {
      return;
    }
    const begin = Math.ceil(this.#nextOffset / CHUNK_BYTES) * CHUNK_BYTES;
    const end = Math.min(begin + count * CHUNK_BYTES, this.#size);
    for (let chunk = Math.max(begin, this.#aheadEnd); chunk < end; chunk += CHUNK_BYTES) {
      const length = Math.min(CHUNK_BYTES, this.#size - chunk);
      if (!this.#fill(chunk, length)) {
        return;
      }
      if (this.#aheadEnd === 0) {
        this.#aheadBegin = chunk;
      }
      this.#aheadEnd = chunk + length;
    }
  }

  /** False when there is no room. */
  #fill(chunk: number, length: number): boolean {
    let isRoom = false;
    const fill = call((done) => {
      isRoom = this.#file.read_ahead(chunk, length, this.#changeCount(), done);
      if (!isRoom) {
        done(0);
      }
    }).then((cachedPages) => {
      this.#fills.delete(fill);
      if (cachedPages > 0) {
        this.#eviction.touchRead(chunk, length);
        // Not past the cache: then it is of no use.
        this.#pausedAt = Number.POSITIVE_INFINITY;
      }
    });
    this.#fills.add(fill);
    return isRoom;
  }
}
