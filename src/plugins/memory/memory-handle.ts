/**
 * One connection's open of the disk. Nearly everything is done at once; what is long goes on in later turns of
 * the event loop, as does what meets another thread in the middle of a change.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { EXTENT_COUNT_MAX } from '../../limits.ts';
import type { Extent, Handle, LentMemory, ZeroOptions } from '../plugin.ts';
import type { SparseArray } from './sparse-array.ts';

/** Longest copy in one turn of the event loop, some 0.5 ms. */
const TURN_BYTES_MAX = 4 * 1024 * 1024;

/** What a client that announces a WRITE can have set aside before it sends any of it. */
const LENT_BYTES_MAX = 1024 * 1024;

/** Longest zeroing or search in one turn of the event loop. */
const TURN_MS_MAX = 1;

export class MemoryHandle implements Handle {
  readonly #array: SparseArray;

  constructor(array: SparseArray) {
    this.#array = array;
  }

  readNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    return length <= TURN_BYTES_MAX && this.#array.read(buffer, start, length, offset) === length;
  }

  read(buffer: Uint8Array, start: number, length: number, offset: number): void | Promise<void> {
    return inTurns(length, (done) =>
      this.#array.read(buffer, start + done, Math.min(TURN_BYTES_MAX, length - done), offset + done),
    );
  }

  lend(offset: number, length: number, purpose: 'read' | 'write'): LentMemory | undefined {
    return this.#array.lend(offset, purpose === 'read' ? length : Math.min(length, LENT_BYTES_MAX), purpose);
  }

  writeNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    return length <= TURN_BYTES_MAX && this.#array.write(buffer, start, length, offset) === length;
  }

  write(buffer: Uint8Array, start: number, length: number, offset: number): void | Promise<void> {
    return inTurns(length, (done) =>
      this.#array.write(buffer, start + done, Math.min(TURN_BYTES_MAX, length - done), offset + done),
    );
  }

  /** What is written is where it stays: memory that goes with the process. FUA is true for the same reason. */
  flush(): void {}

  trim(offset: number, length: number): void | Promise<void> {
    return this.#zero(offset, length, true);
  }

  /** Always fast: no data has to come over the socket. */
  zero(offset: number, length: number, { mayPunch }: ZeroOptions): void | Promise<void> {
    return this.#zero(offset, length, mayPunch);
  }

  /** All of it is in memory. */
  cache(): void {}

  extents(offset: number, length: number, isRequestOne: boolean): readonly Extent[] {
    const countMax = isRequestOne ? 1 : EXTENT_COUNT_MAX;
    return this.#array.extents(offset, length, countMax, performance.now() + TURN_MS_MAX);
  }

  close(): void {}

  #zero(offset: number, length: number, mayPunch: boolean): void | Promise<void> {
    return inTurns(length, (done) =>
      this.#array.zero(offset + done, length - done, mayPunch, performance.now() + TURN_MS_MAX),
    );
  }
}

/** Repeats a step, which is told the bytes done and returns how many more it did, until `length` are done. */
function inTurns(length: number, step: (done: number) => number): void | Promise<void> {
  const done = step(0);
  return done === length ? undefined : inLaterTurns(length, done, step);
}

async function inLaterTurns(length: number, first: number, step: (done: number) => number): Promise<void> {
  for (let done = first; done < length; done += step(done)) {
    await nextTurn();
  }
}
