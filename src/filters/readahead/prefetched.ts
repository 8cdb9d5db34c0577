/**
 * What has been read ahead of the clients of one export: segments of equal size on a grid over the export.
 *
 * Coherence: a segment holds what the export held some time after its read began. It is dropped when a write, trim
 * or zero that overlaps with it is done, on any handle, before that is acknowledged; the same for one that is still
 * being filled. So a READ that arrives after an acknowledgement finds nothing that is older. While a write is under
 * way a READ of the same bytes has no order with it.
 */

export interface Segment {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly state: 'filling' | 'filled' | 'failed';
  /** Resolves when it is filled or has failed; never rejects. */
  readonly settled: Promise<void>;
}

/** Fills all of `bytes` from `offset` on. */
export type Fill = (bytes: Uint8Array, offset: number) => void | Promise<void>;

export class Prefetched {
  readonly #segmentBytes: number;
  readonly #segmentCountMax: number;
  readonly #size: number;
  /** By their place on the grid, in the order of their last use. */
  readonly #segments = new Map<number, Segment>();
  /** Dropped while they were being filled: their memory is in use until that is done. */
  #strayCount = 0;

  /** `size`: bytes of the export. */
  constructor(segmentBytes: number, segmentCountMax: number, size: number) {
    this.#segmentBytes = segmentBytes;
    this.#segmentCountMax = segmentCountMax;
    this.#size = size;
  }

  /** Segments that take up memory now. */
  get count(): number {
    return this.#segments.size + this.#strayCount;
  }

  /** The segments that hold the range, or will, in order; undefined when one is missing. */
  find(offset: number, length: number): readonly Segment[] | undefined {
    const found: Segment[] = [];
    const last = this.#indexOf(offset + length - 1);
    for (let index = this.#indexOf(offset); index <= last; index += 1) {
      const segment = this.#segments.get(index);
      if (segment === undefined) {
        return undefined;
      }
      this.#segments.delete(index);
      this.#segments.set(index, segment);
      found.push(segment);
    }
    return found;
  }

  /** Begins to fill the segments from the one with the byte `offset` on that are missing, where there is room. */
  prefetch(offset: number, count: number, fill: Fill): void {
    const first = this.#indexOf(offset);
    for (let index = first; index < first + count && index * this.#segmentBytes < this.#size; index += 1) {
      if (!this.#segments.has(index) && this.#makeRoom()) {
        this.#segments.set(index, this.#fill(index, fill));
      }
    }
  }

  /** The range may have other contents now. */
  invalidate(offset: number, length: number): void {
    const [first, last] = [this.#indexOf(offset), this.#indexOf(offset + length - 1)];
    // A TRIM of terabytes has more places on the grid than there are segments.
    const places = last - first < this.#segments.size ? range(first, last) : [...this.#segments.keys()];
    for (const index of places) {
      if (index >= first && index <= last) {
        this.#drop(index);
      }
    }
  }

  #indexOf(offset: number): number {
    return Math.floor(offset / this.#segmentBytes);
  }

  #fill(index: number, fill: Fill): Segment {
    const offset = index * this.#segmentBytes;
    const bytes = new Uint8Array(Math.min(this.#segmentBytes, this.#size - offset));
    const end = (state: 'filled' | 'failed'): void => {
      segment.state = state;
      if (this.#segments.get(index) !== segment) {
        this.#strayCount -= 1;
      } else if (state === 'failed') {
        // The read that needs the bytes meets the error itself.
        this.#drop(index);
      }
    };
    const segment: Segment & { state: Segment['state'] } = {
      offset,
      bytes,
      state: 'filling',
      settled: (async () => fill(bytes, offset))().then(
        () => end('filled'),
        () => end('failed'),
      ),
    };
    return segment;
  }

  #drop(index: number): void {
    if (this.#segments.get(index)?.state === 'filling') {
      this.#strayCount += 1;
    }
    this.#segments.delete(index);
  }

  /** Lets go of the segment that was used longest ago; false when that one is still being filled. */
  #makeRoom(): boolean {
    if (this.count < this.#segmentCountMax) {
      return true;
    }
    const [oldest] = this.#segments;
    if (oldest === undefined || oldest[1].state === 'filling') {
      return false;
    }
    this.#drop(oldest[0]);
    return true;
  }
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
