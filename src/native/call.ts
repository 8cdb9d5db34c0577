/** Promises for the addon's operations. */
import type { Done, RangeDone } from './binding.ts';

/** The result of an operation of the thread pool: zero or more, or -errno; never rejects. */
export function call(start: (done: Done) => void): Promise<number> {
  return new Promise((resolve) => {
    start(resolve);
  });
}

/** As `call`, for operations of a queue, which answer 0, or -errno when they could not begin and `done` is not called. */
export function callQueued(start: (done: Done) => number): Promise<number> {
  return new Promise((resolve) => {
    const begun = start(resolve);
    if (begun < 0) {
      resolve(begun);
    }
  });
}

/** A range in bytes that an operation failed for. */
export interface RangeResult {
  /** 0, or -errno. */
  readonly result: number;
  readonly offset: number;
  readonly length: number;
}

/** As `call`, for operations that name the range that failed. */
export function callRange(start: (done: RangeDone) => void): Promise<RangeResult> {
  return new Promise((resolve) => {
    start((result, offset, length) => {
      resolve({ result, offset, length });
    });
  });
}
