/** Keeps apart what must not happen at the same time in one range: a writer and anybody else. */

interface Holder {
  readonly start: number;
  readonly end: number;
  readonly isWriter: boolean;
  readonly done: Promise<void>;
}

export class RangeLock {
  readonly #holders = new Set<Holder>();

  /** Runs `work` when everything that came before and is in its way has ended. First come, first served. */
  async run<T>(start: number, end: number, isWriter: boolean, work: () => Promise<T>): Promise<T> {
    const before = [...this.#holders]
      .filter((other) => other.start < end && start < other.end && (isWriter || other.isWriter))
      .map(({ done }) => done);
    let release = (): void => {};
    const done = new Promise<void>((resolve) => {
      release = resolve;
    });
    const holder: Holder = { start, end, isWriter, done };
    this.#holders.add(holder);
    try {
      await Promise.all(before);
      return await work();
    } finally {
      this.#holders.delete(holder);
      release();
    }
  }
}
