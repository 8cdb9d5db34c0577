/**
 * A token bucket that is kept as one moment: when the bytes taken so far will have been earned at the rate. It may
 * lie ahead of now by what the bucket holds. Requests of any length are served, one after the other: a long one
 * waits for its own bytes, and those behind it wait for it.
 */
export class TokenBucket {
  readonly #bytesPerSecond: number;
  readonly #burstMs: number;
  #earnedAt = Number.NEGATIVE_INFINITY;

  /** `burstBytes`: what goes through at once after a pause. */
  constructor(bytesPerSecond: number, burstBytes: number) {
    this.#bytesPerSecond = bytesPerSecond;
    this.#burstMs = (burstBytes / bytesPerSecond) * 1000;
  }

  /** Takes bytes at the time `now`, and returns the milliseconds to wait until they may go on. */
  take(bytes: number, now: number): number {
    this.#earnedAt = Math.max(this.#earnedAt, now) + (bytes / this.#bytesPerSecond) * 1000;
    return Math.max(0, this.#earnedAt - this.#burstMs - now);
  }
}
