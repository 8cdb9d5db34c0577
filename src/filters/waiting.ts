/** Time that requests spend waiting, without keeping the server from its end. */
import { setMaxListeners } from 'node:events';

/** Longer timers end at once (Node's TIMEOUT_MAX, 24 days). */
const TIMER_MS_MAX = 2 ** 31 - 1;

export class Waiting {
  readonly #stopping: AbortSignal;

  /** When `stopping` is aborted every wait ends, and no other begins. */
  constructor(stopping: AbortSignal) {
    this.#stopping = stopping;
    // One for each request in flight.
    setMaxListeners(0, stopping);
  }

  /** Waits, in milliseconds. */
  async wait(milliseconds: number): Promise<void> {
    if (milliseconds <= 0 || this.#stopping.aborted) {
      return;
    }
    await new Promise<void>((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        this.#stopping.removeEventListener('abort', end);
        resolve();
      };
      const timer = setTimeout(end, Math.min(milliseconds, TIMER_MS_MAX));
      this.#stopping.addEventListener('abort', end);
    });
  }
}
