/**
 * Whether a handle writes on the event loop. A buffered write on ext4 can wait for the disk (throttled write-back, a page
 * under write-back) or for another writer of the file, and has no way to say so beforehand. So it is a bet: after a lost one
 * the pool takes the writes for ten times as long as it took, up to 0.1 s. A pause of 0.1 s after each was more than a
 * preempted writer of the same file is worth: with two threads a third of the writes went to the pool.
 */

/** Milliseconds above which a bet is lost. */
const SLOW_WRITE_MS = 1;

const PAUSES_FOR_EACH_WAIT = 10;

/** Milliseconds. */
export const WRITE_PAUSE_MS_MAX = 100;
const WRITE_PAUSE_MS_MIN = 5;

export class WriteBet {
  /** performance.now(), as all times here. */
  #pausedUntil = 0;

  isPaused(now: number): boolean {
    return now < this.#pausedUntil;
  }

  /** A write on the event loop has ended `now`, after so many milliseconds. */
  observe(milliseconds: number, now: number): void {
    if (milliseconds > SLOW_WRITE_MS) {
      this.lost(milliseconds, now);
    }
  }

  /** It had to wait for so long. */
  lost(milliseconds: number, now: number): void {
    const pause = Math.max(PAUSES_FOR_EACH_WAIT * milliseconds, WRITE_PAUSE_MS_MIN);
    this.#pausedUntil = now + Math.min(pause, WRITE_PAUSE_MS_MAX);
  }
}
