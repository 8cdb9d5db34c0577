/**
 * Read-ahead for `--cache none`, one stream for each handle. The kernel's own is switched off there
 * (POSIX_FADV_RANDOM): it runs as far ahead as the device allows, 8 MiB and more for each stream, and past
 * the last byte that is asked for. This one stays within the chunk that follows the one being read.
 */
import type { CacheEviction } from './cache-eviction.ts';
import { CHUNK_BYTES, lastChunkOf } from './chunks.ts';

/** Reads that must follow each other without a gap before anything is read ahead for them. */
const STREAK_MIN = 3;

export class ReadAhead {
  readonly #eviction: CacheEviction;
  readonly #size: number;
  readonly #streakMin: number;
  #nextOffset = -1;
  #streak = 0;
  /** First byte that was not read ahead yet. */
  #aheadEnd = 0;

  /** `isSequential`: the operator has said so; the first read need not wait for a second one. */
  constructor(eviction: CacheEviction, size: number, isSequential: boolean) {
    this.#eviction = eviction;
    this.#size = size;
    this.#streakMin = isSequential ? 1 : STREAK_MIN;
  }

  /** A read at `offset` goes on with what is read ahead, or begins it. */
  isFollowed(offset: number): boolean {
    return offset === this.#nextOffset ? this.#streak + 1 >= this.#streakMin : this.#streakMin === 1;
  }

  /**
   * To be told of every read in the order of the requests. `isClientAhead`: the client has so much in flight
   * that it reads ahead itself. Never waits.
   */
  follow(offset: number, length: number, isClientAhead: boolean): void {
    const end = offset + length;
    if (offset !== this.#nextOffset || isClientAhead) {
      this.#streak = 0;
      this.#aheadEnd = end;
    }
    this.#nextOffset = end;
    if (isClientAhead) {
      return;
    }
    this.#streak += 1;
    const wantedEnd = Math.min((lastChunkOf(offset, length) + 2) * CHUNK_BYTES, this.#size);
    if (this.#streak >= this.#streakMin && wantedEnd > this.#aheadEnd) {
      const begin = Math.max(this.#aheadEnd, end);
      this.#aheadEnd = wantedEnd;
      this.#eviction.readAhead(begin, wantedEnd - begin);
    }
  }
}
