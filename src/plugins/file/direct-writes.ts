/**
 * `--cache none`: long writes that never enter the page cache (O_DIRECT), one for each file that one thread serves. They
 * need no window, no write-back and no eviction: at depth 8 in order, MiB/s over one connection and four, 1 MiB 2438 and 2510,
 * windows 1753 and 1816, 256 KiB 1889 and 2285, windows 1430 and 1478 (2 cores, ext4 on virtio, Linux 6.18, 2026-11-27).
 *
 * A range of which something is in the cache, or that has a block that was never written, goes through the cache: what is
 * dirty there would have to be written first, and a hole is filled faster (256 KiB pieces of a sparse file: direct 1.1 to
 * 1.5 GiB/s, each a transaction of the file system).
 *
 * Where a direct and a buffered write of the same page are under way together, the kernel cannot drop the page that the
 * one has made dirty, and reports the file as damaged (dio_warn_stale_pagecache, mm/filemap.c: EIO for the next
 * fdatasync; block devices, which nothing locks). Clients may send such writes; so here they wait for each other. Reads
 * need not: a page that they have brought in is clean. Several threads would have to ask each other, and make no direct writes.
 */
import { type DirectFile, native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import { EAGAIN, EBUSY, ENODATA } from '../../native/errno.ts';

/** Shortest direct write: as long as the shortest payload that is received into a huge page (server/buffer-pool.ts). */
const WRITE_BYTES_MIN = 256 * 1024;

/**
 * Writes that go through the cache after one into a block that was never written; twice as many after each further one. What is
 * cached says nothing of the next write: with a pause for that, too, random 256 KiB writes over four connections had 0.77 of
 * nbdkit in place of 1.09, for what a pause puts into the cache is met again (depth 8, 2 cores, 2026-11-27).
 */
const PAUSE_WRITES_MIN = 16;
const PAUSE_WRITES_MAX = 1024;

interface WriteUnderWay {
  readonly begin: number;
  readonly end: number;
  readonly isDirect: boolean;
  /** Never rejects: the result of a system call. */
  readonly over: Promise<number>;
}

export class DirectWrites {
  readonly #file: DirectFile;
  readonly #isRegular: boolean;
  readonly #isCached: (offset: number, length: number) => boolean;
  readonly #underWay = new Set<WriteUnderWay>();
  #directCount = 0;
  #pause = PAUSE_WRITES_MIN;
  /** Writes until the next try; for ever where the file system knows no such writes. */
  #untried = 0;

  /** `isRegular`: no block device. `isCached`: something of the range is in the page cache; must not wait. */
  constructor(file: DirectFile, isRegular: boolean, isCached: (offset: number, length: number) => boolean) {
    this.#file = file;
    this.#isRegular = isRegular;
    this.#isCached = isCached;
  }

  /**
   * A direct write is under way: ext4 and XFS hold the file for it, so that a write through the cache, wherever it goes,
   * would wait on the event loop.
   */
  get isUnderWay(): boolean {
    return this.#directCount > 0;
  }

  /** True for a write that is to be left to `write`; it counts as one that came by. */
  wants(offset: number, length: number): boolean {
    if (length < WRITE_BYTES_MIN || offset % native.page_size !== 0 || length % native.page_size !== 0) {
      return false;
    }
    if (this.#untried > 0) {
      this.#untried -= 1;
      return false;
    }
    return !this.#isCached(offset, length);
  }

  /** True when all of it is written; otherwise it is to be made through the cache, which has the last word on errors. */
  async write(buffer: Uint8Array, start: number, length: number, offset: number): Promise<boolean> {
    // Through the cache it would wait as well, and be cached afterwards: in the way of those that follow.
    for (let other = this.#underWayAt(offset, length, false); other !== undefined; ) {
      if (!other.isDirect) {
        return false;
      }
      await other.over;
      other = this.#underWayAt(offset, length, false);
    }
    if (!this.wants(offset, length)) {
      return false;
    }
    this.#directCount += 1;
    let result = 0;
    try {
      result = await this.#track(
        offset,
        length,
        true,
        call((done) => {
          this.#file.write(buffer, start, length, offset, this.#isRegular, done);
        }),
      );
    } finally {
      this.#directCount -= 1;
    }
    if (result === length) {
      this.#pause = PAUSE_WRITES_MIN;
      return true;
    }
    if (result === -EAGAIN || result === -ENODATA) {
      this.#untried = this.#pause;
      this.#pause = Math.min(2 * this.#pause, PAUSE_WRITES_MAX);
    } else if (result !== -EBUSY) {
      this.#untried = Number.POSITIVE_INFINITY;
    }
    return false;
  }

  /** Makes a write through the cache, by `write`, once no direct one of the range is under way. */
  async buffered(offset: number, length: number, write: () => Promise<number>): Promise<number> {
    for (let direct = this.#underWayAt(offset, length, true); direct !== undefined; ) {
      await direct.over;
      direct = this.#underWayAt(offset, length, true);
    }
    return this.#track(offset, length, false, write());
  }

  async #track(begin: number, length: number, isDirect: boolean, write: Promise<number>): Promise<number> {
    const underWay = { begin, end: begin + length, isDirect, over: write };
    this.#underWay.add(underWay);
    try {
      return await write;
    } finally {
      this.#underWay.delete(underWay);
    }
  }

  /** Whoever is first among those of the range; up to some hundred are looked at for each write, so by a plain loop. */
  #underWayAt(offset: number, length: number, mustBeDirect: boolean): WriteUnderWay | undefined {
    const end = offset + length;
    for (const each of this.#underWay) {
      if (each.begin < end && offset < each.end && (each.isDirect || !mustBeDirect)) {
        return each;
      }
    }
    return undefined;
  }
}
