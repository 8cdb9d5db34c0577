/**
 * Large folios in the way of small writes. ext4 keeps a buffer head for each block, and a write through the page cache
 * walks those of the whole folio that it goes to (ext4_block_write_begin, block_commit_write). Read-ahead and long
 * writes make folios of up to 2 MiB (Linux 6.16 and later), and into those a write of 4 KiB takes 27 us instead of
 * 2.0, of 16 KiB 37 instead of 4.6, of 64 KiB 47 instead of 13, of 128 KiB 43 instead of 24. From 256 KiB on large
 * folios are as fast or faster (1 MiB: 118 against 190 us). Reads of 4 KiB take 1.3 instead of 1.1 us afterwards
 * (Linux 6.18, 2 cores, 2026-11). XFS keeps no buffer heads: 1.7 us either way.
 *
 * So a chunk's folios are split before its first small write, 0.1 to 0.2 ms in the pool: the kernel splits no folio
 * that is dirty. It may make large ones again, of what was evicted and read again meanwhile, and tells nobody; but two
 * writes in a row that take long do. Then what is dirty of the chunk is written back first, mostly those two.
 */
import { native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import {
  SYNC_FILE_RANGE_WAIT_AFTER,
  SYNC_FILE_RANGE_WAIT_BEFORE,
  SYNC_FILE_RANGE_WRITE,
} from '../../native/constants.ts';
import { CHUNK_BYTES, chunkOf, lastChunkOf } from './chunks.ts';
import type { FileDurability } from './durability.ts';

/** Shortest write that large folios do not slow down. */
const LONG_WRITE_BYTES_MIN = 256 * 1024;

/** Chunks remembered, 128 GiB; beyond that all are forgotten, and split again in vain. */
const CHUNKS_MAX = 65_536;

/** Writes of up to so many bytes tell by their time whether folios are large. */
const TELLING_WRITE_BYTES_MAX = 16 * 1024;
const SLOW_WRITE_MS = 0.008;
/** A single one may have lost the processor. */
const SLOW_WRITES_IN_A_ROW = 2;

/** Between two times that a chunk is split because of slow writes; doubled while that does not help. */
const PAUSE_MS_MIN = 1000;
const PAUSE_MS_MAX = 64_000;

interface Chunk {
  /** In a row, the last one included. */
  slowWrites: number;
  /** When slow writes count again (performance.now). */
  patientUntil: number;
}

export class LargeFolios {
  readonly #fd: number;
  readonly #durability: FileDurability;
  /** By number: those whose folios were split. */
  readonly #chunks = new Map<number, Chunk>();
  readonly #splitting = new Map<number, Promise<void>>();
  /** The kernel splits nothing: it is too old, or the file cannot be mapped. */
  #isUseless = false;
  #pauseMs = PAUSE_MS_MIN;

  /** A file on ext4, open for reading and writing. */
  constructor(fd: number, durability: FileDurability) {
    this.#fd = fd;
    this.#durability = durability;
  }

  /** A write of this range should wait for `split`. */
  areInTheWay(offset: number, length: number): boolean {
    if (this.#isUseless || length >= LONG_WRITE_BYTES_MIN) {
      return false;
    }
    const [first, last] = [chunkOf(offset), lastChunkOf(offset, length)];
    return this.#isInTheWay(first) || (last !== first && this.#isInTheWay(last));
  }

  /** Never rejects: where folios cannot be split, writes are slower. */
  async split(offset: number, length: number): Promise<void> {
    if (this.areInTheWay(offset, length)) {
      await this.#splitChunk(chunkOf(offset));
      await this.#splitChunk(lastChunkOf(offset, length));
    }
  }

  /** A write on the event loop took so many milliseconds, until `now` (performance.now). */
  observe(offset: number, length: number, milliseconds: number, now: number): void {
    const chunk = this.#chunks.get(chunkOf(offset));
    if (chunk === undefined || length > TELLING_WRITE_BYTES_MAX) {
      return;
    }
    if (milliseconds < SLOW_WRITE_MS) {
      chunk.slowWrites = 0;
      return;
    }
    chunk.slowWrites += 1;
    if (chunk.slowWrites >= SLOW_WRITES_IN_A_ROW && now > chunk.patientUntil) {
      const isInVain = now < chunk.patientUntil + this.#pauseMs;
      this.#pauseMs = isInVain ? Math.min(2 * this.#pauseMs, PAUSE_MS_MAX) : PAUSE_MS_MIN;
      this.#chunks.delete(chunkOf(offset));
      void this.#splitChunk(chunkOf(offset), true, now + this.#pauseMs);
    }
  }

  /** Done when no call uses the descriptor any more; no write may follow. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#splitting.values());
  }

  #isInTheWay(number: number): boolean {
    if (this.#chunks.has(number)) {
      return false;
    }
    if (
      this.#splitting.has(number) ||
      native.cached_pages(this.#fd, number * CHUNK_BYTES, CHUNK_BYTES) !== 0
    ) {
      return true;
    }
    // The write makes folios of its own size.
    this.#remember(number, 0);
    return false;
  }

  #remember(number: number, patientUntil: number): void {
    if (this.#chunks.size === CHUNKS_MAX) {
      this.#chunks.clear();
    }
    this.#chunks.set(number, { slowWrites: 0, patientUntil });
  }

  #splitChunk(number: number, writesBack = false, patientUntil = 0): Promise<void> | undefined {
    if (this.#chunks.has(number)) {
      return undefined;
    }
    let splitting = this.#splitting.get(number);
    if (splitting === undefined) {
      splitting = this.#splitNow(number, writesBack).finally(() => {
        this.#splitting.delete(number);
        this.#remember(number, patientUntil);
      });
      this.#splitting.set(number, splitting);
    }
    return splitting;
  }

  async #splitNow(number: number, writesBack: boolean): Promise<void> {
    const offset = number * CHUNK_BYTES;
    if (writesBack) {
      // A wait takes the error of a write-back off the descriptor: it goes to the latch.
      await this.#durability.watch('sync_file_range', async () => {
        const flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
        const result = await call((done) => {
          native.sync_file_range(this.#fd, offset, CHUNK_BYTES, flags, done);
        });
        return { result, offset, length: CHUNK_BYTES };
      });
    }
    const result = await call((done) => {
      native.split_folios(this.#fd, offset, CHUNK_BYTES, done);
    });
    this.#isUseless ||= result < 0;
  }
}
