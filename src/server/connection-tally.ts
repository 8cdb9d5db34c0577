/** What one connection has done, for the line in the log at its end; it counts for its thread as well. */
import type { LogFields } from '../log.ts';
import { NBD_CMD_READ, NBD_CMD_WRITE, type NbdErrno } from '../protocol/constants.ts';
import type { Counters } from './counters.ts';

const REQUESTS = 0;
const READ_BYTES = 1;
const WRITTEN_BYTES = 2;
const ERRORS = 3;
const TOTAL_COUNT = 4;

export class ConnectionTally {
  readonly #counters: Counters;
  readonly #openedAt = performance.now();
  /** Doubles in place: as fields they would be boxed again and again once they pass 2^30. */
  readonly #totals = new Float64Array(TOTAL_COUNT);

  constructor(counters: Counters) {
    this.#counters = counters;
    counters.connectionOpened();
  }

  /** As Counters.startTime. */
  startTime(command: number): number {
    return this.#counters.startTime(command);
  }

  /** A request about `bytes` bytes has been answered. */
  answered(command: number, bytes: number, startTime: number): void {
    this.#counters.answered(command, bytes, startTime);
    this.#add(REQUESTS, 1);
    if (command === NBD_CMD_READ) {
      this.#add(READ_BYTES, bytes);
    } else if (command === NBD_CMD_WRITE) {
      this.#add(WRITTEN_BYTES, bytes);
    }
  }

  /** A request has been answered with an error. */
  failed(command: number, errno: Exclude<NbdErrno, 0>, startTime: number): void {
    this.#counters.failed(command, errno, startTime);
    this.#add(REQUESTS, 1);
    this.#add(ERRORS, 1);
  }

  /** To be called once, at the end. */
  closed(): LogFields {
    this.#counters.connectionClosed();
    return {
      requests: this.#totals[REQUESTS],
      readBytes: this.#totals[READ_BYTES],
      writtenBytes: this.#totals[WRITTEN_BYTES],
      errors: this.#totals[ERRORS],
      seconds: Math.round(performance.now() - this.#openedAt) / 1000,
    };
  }

  #add(index: number, amount: number): void {
    this.#totals[index] = (this.#totals[index] ?? 0) + amount;
  }
}
