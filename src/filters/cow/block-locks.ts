/**
 * One at a time for whoever brings a block into the overlay: it copies bytes of the base that are not its own, and
 * must not overwrite what another request has written there meanwhile. First come, first served.
 */
interface LockedRange {
  readonly first: number;
  readonly end: number;
  readonly released: Promise<void>;
}

export class BlockLocks {
  readonly #ranges = new Set<LockedRange>();

  /** Waits for the blocks from `first` to before `end`; the caller must call what it gets. */
  async acquire(first: number, end: number): Promise<() => void> {
    const earlier = [...this.#ranges].filter((range) => first < range.end && range.first < end);
    let resolve = (): void => {};
    const released = new Promise<void>((resolveReleased) => {
      resolve = resolveReleased;
    });
    const range = { first, end, released };
    this.#ranges.add(range);
    await Promise.all(earlier.map((each) => each.released));
    return () => {
      this.#ranges.delete(range);
      resolve();
    };
  }
}
