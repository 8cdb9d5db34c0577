/** Calls of an author's methods: whatever is thrown, now or later, comes out as a BackendError. */
import { setTimeout as delay } from 'node:timers/promises';
import { toBackendError } from './export-error.ts';

/**
 * Makes a call and hands its answer to `use`: at once when it is a plain value, later when it is a promise. What
 * `use` throws counts as thrown by the call.
 */
export function attempt<T, R>(
  operation: string,
  offset: number,
  length: number,
  call: () => T | PromiseLike<T>,
  use: (answer: T) => R,
): R | Promise<R> {
  try {
    const answer = call();
    return isPromiseLike(answer) ? later(answer) : use(answer);
  } catch (error) {
    throw toBackendError(error, operation, offset, length);
  }

  async function later(answer: PromiseLike<T>): Promise<R> {
    try {
      return use(await answer);
    } catch (error) {
      throw toBackendError(error, operation, offset, length);
    }
  }
}

/** Not instanceof Promise: authors return the promises of their libraries. */
function isPromiseLike<T>(answer: T | PromiseLike<T>): answer is PromiseLike<T> {
  return typeof (answer as Partial<PromiseLike<T>> | null | undefined)?.then === 'function';
}

/** What `inTime` resolves with when the time is over. */
export const LATE: unique symbol = Symbol('late');

/** Waits for an author's promise, but not for ever. */
export async function inTime<T>(work: Promise<T>, seconds: number): Promise<T | typeof LATE> {
  const abort = new AbortController();
  const over = delay(seconds * 1000, undefined, { signal: abort.signal }).catch(() => {});
  try {
    return await Promise.race([work, over.then((): typeof LATE => LATE)]);
  } finally {
    abort.abort();
  }
}
