/**
 * How late the event loop is, while somebody looks: Node measures it with a timer, which would wake an idle
 * server fifty times a second for nobody.
 */
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks';
import type { LoopDelay } from './status.ts';

const RESOLUTION_MS = 20;

/** Longer than the usual pauses between two scrapes of Prometheus. */
const WATCH_MS = 150_000;

/** Who looks every second must not leave a last second only to who looks every 15. */
const PERIOD_MS = 15_000;

export class LoopDelayMonitor {
  #histogram: IntervalHistogram | undefined;
  #resetAt = 0;
  #timer: NodeJS.Timeout | undefined;

  /** The delays of the last period; null at first. Measuring goes on for some minutes without a call. */
  read(): LoopDelay | null {
    this.#timer?.refresh();
    this.#timer ??= setTimeout(() => this.stop(), WATCH_MS).unref();
    if (this.#histogram === undefined) {
      this.#histogram = monitorEventLoopDelay({ resolution: RESOLUTION_MS });
      this.#histogram.enable();
      this.#resetAt = performance.now();
      return null;
    }
    const histogram = this.#histogram;
    if (histogram.count === 0) {
      return null;
    }
    const delay = {
      p50: lateness(histogram.percentile(50)),
      p99: lateness(histogram.percentile(99)),
      max: lateness(histogram.max),
    };
    if (performance.now() - this.#resetAt >= PERIOD_MS) {
      histogram.reset();
      this.#resetAt = performance.now();
    }
    return delay;
  }

  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#histogram?.disable();
    this.#histogram = undefined;
  }
}

/** Seconds beyond the interval that Node asked for: it records how far apart two ticks were. */
function lateness(nanoseconds: number): number {
  return Math.max(0, nanoseconds / 1e9 - RESOLUTION_MS / 1000);
}
