/**
 * The bytes of a pool: numbered slots of 64 KiB, each a page of the disk or a table of the directory. They lie
 * in growable SharedArrayBuffers ("regions"), which reserve addresses and no memory; the system gives memory
 * when a slot is first touched and takes it back in `discard`. Every thread has its own SlotMemory on the same
 * regions. Nothing here knows which slots are in use.
 */
import { native } from '../../native/binding.ts';

/** Bytes of a slot. */
export const SLOT_BYTES = 64 * 1024;

/**
 * Slots of a region, 256 MiB: one typed array must reach all of it (4 GiB in Node 20), the address space must not
 * be cut into too many (MEMORY_LIMIT_BYTES_MAX), and with strict overcommit the system is asked for one at a time.
 */
const REGION_SHIFT = 12;
export const REGION_SLOT_COUNT = 1 << REGION_SHIFT;

export const WORDS_PER_SLOT = SLOT_BYTES / Int32Array.BYTES_PER_ELEMENT;

/** Never written to. */
export const ZERO_SLOT = new Uint8Array(SLOT_BYTES);

/** Regions for slots from 0 to `slotCount` - 1, none of which has memory yet. Throws when addresses run out. */
export function reserveRegions(slotCount: number): SharedArrayBuffer[] {
  const regions: SharedArrayBuffer[] = [];
  for (let first = 0; first < slotCount; first += REGION_SLOT_COUNT) {
    const maxByteLength = Math.min(REGION_SLOT_COUNT, slotCount - first) * SLOT_BYTES;
    regions.push(new SharedArrayBuffer(0, { maxByteLength }));
  }
  return regions;
}

/** What SparseArray and SlotPool need of the bytes; `slot` is one that `isUsable` has said yes to. */
export interface SlotBytes {
  /** Makes the addresses of a slot's region usable: false when the system refuses (strict overcommit). */
  isUsable(slot: number): boolean;
  copyIn(slot: number, at: number, buffer: Uint8Array, start: number, length: number): void;
  copyOut(slot: number, at: number, buffer: Uint8Array, start: number, length: number): void;
  /** The array in which a slot lies from `startOf(slot)` on. */
  view(slot: number): Uint8Array;
  clear(slot: number, at: number, length: number): void;
  isZero(slot: number): boolean;
  /** Gives the memory of `count` slots in a row, of one region, back; they are all zeros afterwards. */
  discard(slot: number, count: number): void;
  /** The region of a slot as words, for Atomics; the slot begins at word (slot % REGION_SLOT_COUNT) * WORDS_PER_SLOT. */
  words(slot: number): Int32Array<SharedArrayBuffer>;
}

export class SlotMemory implements SlotBytes {
  readonly #regions: readonly SharedArrayBuffer[];
  readonly #bytes: Uint8Array<SharedArrayBuffer>[] = [];
  readonly #words: Int32Array<SharedArrayBuffer>[] = [];

  constructor(regions: readonly SharedArrayBuffer[]) {
    this.#regions = regions;
  }

  isUsable(slot: number): boolean {
    const region = this.#region(slot);
    if (region.byteLength === region.maxByteLength) {
      return true;
    }
    try {
      // Another thread may grow it at the same time, to the same size.
      region.grow(region.maxByteLength);
      return true;
    } catch {
      return false;
    }
  }

  copyIn(slot: number, at: number, buffer: Uint8Array, start: number, length: number): void {
    native.copy_memory(this.view(slot), startOf(slot) + at, length, buffer, start, length);
  }

  copyOut(slot: number, at: number, buffer: Uint8Array, start: number, length: number): void {
    native.copy_memory(buffer, start, length, this.view(slot), startOf(slot) + at, length);
  }

  clear(slot: number, at: number, length: number): void {
    native.copy_memory(this.view(slot), startOf(slot) + at, length, ZERO_SLOT, 0, length);
  }

  isZero(slot: number): boolean {
    const from = startOf(slot);
    return Buffer.compare(this.view(slot).subarray(from, from + SLOT_BYTES), ZERO_SLOT) === 0;
  }

  discard(slot: number, count: number): void {
    if (native.discard_memory(this.view(slot), startOf(slot), count * SLOT_BYTES) < 0) {
      // Not Linux, or memory locked by mlockall(2): the zeros are needed all the same.
      for (let index = 0; index < count; index += 1) {
        this.clear(slot + index, 0, SLOT_BYTES);
      }
    }
  }

  words(slot: number): Int32Array<SharedArrayBuffer> {
    const index = slot >>> REGION_SHIFT;
    const words = this.#words[index];
    if (words !== undefined) {
      return words;
    }
    const region = this.#region(slot);
    // With an explicit length: an array that tracks the length of a growable buffer is slow.
    const made = new Int32Array(region, 0, region.byteLength / Int32Array.BYTES_PER_ELEMENT);
    this.#words[index] = made;
    return made;
  }

  view(slot: number): Uint8Array<SharedArrayBuffer> {
    const index = slot >>> REGION_SHIFT;
    const bytes = this.#bytes[index];
    if (bytes !== undefined) {
      return bytes;
    }
    const region = this.#region(slot);
    const made = new Uint8Array(region, 0, region.byteLength);
    this.#bytes[index] = made;
    return made;
  }

  #region(slot: number): SharedArrayBuffer {
    const region = this.#regions[slot >>> REGION_SHIFT];
    if (region === undefined) {
      throw new RangeError(`Bug: no slot ${slot}`);
    }
    return region;
  }
}

/** Where a slot begins in its array. */
export function startOf(slot: number): number {
  return (slot & (REGION_SLOT_COUNT - 1)) * SLOT_BYTES;
}
