/**
 * One connection's view: blocks that are in the overlay are read and written there, in place; the others are read
 * from the base. A change of a block that is not in the overlay brings it there as a whole, under a lock, and the
 * map says so when that is done. Since blocks never leave again, what finds all of its blocks there needs no lock.
 *
 * TRIM is for the overlay alone: it frees what is there, and leaves the base's bytes where the base is read.
 */
import { EXTENT_COUNT_MAX, EXTENT_SEARCH_MS_MAX } from '../../limits.ts';
import type { Extent, Handle, ZeroOptions } from '../../plugins/plugin.ts';
import { extentTurns } from '../../plugins/turns.ts';
import type { StatusExtent } from '../../protocol/reply.ts';
import { allSettled, everyStep } from '../settle.ts';
import { BLOCK_BYTES } from './layout.ts';
import type { Overlay } from './overlay.ts';

/**
 * QEMU's meta context of how deep a range lies (its docs/interop/nbd.rst): 0 nowhere, 1 in the overlay, 2 and more
 * below it.
 */
export const DEPTH_CONTEXT = 'qemu:allocation-depth';

const DEPTH_NOWHERE = 0;
const DEPTH_OVERLAY = 1;
const DEPTH_BASE = 2;

/** Bytes of the export that are all in the overlay, or all in the base. */
interface Run {
  readonly offset: number;
  readonly length: number;
  readonly isHere: boolean;
}

/** Puts what is new of a block into `bytes`, the first of which is at `blockOffset` in the export. */
type Patch = (bytes: Uint8Array, blockOffset: number) => void;

export class CowHandle implements Handle {
  readonly #base: Handle;
  readonly #blocks: Handle;
  readonly #overlay: Overlay;
  readonly #dataOffset: number;
  readonly #size: number;

  /** `blocks`: a handle of the overlay's. Both handles are this one's from now on. */
  constructor(base: Handle, blocks: Handle, overlay: Overlay) {
    this.#base = base;
    this.#blocks = blocks;
    this.#overlay = overlay;
    this.#dataOffset = overlay.geometry.dataOffset;
    this.#size = overlay.geometry.size;
  }

  readNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    for (const run of this.#runs(offset, length)) {
      const position = start + run.offset - offset;
      const isRead = run.isHere
        ? this.#blocks.readNow?.(buffer, position, run.length, this.#dataOffset + run.offset)
        : this.#base.readNow?.(buffer, position, run.length, run.offset);
      if (isRead !== true) {
        return false;
      }
    }
    return true;
  }

  async read(buffer: Uint8Array, start: number, length: number, offset: number): Promise<void> {
    const reads = [...this.#runs(offset, length)].map(async (run) => {
      const position = start + run.offset - offset;
      await (run.isHere
        ? this.#blocks.read(buffer, position, run.length, this.#dataOffset + run.offset)
        : this.#base.read(buffer, position, run.length, run.offset));
    });
    await allSettled(reads);
  }

  writeNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean | Promise<void> {
    return (
      this.#isAllHere(offset, length) &&
      (this.#blocks.writeNow?.(buffer, start, length, this.#dataOffset + offset) ?? false)
    );
  }

  async write(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    isFua: boolean,
  ): Promise<void> {
    const patch: Patch = (bytes, blockOffset) => {
      const begin = Math.max(offset, blockOffset);
      const end = Math.min(offset + length, blockOffset + bytes.length);
      const position = start + begin - offset;
      bytes.set(buffer.subarray(position, position + end - begin), begin - blockOffset);
    };
    await this.#change(offset, length, patch, (begin, count) =>
      this.#blocks.write(buffer, start + begin - offset, count, this.#dataOffset + begin, false),
    );
    await this.#makeDurable(isFua);
  }

  flush(): Promise<void> {
    return this.#overlay.flush();
  }

  async trim(offset: number, length: number, isFua: boolean): Promise<void> {
    // Also where blocks are missing: nothing there counts, and one call does it whatever the range.
    await this.#blocks.trim(this.#dataOffset + offset, length, false);
    await this.#makeDurable(isFua);
  }

  async zero(offset: number, length: number, options: ZeroOptions, isFua: boolean): Promise<void> {
    const patch: Patch = (bytes, blockOffset) => {
      bytes.fill(0, Math.max(offset - blockOffset, 0), Math.max(offset + length - blockOffset, 0));
    };
    await this.#change(offset, length, patch, (begin, count) =>
      this.#blocks.zero(this.#dataOffset + begin, count, options, false),
    );
    await this.#makeDurable(isFua);
  }

  async cache(offset: number, length: number): Promise<void> {
    for (const run of this.#runs(offset, length)) {
      await (run.isHere
        ? this.#blocks.cache(this.#dataOffset + run.offset, run.length)
        : this.#base.cache(run.offset, run.length));
    }
  }

  extents(offset: number, length: number, isRequestOne: boolean): Promise<readonly Extent[]> {
    return this.#extentsOf(offset, length, isRequestOne, (run) =>
      run.isHere
        ? this.#blocks.extents(this.#dataOffset + run.offset, run.length, isRequestOne)
        : this.#base.extents(run.offset, run.length, isRequestOne),
    );
  }

  async contextExtents(
    context: string,
    offset: number,
    length: number,
    isRequestOne: boolean,
  ): Promise<readonly StatusExtent[]> {
    if (context !== DEPTH_CONTEXT) {
      throw new Error(`Bug: no meta context ${context}`);
    }
    return this.#extentsOf(offset, length, isRequestOne, async (run) => {
      if (run.isHere) {
        return [{ length: run.length, status: DEPTH_OVERLAY }];
      }
      const extents = await this.#base.extents(run.offset, run.length, isRequestOne);
      return extents.map((extent) => ({
        length: extent.length,
        status: extent.isHole ? DEPTH_NOWHERE : DEPTH_BASE,
      }));
    });
  }

  close(): Promise<void> {
    return everyStep(
      () => this.#blocks.close(),
      () => this.#base.close(),
    );
  }

  /**
   * Changes a range: `inPlace` does it for parts that are in the overlay or cover whole blocks, `patch` for the
   * rest, blocks at the edges.
   */
  async #change(
    offset: number,
    length: number,
    patch: Patch,
    inPlace: (offset: number, length: number) => void | Promise<void>,
  ): Promise<void> {
    if (length === 0) {
      return;
    }
    if (this.#isAllHere(offset, length)) {
      return inPlace(offset, length);
    }
    const { map, locks } = this.#overlay;
    const end = offset + length;
    const [first, last] = [blockOf(offset), blockOf(end - 1)];
    const release = await locks.acquire(first, last + 1);
    try {
      const isCopied = (block: number): boolean =>
        !map.has(block) && (this.#blockBegin(block) < offset || this.#blockEnd(block) > end);
      const edges = [...new Set([first, last])].filter(isCopied);
      const begin = edges.includes(first) ? this.#blockEnd(first) : offset;
      const rest = (edges.includes(last) ? this.#blockBegin(last) : end) - begin;
      const changes = edges.map((block) => this.#copyUp(block, patch));
      await allSettled(rest > 0 ? [...changes, (async () => inPlace(begin, rest))()] : changes);
      map.add(first, last + 1);
    } finally {
      release();
    }
  }

  /** Writes a block of the base, patched, into the overlay. */
  async #copyUp(block: number, patch: Patch): Promise<void> {
    const begin = this.#blockBegin(block);
    const bytes = new Uint8Array(this.#blockEnd(block) - begin);
    await this.#base.read(bytes, 0, bytes.length, begin);
    patch(bytes, begin);
    await this.#blocks.write(bytes, 0, bytes.length, this.#dataOffset + begin, false);
  }

  async #makeDurable(isFua: boolean): Promise<void> {
    if (isFua) {
      await this.#overlay.flush();
    }
  }

  async #extentsOf<T extends { readonly length: number }>(
    offset: number,
    length: number,
    isRequestOne: boolean,
    find: (run: Run) => readonly T[] | Promise<readonly T[]>,
  ): Promise<T[]> {
    const found: T[] = [];
    const deadline = performance.now() + EXTENT_SEARCH_MS_MAX;
    let position = offset;
    while (position < offset + length) {
      const run = this.#runAt(position, offset + length);
      // What is found in memory needs no wait, and nobody else would have a turn.
      const turn = extentTurns.take();
      if (turn !== undefined) {
        await turn;
      }
      for (const extent of await find(run)) {
        const rest = run.offset + run.length - position;
        if (rest > 0) {
          found.push({ ...extent, length: Math.min(extent.length, rest) });
          position += Math.min(extent.length, rest);
        }
      }
      if (isRequestOne || found.length >= EXTENT_COUNT_MAX || performance.now() > deadline) {
        break;
      }
    }
    return found;
  }

  *#runs(offset: number, length: number): Generator<Run, void> {
    for (let position = offset; position < offset + length; ) {
      const run = this.#runAt(position, offset + length);
      yield run;
      position += run.length;
    }
  }

  #runAt(offset: number, end: number): Run {
    const { map } = this.#overlay;
    const block = blockOf(offset);
    const runEnd = Math.min(end, map.runEnd(block, blockOf(end - 1) + 1) * BLOCK_BYTES);
    return { offset, length: runEnd - offset, isHere: map.has(block) };
  }

  #isAllHere(offset: number, length: number): boolean {
    return this.#overlay.map.hasAll(blockOf(offset), blockOf(offset + length - 1) + 1);
  }

  #blockBegin(block: number): number {
    return block * BLOCK_BYTES;
  }

  /** The last block may be shorter. */
  #blockEnd(block: number): number {
    return Math.min((block + 1) * BLOCK_BYTES, this.#size);
  }
}

function blockOf(offset: number): number {
  return Math.floor(offset / BLOCK_BYTES);
}
