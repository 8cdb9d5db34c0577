/** The statuses of the last minutes: what the charts draw. */
import type { Status } from '../../status.ts';
import { type Activity, activityBetween } from '../view.ts';

const POINT_COUNT_MAX = 180;

/** Statuses between the two that the tiles compare: numbers that change every second are hard to read. */
const SMOOTHING_COUNT = 4;

export class History {
  readonly #statuses: Status[] = [];

  /** False when the status is known already, because the server asked itself less than a second ago. */
  add(status: Status): boolean {
    const last = this.#statuses.at(-1);
    if (last !== undefined && status.uptimeSeconds < last.uptimeSeconds) {
      // The server was restarted: nothing goes on.
      this.#statuses.length = 0;
    } else if (last?.time === status.time) {
      return false;
    }
    this.#statuses.push(status);
    if (this.#statuses.length > POINT_COUNT_MAX) {
      this.#statuses.shift();
    }
    return true;
  }

  /** What the latest status is to be compared with. */
  get before(): Status | undefined {
    return this.#statuses[Math.max(0, this.#statuses.length - 1 - SMOOTHING_COUNT)];
  }

  /** What happened between each two statuses, and when, in seconds since 1970. */
  activities(): { readonly time: number; readonly activity: Activity }[] {
    return this.#statuses.slice(1).map((status, index) => ({
      time: status.time / 1000,
      activity: activityBetween(status, this.#statuses[index]),
    }));
  }
}
