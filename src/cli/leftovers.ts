/** What a server has made in the file system and removes again, however it ends. */
import type { Logger } from '../log.ts';

export class Leftovers {
  readonly #log: Logger;
  readonly #removals = new Set<() => void>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Answers what removes it now instead of at the end. */
  add(remove: () => void): () => void {
    const removeOnce = (): void => {
      if (this.#removals.delete(removeOnce)) {
        this.#attempt(remove);
      }
    };
    this.#removals.add(removeOnce);
    return removeOnce;
  }

  removeAll(): void {
    for (const remove of this.#removals) {
      remove();
    }
  }

  #attempt(remove: () => void): void {
    try {
      remove();
    } catch (error) {
      // Its folder may be gone: no reason not to flush, which comes after this.
      this.#log.warn({ err: error }, 'A file of the server could not be removed');
    }
  }
}
