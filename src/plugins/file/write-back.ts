/**
 * `--cache none`: written data on its way to disk and out of the page cache, one for each export. Its bound
 * on what is dirty holds for all connections together: with windows of their own, four connections left 42 MiB
 * in the cache where one left 12.
 *
 * A write asks for room before it goes into the page cache, because what is there is dirty, whoever waits for
 * its reply: sixteen writes of 1 MiB went in at once while the first of them waited for the disk. Room is the
 * windows in flight, the one that fills and a few that are being waited for.
 */
import { native, type WriteWindows } from '../../native/binding.ts';
import { callRange } from '../../native/call.ts';
import type { WindowCounter } from '../window-counter.ts';
import type { CacheEviction } from './cache-eviction.ts';
import type { FileDurability } from './durability.ts';

/**
 * Windows beyond those in flight for which there is room: one that fills, and three that are being waited for,
 * so that the disk has work and writes go on meanwhile.
 */
const EXTRA_WINDOWS = 4;

/** In one thread of several: one that fills, and one that is being waited for. */
const EXTRA_WINDOWS_MIN = 2;

/** With windows of a few pages a single request is larger than all of them. */
const ROOM_BYTES_MIN = 4 * 1024 * 1024;

export interface WriteBackOptions {
  readonly fd: number;
  readonly windowCount: number;
  readonly windowBytes: number;
  readonly durability: FileDurability;
  /** Threads that serve the file, each with windows of its own; they divide the room. Default: 1. */
  readonly threadCount?: number;
  readonly windowCounter: WindowCounter | undefined;
}

interface WaitingWrite {
  readonly length: number;
  readonly admit: () => void;
}

export class WriteBack {
  readonly #windows: WriteWindows;
  readonly #durability: FileDurability;
  readonly #windowCounter: WindowCounter | undefined;
  readonly #roomBytes: number;
  /**
   * Longer writes are to be made in pieces of this many bytes. One thread lets a write that is larger than all the
   * room go alone; several threads would do so at the same time.
   */
  readonly pieceBytesMax: number;
  /** What the counter has been told. */
  #counted: readonly [number, number, number] = [0, 0, 0];
  /** Bytes of writes that have been given room and are not recorded in a window yet. */
  #writingBytes = 0;
  #advanceCount = 0;
  /** The longest waiting first. */
  readonly #waiting: WaitingWrite[] = [];

  constructor(options: WriteBackOptions) {
    const { windowCount, windowBytes, roomBytes } = divide(options);
    this.#windows = new native.WriteWindows(options.fd, windowCount, windowBytes);
    this.#durability = options.durability;
    this.#windowCounter = options.windowCounter;
    this.#roomBytes = roomBytes;
    this.pieceBytesMax = (options.threadCount ?? 1) > 1 ? Math.floor(roomBytes) : Number.POSITIVE_INFINITY;
  }

  /** Takes room for a write if there is some now; `wrote` gives it back. */
  tryBegin(length: number): boolean {
    if (this.#waiting.length > 0 || !this.#hasRoom(length)) {
      return false;
    }
    this.#writingBytes += length;
    return true;
  }

  /** Takes room for a write, first come, first served; `wrote` gives it back. */
  begin(length: number): Promise<void> | undefined {
    if (this.tryBegin(length)) {
      return undefined;
    }
    return new Promise((resolve) => {
      this.#waiting.push({ length, admit: resolve });
    });
  }

  /**
   * Records a range that room was taken for, failed writes included: a part may be written. A promise when it
   * filled a window: the write waits for the oldest one to leave the cache.
   */
  wrote(eviction: CacheEviction, offset: number, length: number): Promise<void> | undefined {
    this.#writingBytes -= length;
    const advance = this.record(eviction, offset, length);
    this.#admit();
    return advance;
  }

  /** As `wrote`, for changes too small to need room. */
  record(eviction: CacheEviction, offset: number, length: number): Promise<void> | undefined {
    if (length === 0) {
      return undefined;
    }
    eviction.touchWrite(offset, length);
    let isFull = false;
    eviction.eachEvictable(offset, length, (partOffset, partLength) => {
      isFull = this.#windows.add(partOffset, partLength) || isFull;
    });
    return isFull ? this.#advance() : undefined;
  }

  /** Writes back and evicts everything recorded; errors are latched. */
  async drain(): Promise<void> {
    if (this.#windows.pending_bytes() > 0) {
      await this.#durability.watch('sync_file_range', () =>
        callRange((done) => {
          this.#windows.drain(done);
        }),
      );
      this.#count();
    }
  }

  /** Moves full windows on; done when the oldest has left the cache, or its error is latched. */
  async #advance(): Promise<void> {
    this.#advanceCount += 1;
    await this.#durability.watch('sync_file_range', () =>
      callRange((done) => {
        this.#windows.advance(done);
      }),
    );
    this.#count();
    this.#advanceCount -= 1;
    this.#admit();
  }

  #count(): void {
    const [written, waited, evicted] = this.#windows.counts();
    const [writtenBefore, waitedBefore, evictedBefore] = this.#counted;
    this.#counted = [written, waited, evicted];
    this.#windowCounter?.countWindows(
      written - writtenBefore,
      waited - waitedBefore,
      evicted - evictedBefore,
    );
  }

  /**
   * A write that is larger than all the room goes when nothing else does. Without an advance under way room
   * is not a question of waiting: windows in flight stay there until others fill.
   */
  #hasRoom(length: number): boolean {
    const usedBytes = this.#writingBytes + this.#windows.pending_bytes();
    return usedBytes + length <= this.#roomBytes || (this.#advanceCount === 0 && this.#writingBytes === 0);
  }

  #admit(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (!this.#hasRoom(next.length)) {
        return;
      }
      this.#waiting.shift();
      this.#writingBytes += next.length;
      next.admit();
    }
  }
}

interface Share {
  readonly windowCount: number;
  readonly windowBytes: number;
  readonly roomBytes: number;
}

/** One thread's share of the room: fewer windows, and smaller ones when that is not enough. */
function divide({ windowCount, windowBytes, threadCount = 1 }: WriteBackOptions): Share {
  const roomBytes = Math.max(ROOM_BYTES_MIN, (windowCount + EXTRA_WINDOWS) * windowBytes) / threadCount;
  const count = Math.max(Math.floor(windowCount / threadCount), 1);
  const extraCount = Math.max(EXTRA_WINDOWS / threadCount, EXTRA_WINDOWS_MIN);
  return {
    windowCount: count,
    windowBytes: Math.min(windowBytes, Math.floor(roomBytes / (count + extraCount))),
    roomBytes,
  };
}
