/**
 * The handles of a file that are open in this thread. The last one to close leaves nothing in the page cache, or
 * has somebody else see to what becomes of the file.
 */
import { FileHandle } from './file-handle.ts';
import type { SharedFile } from './shared-file.ts';

export class HandleSet {
  readonly #file: SharedFile;
  readonly #onUnused: () => void | Promise<void>;
  readonly #handles = new Set<FileHandle>();

  /** `onUnused` is called in place of the drain that the last handle's close would wait for. */
  constructor(file: SharedFile, onUnused?: () => void) {
    this.#file = file;
    this.#onUnused = onUnused ?? (async () => file.eviction?.drain());
  }

  open(): FileHandle {
    const handle = new FileHandle(this.#file, (closed) => this.#forget(closed));
    this.#handles.add(handle);
    return handle;
  }

  async #forget(handle: FileHandle): Promise<void> {
    this.#handles.delete(handle);
    if (this.#handles.size === 0) {
      await this.#onUnused();
    }
  }
}
