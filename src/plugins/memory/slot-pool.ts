/**
 * Which slots are free. Threads share a bitmap of clean slots, whose memory the system has back and which read
 * as zeros; each thread keeps a few slots to itself, so that a disk that is trimmed and written again costs no
 * system calls and no page faults (a fault costs about 1 us on a virtual machine, 16 of them make a slot).
 *
 * No thread ever waits for another: the bitmap changes by Atomics.or (a slot is given) and Atomics.exchange
 * (32 slots are taken at once).
 */
import { REGION_SLOT_COUNT, reserveRegions, SLOT_BYTES, type SlotBytes } from './slot-memory.ts';

/** No slot; also what an empty entry of the directory holds. Slot 0 is never given out. */
export const NO_SLOT = 0;

/** Used slots that a thread keeps before it gives memory back to the system: 4 MiB. */
const KEPT_SLOT_COUNT_MAX = 64;

const SLOTS_PER_WORD = 32;

/** Slots that may be in the hands of threads without being in use, with room for 40 threads. */
const SLACK_SLOT_COUNT = REGION_SLOT_COUNT;

/** Words of `counts`, each in a cache line of its own: threads add to both all the time. */
const FRESH = 0;
const IDLE = 16;
const COUNT_WORDS = 32;

/** What the threads share of a pool. Structured-cloneable. */
export interface PoolData {
  readonly slotCount: number;
  readonly regions: readonly SharedArrayBuffer[];
  /** FRESH: slots from here on were never given out. IDLE: bits set in `clean`. */
  readonly counts: SharedArrayBuffer;
  /** One bit for each slot that is clean and in nobody's hands. */
  readonly clean: SharedArrayBuffer;
}

/** Slots of all pools together. Structured-cloneable. */
export interface SlotBudget {
  readonly slotCountMax: number;
  /** One word: slots in use. */
  readonly used: SharedArrayBuffer;
}

/** A pool in which `slotCountMax` slots may be in use. Throws when addresses run out. */
export function createPool(slotCountMax: number): PoolData {
  const wanted = slotCountMax + SLACK_SLOT_COUNT;
  const slotCount = Math.ceil(wanted / SLOTS_PER_WORD) * SLOTS_PER_WORD;
  return {
    slotCount,
    regions: reserveRegions(slotCount),
    counts: new SharedArrayBuffer(COUNT_WORDS * Int32Array.BYTES_PER_ELEMENT),
    clean: new SharedArrayBuffer(slotCount / 8),
  };
}

export class SlotPool {
  readonly #bytes: SlotBytes;
  readonly #slotCount: number;
  readonly #slotCountMax: number;
  readonly #used: Int32Array;
  readonly #counts: Int32Array;
  readonly #clean: Int32Array;
  /** Of this thread: slots with old contents, the latest last, and slots of zeros. */
  #kept: number[] = [];
  readonly #ready: number[] = [];
  /** The word of the bitmap where slots were found or given last. */
  #cursor = 0;

  constructor(data: PoolData, budget: SlotBudget, bytes: SlotBytes) {
    this.#bytes = bytes;
    this.#slotCount = data.slotCount;
    this.#slotCountMax = budget.slotCountMax;
    this.#used = new Int32Array(budget.used);
    this.#counts = new Int32Array(data.counts);
    this.#clean = new Int32Array(data.clean);
  }

  /** A slot that is zero outside the bytes `from` to `to`, or NO_SLOT when the limit is reached. */
  take(from: number, to: number): number {
    if (Atomics.add(this.#used, 0, 1) >= this.#slotCountMax) {
      Atomics.sub(this.#used, 0, 1);
      return NO_SLOT;
    }
    const kept = this.#kept.pop();
    if (kept !== undefined) {
      this.#bytes.clear(kept, 0, from);
      this.#bytes.clear(kept, to, SLOT_BYTES - to);
      return kept;
    }
    const slot = this.#ready.pop() ?? this.#refill();
    if (slot === NO_SLOT) {
      Atomics.sub(this.#used, 0, 1);
    }
    return slot;
  }

  /** Takes back a slot, whatever is in it. */
  give(slot: number): void {
    Atomics.sub(this.#used, 0, 1);
    this.#kept.push(slot);
    if (this.#kept.length > KEPT_SLOT_COUNT_MAX) {
      // The oldest: the others are still in the processor's cache.
      this.#discard(this.#kept.splice(0, KEPT_SLOT_COUNT_MAX / 2));
    }
  }

  /** Clean slots for this thread: one is returned, the others are ready. */
  #refill(): number {
    const word = this.#takeIdle() ?? this.#takeFresh();
    if (word === undefined) {
      return NO_SLOT;
    }
    const first = word.index * SLOTS_PER_WORD;
    if (!this.#bytes.isUsable(first)) {
      this.#putBits(word.index, word.bits);
      return NO_SLOT;
    }
    // Downwards, so that they are popped upwards: runs of slots go back to the system in one call.
    for (let bit = SLOTS_PER_WORD - 1; bit >= 0; bit -= 1) {
      if ((word.bits >>> bit) & 1 && first + bit !== NO_SLOT) {
        this.#ready.push(first + bit);
      }
    }
    return this.#ready.pop() ?? NO_SLOT;
  }

  #takeIdle(): { index: number; bits: number } | undefined {
    if (Atomics.load(this.#counts, IDLE) <= 0) {
      return undefined;
    }
    const wordCount = this.#clean.length;
    for (let step = 0; step < wordCount; step += 1) {
      const index = (this.#cursor + step) % wordCount;
      const bits = Atomics.load(this.#clean, index) === 0 ? 0 : Atomics.exchange(this.#clean, index, 0);
      if (bits !== 0) {
        Atomics.sub(this.#counts, IDLE, countBits(bits));
        this.#cursor = index;
        return { index, bits };
      }
    }
    return undefined;
  }

  #takeFresh(): { index: number; bits: number } | undefined {
    // Asked first, so that the counter passes the end by no more than a step for each thread.
    if (Atomics.load(this.#counts, FRESH) >= this.#slotCount) {
      return undefined;
    }
    const first = Atomics.add(this.#counts, FRESH, SLOTS_PER_WORD);
    return first < this.#slotCount ? { index: first / SLOTS_PER_WORD, bits: -1 } : undefined;
  }

  #discard(slots: number[]): void {
    slots.sort((one, other) => one - other);
    for (let index = 0; index < slots.length; ) {
      const first = slots[index] ?? NO_SLOT;
      let count = 1;
      while (slots[index + count] === first + count && (first + count) % REGION_SLOT_COUNT !== 0) {
        count += 1;
      }
      this.#bytes.discard(first, count);
      for (let slot = first; slot < first + count; slot += 1) {
        this.#putBits(slot >>> 5, 1 << (slot & 31));
      }
      index += count;
    }
  }

  #putBits(index: number, bits: number): void {
    Atomics.or(this.#clean, index, bits);
    Atomics.add(this.#counts, IDLE, countBits(bits));
    this.#cursor = index;
  }
}

function countBits(word: number): number {
  let rest = word >>> 0;
  let count = 0;
  for (; rest !== 0; rest &= rest - 1) {
    count += 1;
  }
  return count;
}
