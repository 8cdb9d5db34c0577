/**
 * Notices that somebody truncated the file. Reads see it by themselves: they come back short. A write past
 * the new end would make the file long again, with zeros in the place of what is gone; zeroing past it would
 * do nothing and succeed; lseek would call it a hole. All of these are EIO instead.
 */
import { native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import { EIO, ENODATA } from '../../native/errno.ts';
import { BackendError } from '../backend-error.ts';

/**
 * Milliseconds between two looks at the size for writes on the event loop. A look costs 0.3 us or more, a
 * 4 KiB write 3.5 us: one for each of 200,000 writes a second would be felt, ten thousand a second are not.
 */
const LOOK_INTERVAL_MS = 0.1;

export class FileBounds {
  /** False for block devices, where the kernel refuses what lies past the end. */
  readonly canShrink: boolean;
  readonly #fd: number;
  readonly #size: number;
  #lookedAt = 0;

  constructor(fd: number, size: number, canShrink: boolean) {
    this.#fd = fd;
    this.#size = size;
    this.canShrink = canShrink;
  }

  /** Bytes of the export that are in the file now. */
  present(): number {
    if (!this.canShrink) {
      return this.#size;
    }
    const size = native.file_size(this.#fd);
    // A failing look is no reason to refuse what may well work.
    return size < 0 ? this.#size : Math.min(size, this.#size);
  }

  /** Throws EIO when a part of the range is gone. */
  assertPresent(operation: string, offset: number, length: number): void {
    if (this.canShrink && offset + length > this.present()) {
      throw truncated(operation, offset, length);
    }
  }

  /** Writes in the pool, where it may wait for its turn: `length`, or -errno to be shown to `assertNotTruncated`. */
  write(buffer: Uint8Array, start: number, length: number, offset: number): Promise<number> {
    return call((done) => {
      if (this.canShrink) {
        native.pwrite_inside_async(this.#fd, buffer, start, length, offset, done);
      } else {
        native.pwrite_async(this.#fd, buffer, start, length, offset, 0, done);
      }
    });
  }

  /** Throws EIO when `write` has found that a part of the range is gone. */
  assertNotTruncated(result: number, offset: number, length: number): void {
    if (result === -ENODATA) {
      throw truncated('pwrite', offset, length);
    }
  }

  /** As assertPresent, for a caller in a hurry who knows what time it is (performance.now()). */
  assertPresentNow(operation: string, offset: number, length: number, now: number): void {
    if (now - this.#lookedAt >= LOOK_INTERVAL_MS) {
      this.#lookedAt = now;
      this.assertPresent(operation, offset, length);
    }
  }
}

/** The error of an operation on a range whose end is gone. */
export function truncated(operation: string, offset: number, length: number): BackendError {
  const what = `${operation} of ${length} bytes at ${offset} is past the end of the file, which was truncated`;
  return new BackendError(EIO, operation, offset, length, what);
}
