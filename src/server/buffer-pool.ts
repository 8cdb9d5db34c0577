/**
 * Buffers by size class, so that the data path allocates nothing once it is warm. A class is a power of two
 * plus room for a reply header, because the common request lengths are powers of two.
 *
 * A payload of 256 KiB to 2 MiB whose length is such a power has no header, and gets a slot: a part of a huge page, which
 * a disk writes from in one segment, and O_DIRECT takes without a copy (plugins/file/direct-writes.ts).
 */

import { PROCESS_INFLIGHT_BYTES_MAX } from '../limits.ts';
import { native } from '../native/binding.ts';
import { HUGE_PAGE_BYTES, HugePageSlots, isSlotLength } from './huge-page-slots.ts';

/** More than any reply header; keeps a 1 MiB READ out of the 2 MiB class. */
const HEADER_ROOM_BYTES = 64;

const SMALLEST_CLASS = 12;
const LARGEST_CLASS = 26;

/**
 * Bytes of idle buffers that are kept for a burst: as many as may be in flight. What the garbage collector
 * gets, it frees late: 20 clients that asked for 32 MiB and left brought the process to 436 MiB with a bound
 * of 64 MiB here.
 */
const IDLE_BYTES_MAX = PROCESS_INFLIGHT_BYTES_MAX;

/** Bytes of idle buffers that are kept for good, and the time after which the others are let go. */
const IDLE_BYTES_KEPT = 64 * 1024 * 1024;
const IDLE_MS = 1000;

export class BufferPool {
  readonly #idle: Uint8Array[][] = [];
  readonly #idlePages: Uint8Array[] = [];
  readonly #slots = new HugePageSlots();
  #idleBytes = 0;
  #trimTimer: NodeJS.Timeout | undefined;
  readonly #idleBytesMax: number;
  readonly #idleBytesKept: number;

  /** `threadCount`: threads with a pool each, which divide the idle bytes. */
  constructor(threadCount = 1) {
    this.#idleBytesMax = IDLE_BYTES_MAX / threadCount;
    this.#idleBytesKept = IDLE_BYTES_KEPT / threadCount;
  }

  /** A buffer of at least `length` bytes (up to 64 MiB) with arbitrary contents. */
  acquire(length: number): Uint8Array {
    if (isSlotLength(length)) {
      return this.#slots.acquire(length, () => this.#acquirePage());
    }
    const sizeClass = classOf(length);
    const buffer = this.#idle[sizeClass]?.pop();
    if (buffer !== undefined) {
      this.#idleBytes -= buffer.length;
      return buffer;
    }
    // Not from Node's shared slab: these live long, and a slice would pin its 8 KiB neighbours.
    return Buffer.allocUnsafeSlow(2 ** sizeClass + HEADER_ROOM_BYTES);
  }

  /** Takes a buffer of `acquire` back; the caller must not touch it again. */
  release(buffer: Uint8Array): void {
    if (!isSlotLength(buffer.length)) {
      this.#idle[classOf(buffer.length)] ??= [];
      return this.#keep(buffer, this.#idle[classOf(buffer.length)] ?? []);
    }
    const page = this.#slots.release(buffer);
    if (page !== undefined) {
      this.#keep(page, this.#idlePages);
    }
  }

  #keep(buffer: Uint8Array, idle: Uint8Array[]): void {
    if (this.#idleBytes + buffer.length > this.#idleBytesMax) {
      return;
    }
    this.#idleBytes += buffer.length;
    idle.push(buffer);
    if (this.#idleBytes > this.#idleBytesKept) {
      this.#trimTimer ??= setTimeout(() => {
        this.#trimTimer = undefined;
        this.#trim();
      }, IDLE_MS).unref();
    }
  }

  #acquirePage(): Uint8Array {
    const idle = this.#idlePages.pop();
    if (idle !== undefined) {
      this.#idleBytes -= idle.length;
      return idle;
    }
    // What is left over on both sides of the huge page is not touched, and in fresh memory takes none.
    const memory = Buffer.allocUnsafeSlow(2 * HUGE_PAGE_BYTES);
    const start = native.prefer_huge_page(memory, 0, memory.length);
    return memory.subarray(start, start + HUGE_PAGE_BYTES);
  }

  /** Lets the largest go first. */
  #trim(): void {
    for (const idle of [...this.#idle.toReversed(), this.#idlePages]) {
      while (this.#idleBytes > this.#idleBytesKept && idle !== undefined && idle.length > 0) {
        this.#idleBytes -= idle.pop()?.length ?? 0;
      }
    }
  }
}

function classOf(length: number): number {
  const sizeClass = Math.max(SMALLEST_CLASS, Math.ceil(Math.log2(Math.max(length - HEADER_ROOM_BYTES, 1))));
  if (sizeClass > LARGEST_CLASS) {
    throw new RangeError(`Bug: a buffer of ${length} bytes was asked for`);
  }
  return sizeClass;
}
