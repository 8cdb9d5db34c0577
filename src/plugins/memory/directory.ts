/**
 * What the sparse array needs to know about its pages: where each lies, and how one comes and goes. A page is
 * SLOT_BYTES of the disk, at a multiple of that; pages count from 0 up to 2^37.
 */

/** Nothing is stored for a page: it reads as zeros. */
export const HOLE = 0;

/** Another thread is in the middle of changing the page or its table: try again. */
export const BUSY = -1;

/** The memory limit is reached. */
export const FULL = -2;

export interface Directory {
  /** The slot of a page, which stays its own until `unpin`; or HOLE or BUSY. */
  pin(page: number): number;
  unpin(slot: number): void;
  /**
   * A slot for a page that is a hole, zero outside its bytes `from` to `to`; or FULL or BUSY. The caller fills
   * it, then publishes it.
   */
  reserve(page: number, from: number, to: number): number;
  /** Makes a reserved slot the page; false, and the slot is gone, when another thread did so first. */
  publish(page: number, slot: number): boolean;
  /** Makes a pinned page a hole; its bytes live until the last pin is gone. */
  detach(page: number, slot: number): void;
  /** In place of `unpin`: makes the page a hole if it is all zeros and nobody else has it pinned. */
  unpinUnlessZero(page: number, slot: number): void;
  /** The first page from `page` on, up to `end`, that may not be a hole. It may stop early, after `page`. */
  findData(page: number, end: number): number;
  /** The first page from `page` on, up to `end`, that may be a hole. It may stop early, after `page`. */
  findHole(page: number, end: number): number;
}
