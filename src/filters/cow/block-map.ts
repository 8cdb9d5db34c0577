/**
 * Which blocks are in the overlay: its bitmap, in pages of 4 KiB (2 GiB of export each), of which only those with a
 * bit set take up memory. Blocks come and never go.
 */
import { PAGE_BYTES } from './layout.ts';

const BITS_PER_PAGE = PAGE_BYTES * 8;

export interface BitmapPage {
  readonly index: number;
  readonly bytes: Uint8Array;
}

export class BlockMap {
  readonly #pages = new Map<number, Uint8Array>();
  /** Pages that the file does not hold as they are here. */
  #changed = new Set<number>();

  get hasChanges(): boolean {
    return this.#changed.size > 0;
  }

  has(block: number): boolean {
    const page = this.#pages.get(Math.floor(block / BITS_PER_PAGE));
    const bit = block % BITS_PER_PAGE;
    return page !== undefined && ((page[bit >>> 3] ?? 0) & (1 << (bit & 7))) !== 0;
  }

  /** The first block from `block` on, or `end`, that differs from `block` in whether it is here. */
  runEnd(block: number, end: number): number {
    const isHere = this.has(block);
    let next = block + 1;
    while (next < end) {
      const page = this.#pages.get(Math.floor(next / BITS_PER_PAGE));
      const bit = next % BITS_PER_PAGE;
      if (page === undefined) {
        if (isHere) {
          return next;
        }
        next += BITS_PER_PAGE - bit;
      } else if ((bit & 7) === 0 && page[bit >>> 3] === (isHere ? 0xff : 0)) {
        next += 8;
      } else if (this.has(next) === isHere) {
        next += 1;
      } else {
        return next;
      }
    }
    return end;
  }

  /** True when all blocks from `first` to before `end` are here. */
  hasAll(first: number, end: number): boolean {
    return this.has(first) && this.runEnd(first, end) === end;
  }

  /** The blocks from `first` to before `end` are here from now on. */
  add(first: number, end: number): void {
    for (let block = first; block < end; ) {
      const index = Math.floor(block / BITS_PER_PAGE);
      const page = this.#pages.get(index) ?? new Uint8Array(PAGE_BYTES);
      this.#pages.set(index, page);
      this.#changed.add(index);
      const pageEnd = Math.min(end, (index + 1) * BITS_PER_PAGE);
      for (; block < pageEnd; block += 1) {
        const bit = block % BITS_PER_PAGE;
        if ((bit & 7) === 0 && block + 8 <= pageEnd) {
          page[bit >>> 3] = 0xff;
          block += 7;
        } else {
          page[bit >>> 3] = (page[bit >>> 3] ?? 0) | (1 << (bit & 7));
        }
      }
    }
  }

  /** A page as the file holds it. */
  load({ index, bytes }: BitmapPage): void {
    if (bytes.some((byte) => byte !== 0)) {
      this.#pages.set(index, bytes);
    }
  }

  /** Copies of the pages that have changed since the last call, in the order of the file. */
  takeChanges(): BitmapPage[] {
    const indices = [...this.#changed].sort((one, other) => one - other);
    this.#changed = new Set();
    return indices.map((index) => ({
      index,
      bytes: Uint8Array.from(this.#pages.get(index) ?? new Uint8Array(PAGE_BYTES)),
    }));
  }

  /** The file does not hold these pages after all. */
  giveBack(pages: readonly BitmapPage[]): void {
    for (const { index } of pages) {
      this.#changed.add(index);
    }
  }
}
