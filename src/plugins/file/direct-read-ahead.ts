/**
 * `--cache none`: long reads in order are read ahead past the page cache (native/ahead_chunks.h), of a regular file that one
 * thread serves. One client, depth 8, MiB/s with and without, and of nbdkit's cache=none, which has the kernel's read-ahead:
 * 256 KiB 1950, 1130 and 1520, 1 MiB 1700, 1340 and 1600. Several clients with reads as long keep the disk busy between them, and
 * with this they were slower (0.85, four of them); with 64 KiB each at depth 16, 1 GiB by a server that has just begun, it is 1223,
 * 1085 and 842 (2 cores, ext4 on virtio, Linux 6.18, 2026-11-27).
 */
import type { DirectFile } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import type { CacheEviction } from './cache-eviction.ts';
import { CHUNK_BYTES } from './chunks.ts';

/** Chunks that are read ahead of the latest read: with four, half of the gain. */
const AHEAD_CHUNKS_MAX = 8;

/** So much of what was read in order is read ahead, so that one who goes elsewhere has cost the disk little. */
const AHEAD_SHARE = 1 / 4;

/** Where several handles read in turn: chunks ahead of each, at most, and the longest reads that gain from them. */
const SHARED_CHUNKS_MAX = 3;
const SHARED_LENGTH_MAX = 128 * 1024;

/** Reads in order of handles that are gone or went elsewhere whose beginnings are remembered, the latest ones. */
const PAST_COUNT_MAX = 16;

/** Chunks for which there is room (kChunkCountMax), ahead of all handles and being copied: a share is never taken by another. */
const ROOM_CHUNKS = 16;

/** Behind the latest read: what is so close may be for requests that are still under way. */
const PASSED_BYTES = ROOM_CHUNKS * CHUNK_BYTES;

/** Milliseconds for which nothing is read ahead after a change of the file, or into the page cache, and handles that read in turn count as several. */
const PAUSE_MS = 1000;

export interface DirectReadAheadOptions {
  readonly file: DirectFile;
  /** Bytes of the file. */
  readonly size: number;
  /** See Durability. */
  readonly changeCount: () => number;
  readonly eviction: Pick<CacheEviction, 'touchRead'>;
}

/** What one handle reads. */
interface Stream {
  nextOffset: number;
  streakBytes: number;
  /** First byte that was read ahead. */
  aheadBegin: number;
  /** First byte that was not yet; 0 when nothing was, and the stream is not among #aheadStreams. */
  aheadEnd: number;
  isDue: boolean;
}

export class DirectReadAhead {
  readonly #file: DirectFile;
  readonly #size: number;
  readonly #changeCount: () => number;
  readonly #eviction: Pick<CacheEviction, 'touchRead'>;
  readonly #fills = new Set<Promise<void>>();
  readonly #streams = new Map<object, Stream>();
  /** Those with something ahead, few of what may be many: they are looked at for each read. */
  readonly #aheadStreams = new Set<Stream>();
  /** Where reads in order began that have ended. */
  readonly #pastBegins: number[] = [];
  #latestReader: object | undefined;
  #sharedAt = Number.NEGATIVE_INFINITY;
  #pausedAt = Number.NEGATIVE_INFINITY;
  #knownChanges: number;

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
    if (reader !== this.#latestReader) {
      if (this.#latestReader !== undefined) {
        this.#sharedAt = performance.now();
      }
      this.#latestReader = reader;
    }
    const stream = this.#streamOf(reader);
    if (offset !== stream.nextOffset) {
      this.#endStreak(stream);
    }
    stream.nextOffset = offset + length;
    stream.streakBytes += length;
    if (stream.streakBytes * AHEAD_SHARE >= CHUNK_BYTES && !stream.isDue) {
      stream.isDue = true;
      // Behind the requests that came with this one: they are about to read for themselves.
      queueMicrotask(() => {
        stream.isDue = false;
        this.#advance(stream, length);
      });
    }
  }

  /** The handle is closed. */
  left(reader: object): void {
    const stream = this.#streams.get(reader);
    if (stream !== undefined) {
      this.#endStreak(stream);
      this.#streams.delete(reader);
    }
    if (this.#streams.size === 0) {
      this.#pastBegins.length = 0;
    }
    if (reader === this.#latestReader) {
      this.#latestReader = undefined;
    }
  }

  /** A copy of what was read ahead, without waiting: true when all of the range was there. */
  take(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    return (
      this.#aheadStreams.size > 0 &&
      this.#file.take_ahead(buffer, start, length, offset, this.#changeCount()) === length
    );
  }

  /** Some of the range was read ahead, or is being. */
  isAhead(offset: number, length: number): boolean {
    for (const stream of this.#aheadStreams) {
      if (offset < stream.aheadEnd && offset + length > untakenBegin(stream)) {
        return true;
      }
    }
    return false;
  }

  /** Lets go of what was read ahead. */
  forget(): void {
    for (const stream of this.#aheadStreams) {
      this.#forgetStream(stream);
    }
  }

  #endStreak(stream: Stream): void {
    const begin = streakBegin(stream);
    if (begin !== undefined && !this.#pastBegins.includes(begin)) {
      this.#pastBegins.push(begin);
      this.#pastBegins.splice(0, this.#pastBegins.length - PAST_COUNT_MAX);
    }
    stream.streakBytes = 0;
    this.#forgetStream(stream);
  }

  #forgetStream(stream: Stream): void {
    if (this.#aheadStreams.delete(stream)) {
      this.#file.forget_ahead(untakenBegin(stream), stream.aheadEnd);
      stream.aheadEnd = 0;
    }
  }

  #streamOf(reader: object): Stream {
    let stream = this.#streams.get(reader);
    if (stream === undefined) {
      stream = { nextOffset: 0, streakBytes: 0, aheadBegin: 0, aheadEnd: 0, isDue: false };
      this.#streams.set(reader, stream);
    }
    return stream;
  }

  #advance(stream: Stream, length: number): void {
    const now = performance.now();
    const changes = this.#changeCount();
    if (changes !== this.#knownChanges) {
      this.#knownChanges = changes;
      this.#pausedAt = now;
      this.forget();
    }
    if (now - this.#pausedAt < PAUSE_MS) {
      return;
    }
    const isShared = now - this.#sharedAt < PAUSE_MS;
    const countMax = isShared ? this.#sharedCountMax(length) : AHEAD_CHUNKS_MAX;
    const count = Math.min(Math.floor((stream.streakBytes * AHEAD_SHARE) / CHUNK_BYTES), countMax);
    if (count === 0) {
      return;
    }
    const begin = Math.ceil(stream.nextOffset / CHUNK_BYTES) * CHUNK_BYTES;
    const border = isShared ? this.#border(stream) : this.#size;
    const end = Math.min(begin + count * CHUNK_BYTES, border);
    for (let chunk = Math.max(begin, stream.aheadEnd); chunk < end; chunk += CHUNK_BYTES) {
      const bytes = Math.min(CHUNK_BYTES, this.#size - chunk);
      if (!this.#fill(chunk, bytes)) {
        return;
      }
      if (stream.aheadEnd === 0) {
        stream.aheadBegin = chunk;
        this.#aheadStreams.add(stream);
      }
      stream.aheadEnd = chunk + bytes;
    }
  }

  /**
   * Where another one has begun to read, or the end of the file: clients that divide an image end there, and what was read
   * ahead would be read twice. To a border of chunks; the rest is left to the reads themselves.
   */
  #border(stream: Stream): number {
    let border = this.#size;
    const others = [...this.#streams.values()].filter((other) => other !== stream).map(streakBegin);
    for (const begin of [...others, ...this.#pastBegins]) {
      if (begin !== undefined && begin >= stream.nextOffset && begin < border) {
        border = Math.floor(begin / CHUNK_BYTES) * CHUNK_BYTES;
      }
    }
    return border;
  }

  #sharedCountMax(length: number): number {
    // Beside the one that is being copied.
    const share = Math.floor(ROOM_CHUNKS / this.#streams.size) - 1;
    return length <= SHARED_LENGTH_MAX ? Math.max(Math.min(SHARED_CHUNKS_MAX, share), 0) : 0;
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
        // By another client at that moment, or by a file system that reads so in its own way, every time: of no use then.
        this.#pausedAt = performance.now();
      }
    });
    this.#fills.add(fill);
    return isRoom;
  }
}

/** First byte that was read ahead and may not be taken yet: of what the reader has long passed nothing is left that is its own. */
function untakenBegin(stream: Stream): number {
  return Math.max(stream.aheadBegin, stream.nextOffset - PASSED_BYTES);
}

/** Undefined for reads that are too short to tell anything. */
function streakBegin({ nextOffset, streakBytes }: Stream): number | undefined {
  return streakBytes >= CHUNK_BYTES ? nextOffset - streakBytes : undefined;
}
