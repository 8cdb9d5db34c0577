/**
 * Why a server ends: the first SIGTERM or SIGINT, or whatever else asks for it. A second signal means "at once".
 * It is handled here and not left to its default action, because a process with the id 1, as in a container, has
 * none (pid_namespaces(7)).
 */
import { constants } from 'node:os';

const SIGNALS = ['SIGTERM', 'SIGINT'] as const;

export type StopSignal = (typeof SIGNALS)[number];

export interface StopReason {
  readonly text: string;
  /** Set when it was a signal. */
  readonly signal?: StopSignal;
}

/** What shells say of a process that a signal has ended. */
export function exitStatusOf(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}

export class StopReasons implements Disposable {
  /** The first reason. */
  readonly requested: Promise<StopReason>;
  /** Aborted with the first reason. */
  readonly stopping: AbortSignal;
  /** The exit status of a second signal. */
  readonly insisted: Promise<number>;
  #request: (reason: StopReason) => void = () => {};
  #insist: (status: number) => void = () => {};
  #signalCount = 0;
  readonly #onSignal = (signal: StopSignal): void => {
    this.#signalCount += 1;
    this.#request({ text: signal, signal });
    if (this.#signalCount > 1) {
      this.#insist(exitStatusOf(signal));
    }
  };

  /** Takes the signals over until it is disposed of. */
  constructor() {
    this.requested = new Promise((resolve) => {
      this.#request = resolve;
    });
    this.insisted = new Promise((resolve) => {
      this.#insist = resolve;
    });
    const stopping = new AbortController();
    this.stopping = stopping.signal;
    void this.requested.then(() => stopping.abort());
    for (const signal of SIGNALS) {
      process.on(signal, this.#onSignal);
    }
  }

  /** A second signal has come. */
  get isInsisted(): boolean {
    return this.#signalCount > 1;
  }

  request(text: string): void {
    this.#request({ text });
  }

  [Symbol.dispose](): void {
    for (const signal of SIGNALS) {
      process.off(signal, this.#onSignal);
    }
  }
}
