/**
 * The disk as a sparse array of pages. Any number of threads work on it, each through a SparseArray of its own.
 * An operation that meets another thread in the middle of a change ends early and says how far it got; the
 * caller goes on from there, in a later turn of its event loop.
 */
import { ENOSPC } from '../../native/errno.ts';
import { BackendError } from '../backend-error.ts';
import type { Extent, LentMemory } from '../plugin.ts';
import { BUSY, type Directory, FULL, HOLE } from './directory.ts';
import { lentPages } from './lent-pages.ts';
import type { Loans } from './loans.ts';
import { SLOT_BYTES, type SlotBytes } from './slot-memory.ts';

const PAGE_BYTES = SLOT_BYTES;

export class SparseArray {
  readonly #size: number;
  readonly #directory: Directory;
  readonly #bytes: SlotBytes;
  readonly #loans: Loans;

  /** `size`: bytes of the disk, up to 2^53-1. */
  constructor(size: number, directory: Directory, bytes: SlotBytes, loans: Loans) {
    this.#size = size;
    this.#directory = directory;
    this.#bytes = bytes;
    this.#loans = loans;
  }

  /** Fills `buffer` from `start` on. Bytes done, `length` or fewer. */
  read(buffer: Uint8Array, start: number, length: number, offset: number): number {
    const directory = this.#directory;
    for (let done = 0; done < length; ) {
      const page = pageOf(offset + done);
      const at = offset + done - page * PAGE_BYTES;
      const count = Math.min(PAGE_BYTES - at, length - done);
      const slot = directory.pin(page);
      if (slot === BUSY) {
        return done;
      }
      if (slot === HOLE) {
        buffer.fill(0, start + done, start + done + count);
      } else {
        this.#bytes.copyOut(slot, at, buffer, start + done, count);
        directory.unpin(slot);
      }
      done += count;
    }
    return length;
  }

  /** Bytes done, `length` or fewer. Throws ENOSPC at the memory limit; a part may be written then. */
  write(buffer: Uint8Array, start: number, length: number, offset: number): number {
    for (let done = 0; done < length; ) {
      const page = pageOf(offset + done);
      const at = offset + done - page * PAGE_BYTES;
      const count = Math.min(PAGE_BYTES - at, length - done);
      if (!this.#writePage(page, at, buffer, start + done, count)) {
        return done;
      }
      done += count;
    }
    return length;
  }

  /**
   * Lends the pages of a range, for a write after memory is set aside for its holes; undefined when another thread is in the
   * middle of a change, the memory limit is reached, or too many are lent.
   */
  lend(offset: number, length: number, purpose: 'read' | 'write'): LentMemory | undefined {
    const first = pageOf(offset);
    const count = pageOf(offset + length - 1) + 1 - first;
    if (!this.#loans.take(count)) {
      return undefined;
    }
    const slots: number[] = [];
    for (let index = 0; index < count; index += 1) {
      const slot = this.#pinToLend(first + index, purpose);
      if (slot === BUSY || (slot === HOLE && purpose === 'write')) {
        this.#takeBack(slots);
        this.#loans.giveBack(count - slots.length);
        return undefined;
      }
      slots.push(slot);
    }
    const giveBack = (): void => this.#takeBack(slots);
    return lentPages(slots, offset - first * PAGE_BYTES, length, this.#bytes, giveBack);
  }

  /**
   * Zeroes bytes. With `mayPunch` pages that are zeroed whole, or are all zeros then, give their memory back;
   * without, memory is set aside for what is a hole (ENOSPC as for `write`). Bytes done: `length`, or fewer when
   * `deadline`, in milliseconds of performance.now(), has passed.
   */
  zero(offset: number, length: number, mayPunch: boolean, deadline: number): number {
    const end = offset + length;
    let position = offset;
    while (position < end) {
      const page = pageOf(position);
      const at = position - page * PAGE_BYTES;
      const count = Math.min(PAGE_BYTES - at, end - position);
      const slot = this.#directory.pin(page);
      if (slot === BUSY) {
        break;
      }
      if (slot !== HOLE) {
        this.#zeroPinned(page, slot, at, count, mayPunch);
        position += count;
      } else if (mayPunch) {
        const next = this.#directory.findData(page + 1, pageOf(end - 1) + 1);
        position = Math.min(next * PAGE_BYTES, end);
      } else if (this.#fillHole(page)) {
        position += count;
      } else {
        break;
      }
      if (position < end && performance.now() >= deadline) {
        break;
      }
    }
    return position - offset;
  }

  /**
   * Extents from `offset` on, neighbours merged: up to `countMax` of them, ending before `offset + length` where
   * the search takes long. A page that was ever written and not zeroed since is data.
   */
  extents(offset: number, length: number, countMax: number, deadline: number): Extent[] {
    const directory = this.#directory;
    const end = offset + length;
    const endPage = pageOf(end - 1) + 1;
    const extents: { length: number; isHole: boolean; isZero: boolean }[] = [];
    let position = offset;
    while (position < end) {
      const page = pageOf(position);
      const dataPage = directory.findData(page, endPage);
      const isHole = dataPage > page;
      // At least this page: between the two searches it may have become a hole.
      const nextPage = isHole ? dataPage : Math.max(directory.findHole(page, endPage), page + 1);
      const next = Math.min(nextPage * PAGE_BYTES, end);
      const last = extents.at(-1);
      if (last?.isHole === isHole) {
        last.length += next - position;
      } else if (extents.length === countMax) {
        break;
      } else {
        extents.push({ length: next - position, isHole, isZero: isHole });
      }
      position = next;
      if (performance.now() >= deadline) {
        break;
      }
    }
    return extents;
  }

  #writePage(page: number, at: number, buffer: Uint8Array, start: number, count: number): boolean {
    const directory = this.#directory;
    for (;;) {
      const slot = directory.pin(page);
      if (slot === BUSY) {
        return false;
      }
      if (slot !== HOLE) {
        this.#bytes.copyIn(slot, at, buffer, start, count);
        directory.unpin(slot);
        return true;
      }
      const fresh = directory.reserve(page, at, at + count);
      if (fresh === BUSY) {
        return false;
      }
      if (fresh === FULL) {
        throw this.#fullError(page);
      }
      this.#bytes.copyIn(fresh, at, buffer, start, count);
      if (directory.publish(page, fresh)) {
        return true;
      }
    }
  }

  /** Pinned; or HOLE, for a read only, or BUSY. */
  #pinToLend(page: number, purpose: 'read' | 'write'): number {
    const slot = this.#directory.pin(page);
    // Another thread may trim it at once: then it is tried again later, through a buffer.
    return slot === HOLE && purpose === 'write' && this.#allocate(page) > HOLE
      ? this.#directory.pin(page)
      : slot;
  }

  #takeBack(slots: readonly number[]): void {
    for (const slot of slots) {
      if (slot !== HOLE) {
        this.#directory.unpin(slot);
      }
    }
    this.#loans.giveBack(slots.length);
  }

  #zeroPinned(page: number, slot: number, at: number, count: number, mayPunch: boolean): void {
    const directory = this.#directory;
    // The last page may be cut off by the end of the disk.
    const isWhole = at === 0 && count === Math.min(PAGE_BYTES, this.#size - page * PAGE_BYTES);
    if (mayPunch && isWhole) {
      directory.detach(page, slot);
      directory.unpin(slot);
      return;
    }
    this.#bytes.clear(slot, at, count);
    // Judged twice, because the second time, when it counts, keeps others from the page.
    if (mayPunch && this.#bytes.isZero(slot)) {
      directory.unpinUnlessZero(page, slot);
    } else {
      directory.unpin(slot);
    }
  }

  /** Sets memory aside for a page that is a hole. False: it has to be tried again. */
  #fillHole(page: number): boolean {
    const slot = this.#allocate(page);
    if (slot === FULL) {
      throw this.#fullError(page);
    }
    // When another thread was first, its page needs zeroing.
    return slot !== BUSY;
  }

  /** The slot of a page of zeros in place of a hole; or FULL or BUSY. */
  #allocate(page: number): number {
    const fresh = this.#directory.reserve(page, 0, 0);
    return fresh === FULL || fresh === BUSY || this.#directory.publish(page, fresh) ? fresh : BUSY;
  }

  #fullError(page: number): BackendError {
    const offset = page * PAGE_BYTES;
    return new BackendError(
      ENOSPC,
      'allocate',
      offset,
      PAGE_BYTES,
      'The memory limit is reached (--memory-limit)',
    );
  }
}

function pageOf(offset: number): number {
  return Math.floor(offset / PAGE_BYTES);
}
