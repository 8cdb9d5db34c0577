/**
 * One client's requests. Reads that the inner handle answers without waiting (`readNow`) need nothing read ahead:
 * only a sequential read that would have to wait begins it, and one that finds its bytes here goes on with it.
 */
import type { Handle, ZeroOptions } from '../../plugins/plugin.ts';
import { PassThroughHandle } from '../pass-through.ts';
import type { Prefetched, Segment } from './prefetched.ts';

/** The segment that the client is in, and the one behind it. */
const AHEAD_COUNT = 2;

export class ReadAheadHandle extends PassThroughHandle {
  readonly #prefetched: Prefetched;
  /** Fills of this handle that are under way. */
  readonly #filling = new Set<Promise<void>>();
  /** Where a read goes on in sequence. */
  #next = -1;

  constructor(inner: Handle, prefetched: Prefetched) {
    super(inner);
    this.#prefetched = prefetched;
  }

  override readNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    const found = this.#prefetched.find(offset, length);
    if (found?.every(({ state }) => state === 'filled') === true) {
      copy(found, buffer, start, length, offset);
      this.#readAhead(offset, length);
      return true;
    }
    if (found !== undefined || !super.readNow(buffer, start, length, offset)) {
      return false;
    }
    this.#next = offset + length;
    return true;
  }

  override async read(buffer: Uint8Array, start: number, length: number, offset: number): Promise<void> {
    const found = this.#prefetched.find(offset, length);
    if (found !== undefined || offset === this.#next) {
      this.#readAhead(offset, length);
    }
    this.#next = offset + length;
    if (found !== undefined) {
      await Promise.all(found.map(({ settled }) => settled));
      if (found.every(({ state }) => state === 'filled')) {
        return copy(found, buffer, start, length, offset);
      }
    }
    await super.read(buffer, start, length, offset);
  }

  override writeNow(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
  ): boolean | Promise<void> {
    try {
      const done = super.writeNow(buffer, start, length, offset);
      return typeof done === 'boolean' ? done : this.#changing(offset, length, () => done);
    } finally {
      this.#prefetched.invalidate(offset, length);
    }
  }

  override write(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    isFua: boolean,
  ): Promise<void> {
    return this.#changing(offset, length, () => super.write(buffer, start, length, offset, isFua));
  }

  override trim(offset: number, length: number, isFua: boolean): Promise<void> {
    return this.#changing(offset, length, () => super.trim(offset, length, isFua));
  }

  override zero(offset: number, length: number, options: ZeroOptions, isFua: boolean): Promise<void> {
    return this.#changing(offset, length, () => super.zero(offset, length, options, isFua));
  }

  override async close(): Promise<void> {
    await Promise.all(this.#filling);
    await super.close();
  }

  #readAhead(offset: number, length: number): void {
    this.#next = offset + length;
    this.#prefetched.prefetch(this.#next, AHEAD_COUNT, (bytes, begin) => {
      const filling = (async () => super.read(bytes, 0, bytes.length, begin))();
      const ended = filling.catch(() => {}).finally(() => this.#filling.delete(ended));
      this.#filling.add(ended);
      return filling;
    });
  }

  /** Also a change that failed may have changed something. */
  async #changing(offset: number, length: number, change: () => void | Promise<void>): Promise<void> {
    try {
      await change();
    } finally {
      this.#prefetched.invalidate(offset, length);
    }
  }
}

function copy(
  segments: readonly Segment[],
  buffer: Uint8Array,
  start: number,
  length: number,
  offset: number,
): void {
  for (const segment of segments) {
    const begin = Math.max(offset, segment.offset);
    const end = Math.min(offset + length, segment.offset + segment.bytes.length);
    const piece = segment.bytes.subarray(begin - segment.offset, end - segment.offset);
    buffer.set(piece, start + begin - offset);
  }
}
