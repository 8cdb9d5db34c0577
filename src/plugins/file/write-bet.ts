/**
 * Whether a handle writes on the event loop. A buffered write on ext4 can wait for the disk (throttled write-back, a page
 * under write-back) or for another writer of the file, and has no way to say so beforehand. So it is a bet: after a lost one
 * the pool takes the writes for a while, longer each time unless many were won in between. A lost one among many was a
 * processor that somebody else had: with two threads that write to one file, a pause of 0.1 s after each left a third of the
 * writes to the pool, and cost 64 KiB mixed over four connections 0.05 to 0.15 of their speed (2 cores, 2026-11).
 */

/** A write that took longer is a lost bet. */
const SLOW_WRITE_MS = 1;

export const WRITE_PAUSE_MS_MIN = 5;
export const WRITE_PAUSE_MS_MAX = 100;

/** Bets won in a row after which the next lost one is the first again; a throttled writer wins eight to thirty. */
const WINS_TO_FORGET = 64;

export class WriteBet {
  #pauseMs = WRITE_PAUSE_MS_MIN;
  /** performance.now(), as all times here. */
  #pausedUntil = 0;
  #winCount = 0;

  isPaused(now: number): boolean {
    return now < this.#pausedUntil;
  }

  /** A write on the event loop has ended `now`, after so many milliseconds. */
  observe(milliseconds: number, now: number): void {
    if (milliseconds > SLOW_WRITE_MS) {
      this.lost(now);
    } else {
      this.won();
    }
  }

  won(): void {
    this.#winCount += 1;
  }

  lost(now: number): void {
    if (this.#winCount >= WINS_TO_FORGET) {
      this.#pauseMs = WRITE_PAUSE_MS_MIN;
    }
    this.#winCount = 0;
    this.#pausedUntil = now + this.#pauseMs;
    this.#pauseMs = Math.min(2 * this.#pauseMs, WRITE_PAUSE_MS_MAX);
  }
}
