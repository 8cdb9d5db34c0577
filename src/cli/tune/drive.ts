/**
 * Writes to a handle as the server does: tries each without waiting, hands it over when that fails, and takes up
 * what is free in batches, between which the event loop turns.
 */
import { randomFillSync } from 'node:crypto';
import type { RecordableHistogram } from 'node:perf_hooks';
import type { Handle } from '../../plugins/plugin.ts';
import type { Workload } from './workload.ts';

export interface DriveOptions {
  readonly signal: AbortSignal;
  /** Takes nanoseconds, from the turn in which a request was free to go until its reply could leave. */
  readonly latencies: RecordableHistogram;
  /** Told of bytes that have been written. */
  readonly onWritten: (bytes: number) => void;
}

const NS_PER_MS = 1e6;

/** Rejects with the first failure, or the reason of `signal`, when nothing is in flight any more. */
export function driveWrites(handle: Handle, workload: Workload, options: DriveOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    new Driver(handle, workload, options, resolve, reject).turn();
  });
}

class Driver {
  readonly #handle: Handle;
  readonly #workload: Workload;
  readonly #options: DriveOptions;
  readonly #resolve: () => void;
  readonly #reject: (reason: unknown) => void;
  /** Noise: a file system that compresses must not look fast. One for all, since nobody writes to it. */
  readonly #buffer: Uint8Array;
  #next = 0;
  #busy = 0;
  #failure: { readonly reason: unknown } | undefined;
  #isScheduled = false;

  constructor(
    handle: Handle,
    workload: Workload,
    options: DriveOptions,
    resolve: () => void,
    reject: (reason: unknown) => void,
  ) {
    this.#handle = handle;
    this.#workload = workload;
    this.#options = options;
    this.#resolve = resolve;
    this.#reject = reject;
    this.#buffer = randomFillSync(new Uint8Array(workload.requestBytes));
  }

  /** Starts what is free to go at its begin; what is done in it goes again in the next one. */
  turn(): void {
    this.#isScheduled = false;
    const { count, depth } = this.#workload;
    const { signal } = this.#options;
    if (signal.aborted) {
      this.#failure ??= { reason: signal.reason };
    }
    const begin = performance.now();
    for (let free = depth - this.#busy; free > 0 && this.#next < count; free -= 1) {
      if (this.#failure !== undefined) {
        break;
      }
      this.#start(this.#workload.offsetOf(this.#next), begin);
      this.#next += 1;
    }
    this.#schedule();
  }

  #start(offset: number, begin: number): void {
    const length = this.#buffer.length;
    try {
      const now = this.#handle.writeNow?.(this.#buffer, 0, length, offset) ?? false;
      if (now === true) {
        this.#finish(begin);
        return;
      }
      const pending = now === false ? this.#handle.write(this.#buffer, 0, length, offset, false) : now;
      this.#busy += 1;
      void this.#settle(pending, begin);
    } catch (reason) {
      this.#failure ??= { reason };
    }
  }

  async #settle(pending: void | Promise<void>, begin: number): Promise<void> {
    try {
      await pending;
      this.#finish(begin);
    } catch (reason) {
      this.#failure ??= { reason };
    }
    this.#busy -= 1;
    this.#schedule();
  }

  #finish(begin: number): void {
    // The histogram takes nothing below 1.
    this.#options.latencies.record(Math.max(1, Math.round((performance.now() - begin) * NS_PER_MS)));
    this.#options.onWritten(this.#buffer.length);
  }

  /** The next turn, or the end. */
  #schedule(): void {
    const { count, depth } = this.#workload;
    const hasMore = this.#next < count && this.#failure === undefined;
    if (hasMore && this.#busy < depth && !this.#isScheduled) {
      this.#isScheduled = true;
      setImmediate(() => {
        this.turn();
      });
    } else if (!hasMore && this.#busy === 0 && !this.#isScheduled) {
      this.#end();
    }
  }

  #end(): void {
    if (this.#failure === undefined) {
      this.#resolve();
    } else {
      this.#reject(this.#failure.reason);
    }
  }
}
