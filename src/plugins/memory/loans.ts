/**
 * How many pages are lent, by all threads together. A page that is trimmed while it is lent keeps its memory, for as long as
 * a slow client likes: what may be lent must be little of what there is.
 */

/** Of all slots, one in so many may be lent. */
export const SLOTS_PER_LOAN = 8;

export interface Loans {
  /** False when that would be too many. */
  take(count: number): boolean;
  giveBack(count: number): void;
}

export class SharedLoans implements Loans {
  readonly #countMax: number;
  readonly #count: Int32Array;

  /** `count`: one word for all threads. */
  constructor(slotCountMax: number, count: SharedArrayBuffer) {
    this.#countMax = Math.floor(slotCountMax / SLOTS_PER_LOAN);
    this.#count = new Int32Array(count);
  }

  take(count: number): boolean {
    if (Atomics.add(this.#count, 0, count) + count <= this.#countMax) {
      return true;
    }
    Atomics.sub(this.#count, 0, count);
    return false;
  }

  giveBack(count: number): void {
    Atomics.sub(this.#count, 0, count);
  }
}

/** Nothing is lent. */
export const NO_LOANS: Loans = {
  take: () => false,
  giveBack: () => {},
};
