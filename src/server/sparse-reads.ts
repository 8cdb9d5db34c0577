/**
 * Long READs that may have holes in them: where they lie is asked first, and they are sent as OFFSET_HOLE
 * chunks instead of being read and sent as zeros. One for each handle.
 *
 * Asking costs two hops to a thread pool, so it is done as little as possible:
 *  - A run of data is remembered as far as the answer says it goes, mostly far beyond the READ. What lies inside
 *    it is read without asking. A file without holes is one run: its handle asks once.
 *  - After ASKED_IN_VAIN_MAX answers in a row without a hole, only one READ in ASKING_INTERVAL is asked about.
 *
 * Measured with fio's nbd engine, 256 KiB READs at depth 8 of 512 MiB, 2 cores, 2026-11: with and without all
 * this a full file gives 2.2 and 2.2 GB/s sequential, 2.5 and 2.4 random; one hole 7.9 against 0.2 GB/s.
 *
 * Data is always a right answer, so what is remembered may be stale. A hole never is: it is asked for after the
 * READ has arrived, and the handle counts what was written and acknowledged before as data (for files: Linux's
 * SEEK_DATA sees dirty pages of the page cache). What is written while the READ is under way overlaps with it,
 * which the protocol leaves without an order.
 */
import type { Extent, Handle } from '../plugins/plugin.ts';
import { type ChunkForm, dataHeaderBytes, holeBytes, putDataHeader, putHole } from '../protocol/reply.ts';
import type { Request } from '../protocol/request.ts';
import type { BufferPool } from './buffer-pool.ts';

/** Shortest READ that is asked about, and shortest hole that is worth a chunk and another read behind it. */
const HOLE_BYTES_MIN = 64 * 1024;

/** Questions for one READ: behind the last answer everything counts as data. */
const QUESTION_COUNT_MAX = 4;

const ASKED_IN_VAIN_MAX = 16;
const ASKING_INTERVAL = 16;

/** Borders of chunks SHOULD be multiples of it (proto.md, "NBD_REPLY_TYPE_OFFSET_DATA"). */
export const CHUNK_ALIGNMENT_BYTES = 512;

/** A part of a READ: one chunk of its reply. */
export interface ReadPart {
  readonly offset: number;
  /** Bytes, above zero. */
  readonly length: number;
  readonly isHole: boolean;
}

/** A whole reply in the first `length` bytes of a buffer of the pool. */
export interface SparseReply {
  readonly buffer: Uint8Array;
  readonly length: number;
}

export class SparseReads {
  readonly #handle: Handle;
  readonly #pool: BufferPool;
  readonly #form: ChunkForm;
  #dataStart = 0;
  #dataEnd = 0;
  #askedInVain = 0;
  #unasked = 0;

  constructor(handle: Handle, pool: BufferPool, form: ChunkForm) {
    this.#handle = handle;
    this.#pool = pool;
    this.#form = form;
  }

  /** True when a READ is worth a question; it counts as a READ that came by. */
  mayHaveHole(offset: number, length: number): boolean {
    if (length < HOLE_BYTES_MIN || (offset >= this.#dataStart && offset + length <= this.#dataEnd)) {
      return false;
    }
    if (this.#askedInVain < ASKED_IN_VAIN_MAX) {
      return true;
    }
    this.#unasked = (this.#unasked + 1) % ASKING_INTERVAL;
    return this.#unasked === 0;
  }

  /** Data may have become a hole, by TRIM or WRITE_ZEROES: what is remembered would hide it. */
  forget(): void {
    this.#dataStart = 0;
    this.#dataEnd = 0;
    this.#askedInVain = 0;
  }

  /** The whole reply to a READ, or a rejection: nothing of a reply was sent then. */
  async read(request: Request): Promise<SparseReply> {
    const parts = planRead(request.offset, request.length, await this.#findExtents(request));
    const headerBytes = dataHeaderBytes(this.#form);
    // Not above the READ and one header: every further part pays with a hole of HOLE_BYTES_MIN.
    const length = parts.reduce(
      (sum, part) => sum + (part.isHole ? holeBytes(this.#form) : headerBytes + part.length),
      0,
    );
    const buffer = this.#pool.acquire(length);
    const reads: (void | Promise<void>)[] = [];
    try {
      let position = 0;
      for (const [index, part] of parts.entries()) {
        const isLast = index === parts.length - 1;
        if (part.isHole) {
          position = putHole(buffer, position, this.#form, request, part.offset, part.length, isLast);
        } else {
          position = putDataHeader(buffer, position, this.#form, request, part.offset, part.length, isLast);
          reads.push(this.#handle.read(buffer, position, part.length, part.offset));
          position += part.length;
        }
      }
      await Promise.all(reads);
      return { buffer, length };
    } catch (error) {
      // The other reads still write into the buffer.
      await Promise.allSettled(reads);
      this.#pool.release(buffer);
      throw error;
    }
  }

  async #findExtents({ offset, length }: Request): Promise<readonly Extent[]> {
    const end = offset + length;
    const extents: Extent[] = [];
    let hasHole = false;
    let position = offset;
    try {
      for (let count = 0; count < QUESTION_COUNT_MAX && position < end; count += 1) {
        for (const extent of await this.#handle.extents(position, end - position, true)) {
          if (!extent.isZero) {
            this.#dataStart = position;
            this.#dataEnd = position + extent.length;
          }
          hasHole ||= extent.isZero && extent.length >= HOLE_BYTES_MIN && position < end;
          extents.push(extent);
          position += extent.length;
        }
      }
    } catch {
      // Where holes are cannot be told: reading tells whether there is anything wrong with the data.
    }
    this.#askedInVain = hasHole ? 0 : this.#askedInVain + 1;
    return extents;
  }
}

/**
 * Cuts a READ into holes of at least HOLE_BYTES_MIN, with borders that are multiples of 512 inside the READ, and
 * data for the rest: also for what the extents, which begin at `offset`, say nothing of.
 */
export function planRead(offset: number, length: number, extents: readonly Extent[]): ReadPart[] {
  const end = offset + length;
  const parts: ReadPart[] = [];
  let planned = offset;
  for (const hole of mergeHoles(offset, extents)) {
    const holeStart = Math.max(hole.start === offset ? offset : alignUp(hole.start), planned);
    const holeEnd = hole.end >= end ? end : alignDown(hole.end);
    if (holeEnd - holeStart >= HOLE_BYTES_MIN) {
      if (holeStart > planned) {
        parts.push({ offset: planned, length: holeStart - planned, isHole: false });
      }
      parts.push({ offset: holeStart, length: holeEnd - holeStart, isHole: true });
      planned = holeEnd;
    }
  }
  if (planned < end) {
    parts.push({ offset: planned, length: end - planned, isHole: false });
  }
  return parts;
}

/** Runs of extents that read as zeros. */
function mergeHoles(offset: number, extents: readonly Extent[]): { start: number; end: number }[] {
  const holes: { start: number; end: number }[] = [];
  let position = offset;
  for (const { length, isZero } of extents) {
    const last = holes.at(-1);
    if (isZero && last?.end === position) {
      last.end += length;
    } else if (isZero) {
      holes.push({ start: position, end: position + length });
    }
    position += length;
  }
  return holes;
}

function alignUp(offset: number): number {
  return Math.ceil(offset / CHUNK_ALIGNMENT_BYTES) * CHUNK_ALIGNMENT_BYTES;
}

function alignDown(offset: number): number {
  return Math.floor(offset / CHUNK_ALIGNMENT_BYTES) * CHUNK_ALIGNMENT_BYTES;
}
