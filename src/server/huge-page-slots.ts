/** Huge pages of which a part is in use, cut into slots of one length each. */

export const HUGE_PAGE_BYTES = 2 * 1024 * 1024;

/** Shortest slot. */
const SLOT_BYTES_MIN = 256 * 1024;

interface HugePage {
  readonly memory: Uint8Array;
  readonly idle: Uint8Array[];
}

export class HugePageSlots {
  readonly #pages = new Map<ArrayBufferLike, HugePage>();
  /** Those with idle slots, by the slots' length. */
  readonly #partlyIdle = new Map<number, Set<HugePage>>();

  /** `length`: see isSlotLength. `newPage`: memory of HUGE_PAGE_BYTES, where no page in use has an idle slot. */
  acquire(length: number, newPage: () => Uint8Array): Uint8Array {
    const partlyIdle = this.#partlyIdleOf(length);
    const [first] = partlyIdle;
    const page = first ?? this.#cut(newPage(), length);
    const slot = page.idle.pop();
    if (slot === undefined) {
      throw new Error('Bug: a huge page without an idle slot');
    }
    if (page.idle.length === 0) {
      partlyIdle.delete(page);
    } else {
      partlyIdle.add(page);
    }
    return slot;
  }

  /** Takes a slot back; the page's memory when no other slot of it is in use. */
  release(slot: Uint8Array): Uint8Array | undefined {
    const page = this.#pages.get(slot.buffer);
    if (page === undefined) {
      throw new Error('Bug: a slot of no huge page in use');
    }
    page.idle.push(slot);
    const partlyIdle = this.#partlyIdleOf(slot.length);
    if (page.idle.length * slot.length < HUGE_PAGE_BYTES) {
      partlyIdle.add(page);
      return undefined;
    }
    partlyIdle.delete(page);
    this.#pages.delete(slot.buffer);
    return page.memory;
  }

  #cut(memory: Uint8Array, length: number): HugePage {
    const idle: Uint8Array[] = [];
    for (let position = 0; position < HUGE_PAGE_BYTES; position += length) {
      idle.push(memory.subarray(position, position + length));
    }
    const page = { memory, idle };
    this.#pages.set(memory.buffer, page);
    return page;
  }

  #partlyIdleOf(length: number): Set<HugePage> {
    let pages = this.#partlyIdle.get(length);
    if (pages === undefined) {
      pages = new Set();
      this.#partlyIdle.set(length, pages);
    }
    return pages;
  }
}

/** A power of two from 256 KiB to 2 MiB. */
export function isSlotLength(length: number): boolean {
  return length >= SLOT_BYTES_MIN && length <= HUGE_PAGE_BYTES && Number.isInteger(Math.log2(length));
}
