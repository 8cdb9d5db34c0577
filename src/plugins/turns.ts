/**
 * Shares the turns of an event loop among tasks that are long and come in steps. Before each step a task asks for its
 * turn; once the steps of this turn of the loop have taken their time, further ones wait, first come, first served,
 * until the loop has served what else there is. So no turn takes longer than that time and one step.
 */
import { EXTENTS_TURN_MS_MAX } from '../limits.ts';

export class Turns {
  readonly #turnMs: number;
  readonly #now: () => number;
  readonly #waiting: (() => void)[] = [];
  /** When the steps of this turn of the loop began; undefined before the first one. */
  #begin: number | undefined;

  constructor(turnMs: number, now: () => number = () => performance.now()) {
    this.#turnMs = turnMs;
    this.#now = now;
  }

  /**
   * Undefined: the next step may be taken now. A promise: when it resolves. The step must follow at once: `await` of
   * undefined would let all that are ready ask before the first of them takes its time.
   */
  take(): Promise<void> | undefined {
    if (this.#begin === undefined) {
      this.#beginTurn();
      return undefined;
    }
    if (this.#waiting.length === 0 && this.#hasTime(this.#begin)) {
      return undefined;
    }
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
    });
  }

  #hasTime(begin: number): boolean {
    return this.#now() - begin < this.#turnMs;
  }

  #beginTurn(): void {
    const begin = this.#now();
    this.#begin = begin;
    setImmediate(() => {
      this.#begin = undefined;
      if (this.#waiting.length > 0) {
        this.#beginTurn();
        this.#release();
      }
    });
  }

  /** One after the other: what each of them takes is known only when its step is done. */
  #release(): void {
    this.#waiting.shift()?.();
    queueMicrotask(() => {
      if (this.#waiting.length > 0 && this.#begin !== undefined && this.#hasTime(this.#begin)) {
        this.#release();
      }
    });
  }
}

/** Those of this thread for BLOCK_STATUS: finding extents, and encoding answers that have many of them. */
export const extentTurns = new Turns(EXTENTS_TURN_MS_MAX);
