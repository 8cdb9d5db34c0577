/**
 * `--keep-resident`: chunks of which something was in the page cache before this server first touched them.
 * Somebody else uses them, and what the server adds to them stays with them.
 */
import { native } from '../../native/binding.ts';
import { CHUNK_BYTES, chunkOf, lastChunkOf } from './chunks.ts';

/**
 * Chunks that are looked at ahead of a range. Somebody else's read-ahead leaves a mark in the last folios that it
 * brought in, and whoever reads those sets off the kernel's next read-ahead, in spite of POSIX_FADV_RANDOM: three
 * chunks behind a cached one were filled by the server's reads and then taken for somebody else's.
 */
const AHEAD_CHUNKS = 8;

export class KeptChunks {
  readonly #fd: number;
  readonly #marks: ChunkMarks | undefined;
  /** Every chunk that was met, and whether it is kept; an entry for each 2 MiB that was ever touched. */
  readonly #met = new Map<number, boolean>();

  /** `marks`: what the threads that serve the file have found, when there are several. */
  constructor(fd: number, marks?: ChunkMarks) {
    this.#fd = fd;
    this.#marks = marks;
  }

  /** To be called before a range is read or written: looks at its chunks once, while they are untouched. */
  meet(offset: number, length: number): void {
    const last = lastChunkOf(offset, length) + AHEAD_CHUNKS;
    for (let chunk = chunkOf(offset); chunk <= last; chunk += 1) {
      if (!this.#met.has(chunk)) {
        const look = (): boolean => this.#isResident(chunk);
        this.#met.set(chunk, this.#marks === undefined ? look() : this.#marks.decide(chunk, look));
      }
    }
  }

  has(chunk: number): boolean {
    return this.#met.get(chunk) === true;
  }

  #isResident(chunk: number): boolean {
    // An error (EPERM for another user's file) counts as "not resident".
    return native.cached_pages(this.#fd, chunk * CHUNK_BYTES, CHUNK_BYTES) > 0;
  }
}

const MET = 0b01;
const KEPT = 0b10;
const MARK_BITS = 2;
const MARKS_IN_WORD = 16;

/**
 * For several threads: two bits for each chunk of the file in shared memory, of which the kernel gives only what
 * is written to. The first look that is recorded decides. No thread touches a chunk before it has recorded its
 * look or found another's, so that the deciding look saw nothing of ours, whichever thread made it.
 */
export class ChunkMarks {
  readonly words: Int32Array;

  constructor(words: Int32Array) {
    this.words = words;
  }

  /** `size`: bytes of the file. */
  static create(size: number): ChunkMarks {
    const chunkCount = lastChunkOf(0, size) + 1 + AHEAD_CHUNKS;
    const bytes = Math.ceil(chunkCount / MARKS_IN_WORD) * Int32Array.BYTES_PER_ELEMENT;
    return new ChunkMarks(new Int32Array(new SharedArrayBuffer(bytes)));
  }

  /** Whether a chunk is kept: as recorded, or as `look` finds now. */
  decide(chunk: number, look: () => boolean): boolean {
    const index = Math.floor(chunk / MARKS_IN_WORD);
    const shift = (chunk % MARKS_IN_WORD) * MARK_BITS;
    let word = Atomics.load(this.words, index);
    let found = -1;
    for (;;) {
      const mark = (word >>> shift) & (MET | KEPT);
      if (mark !== 0) {
        return mark === KEPT;
      }
      if (found === -1) {
        found = look() ? KEPT : MET;
      }
      // Pairs with the loads above, in every thread.
      const before = Atomics.compareExchange(this.words, index, word, word | (found << shift));
      if (before === word) {
        return found === KEPT;
      }
      word = before;
    }
  }
}
