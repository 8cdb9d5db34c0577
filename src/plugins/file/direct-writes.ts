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
 * fdatasync; block devices, which nothing locks). Clients may send such writes; so here they wait for each other, in the
 * order in which they came. Reads need not: a page that they have brought in is clean. Several threads would have to ask each
 * other, and make no direct writes.
 */
import { type DirectFile, native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import { EAGAIN, EBUSY, ENODATA } from '../../native/errno.ts';

/** Shortest direct write: as long as the shortest payload that is received into a huge page (server/buffer-pool.ts). */
const WRITE_BYTES_MIN = 256 * 1024;

/**
 * Writes that go through the cache after one into a block that was never written, or behind the end; twice as many after
 * each further one. What is cached says nothing of the next write: with a pause for that, too, random 256 KiB writes over four
 * connections had 0.77 of nbdkit in place of 1.09, for what a pause puts into the cache is met again (depth 8, 2 cores, 2026-11).
 */
const PAUSE_WRITES_MIN = 16;
const PAUSE_WRITES_MAX = 1024;

/**
 * Largest folio of a block device's cache (MAX_PAGECACHE_ORDER, since Linux 6.15; 2 MiB with pages of 4 KiB). One that a READ has
 * brought in during a direct write may reach beyond its range: a buffered write there makes all of it dirty.
 */
const FOLIO_BYTES_MAX = (native.page_size === 4096 ? 512 : 2048) * native.page_size;

/** A write, from when it came to its end; those that wait for others are among them. */
interface Entry {
  readonly begin: number;
  readonly end: number;
  readonly isDirect: boolean;
  readonly over: Promise<void>;
  readonly leave: () => void;
}

export class DirectWrites {
  readonly #file: DirectFile;
  readonly #isRegular: boolean;
  readonly #isCached: (offset: number, length: number) => boolean;
  /** In the order in which they came: each waits for earlier ones only, so that none waits for ever. */
  readonly #entries = new Set<Entry>();
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
    if (!isSuited(offset, length)) {
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
    if (!isSuited(offset, length)) {
      return false;
    }
    const entry = this.#enter(offset, length, true);
    try {
      // Through the cache it would wait as well, and be cached afterwards: in the way of those that follow.
      for (let other = this.#before(entry); other !== undefined; other = this.#before(entry)) {
        if (!other.isDirect) {
          return false;
        }
        await other.over;
      }
      return this.wants(offset, length) && (await this.#writeNow(buffer, start, length, offset));
    } finally {
      entry.leave();
    }
  }

  /** Makes a write through the cache, by `write`, once no direct one of the range that came before is under way. */
  async buffered(offset: number, length: number, write: () => Promise<number>): Promise<number> {
    const entry = this.#enter(offset, length, false);
    try {
      for (let direct = this.#before(entry, true); direct !== undefined; direct = this.#before(entry, true)) {
        await direct.over;
      }
      return await write();
    } finally {
      entry.leave();
    }
  }

  async #writeNow(buffer: Uint8Array, start: number, length: number, offset: number): Promise<boolean> {
    this.#directCount += 1;
    const result = await call((done) => {
      this.#file.write(buffer, start, length, offset, this.#isRegular, done);
    }).finally(() => {
      this.#directCount -= 1;
    });
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

  #enter(offset: number, length: number, isDirect: boolean): Entry {
    const border = isDirect || this.#isRegular ? 1 : FOLIO_BYTES_MAX;
    let end = (): void => {};
    const over = new Promise<void>((resolve) => {
      end = resolve;
    });
    const entry: Entry = {
      begin: Math.floor(offset / border) * border,
      end: Math.ceil((offset + length) / border) * border,
      isDirect,
      over,
      leave: () => {
        this.#entries.delete(entry);
        end();
      },
    };
    this.#entries.add(entry);
    return entry;
  }

  /** One of the same range that came before. Up to some hundred are looked at for each write: a plain loop. */
  #before(entry: Entry, mustBeDirect = false): Entry | undefined {
    for (const each of this.#entries) {
      if (each === entry) {
        return undefined;
      }
      if (each.begin < entry.end && entry.begin < each.end && (each.isDirect || !mustBeDirect)) {
        return each;
      }
    }
    return undefined;
  }
}

function isSuited(offset: number, length: number): boolean {
  return length >= WRITE_BYTES_MIN && offset % native.page_size === 0 && length % native.page_size === 0;
}
