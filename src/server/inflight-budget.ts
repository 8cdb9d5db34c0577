/**
 * Bytes and requests in flight, per connection and for the process: from the moment a request is taken on
 * until the socket has taken its reply. Above the limits a connection stops reading, so that memory is
 * bounded by what the kernel's socket buffers hold back.
 */
import {
  CONNECTION_INFLIGHT_BYTES_ASSURED,
  CONNECTION_INFLIGHT_BYTES_MAX,
  CONNECTION_INFLIGHT_REQUESTS_MAX,
  PAYLOAD_BYTES_MAX,
  PROCESS_INFLIGHT_BYTES_MAX,
} from '../limits.ts';
import { StalledPayloads } from './stalled-payloads.ts';

/**
 * Shared by all connections of a process, or of one thread where several serve. The threads divide the bytes and
 * share nothing: a common sum would need a way to wake connections of other threads, and a client that stalls
 * holds up its own thread only.
 */
export class ProcessBudget {
  readonly #bytesMax: number;
  /** WRITEs that hold bytes for a payload that is still to come. */
  readonly payloads = new StalledPayloads(() => this.#waiting.size > 0);
  #bytes = 0;
  #isWaking = false;
  #isWakingDue = false;
  readonly #waiting = new Set<() => void>();

  constructor(threadCount = 1) {
    // One request of the largest size always fits.
    this.#bytesMax = Math.max(PROCESS_INFLIGHT_BYTES_MAX / threadCount, PAYLOAD_BYTES_MAX);
  }

  get bytes(): number {
    return this.#bytes;
  }

  hasRoom(bytes: number): boolean {
    return this.#bytes + bytes <= this.#bytesMax;
  }

  take(bytes: number): void {
    this.#bytes += bytes;
  }

  /** Gives bytes back and wakes those who wait, the longest waiting first. */
  give(bytes: number): void {
    this.#bytes -= bytes;
    if (bytes === 0 || this.#waiting.size === 0) {
      return;
    }
    // Whoever is woken may give bytes back before it returns: then the round is repeated, not nested, lest the
    // stack grow with the number of those who wait.
    this.#isWakingDue = true;
    if (this.#isWaking) {
      return;
    }
    this.#isWaking = true;
    while (this.#isWakingDue) {
      this.#isWakingDue = false;
      // Who finds no room yet stays where it is in the queue.
      for (const wake of [...this.#waiting]) {
        wake();
      }
    }
    this.#isWaking = false;
  }

  /** False while somebody else waits longer: a large request must not starve behind small ones. */
  isNext(wake: () => void): boolean {
    for (const first of this.#waiting) {
      return first === wake;
    }
    return true;
  }

  /** Calls `wake` once, when bytes have been given back. */
  wait(wake: () => void): void {
    this.#waiting.add(wake);
    this.payloads.watch();
  }

  forget(wake: () => void): void {
    this.#waiting.delete(wake);
  }
}

export class ConnectionBudget {
  readonly #process: ProcessBudget;
  readonly #wake: () => void;
  #bytes = 0;
  #requests = 0;

  /** `wake` is called when a request that was refused may be tried again. */
  constructor(process: ProcessBudget, wake: () => void) {
    this.#process = process;
    this.#wake = wake;
  }

  get requests(): number {
    return this.#requests;
  }

  /** Takes a request of `bytes` on; false when it must wait for `wake`. */
  tryTake(bytes: number): boolean {
    if (this.#requests >= CONNECTION_INFLIGHT_REQUESTS_MAX) {
      return false;
    }
    if (this.#bytes + bytes > CONNECTION_INFLIGHT_BYTES_MAX) {
      return false;
    }
    if (this.#bytes + bytes > CONNECTION_INFLIGHT_BYTES_ASSURED) {
      if (!this.#process.hasRoom(bytes) || !this.#process.isNext(this.#wake)) {
        this.#process.wait(this.#wake);
        return false;
      }
      this.#process.forget(this.#wake);
    }
    this.#bytes += bytes;
    this.#requests += 1;
    this.#process.take(bytes);
    return true;
  }

  /** Gives back what `tryTake` took: `requests` requests of `bytes` together. */
  give(bytes: number, requests: number): void {
    this.#bytes -= bytes;
    this.#requests -= requests;
    this.#process.give(bytes);
    this.#wake();
  }

  close(): void {
    this.#process.forget(this.#wake);
  }
}
